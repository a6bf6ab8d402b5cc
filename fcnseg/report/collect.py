"""Find run folders and read whatever is in them, broken ones included."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any, TypeVar

from fcnseg.runs.folder import Run

T = TypeVar("T")
Config = dict[str, Any]  # full names of settings, such as trainer.max_epochs, to their values
SCORES = ("miou", "pixel_acc", "mean_acc", "paper_iou", "paper_acc")
# What a result must have to be reported: tables of numbers and what must be in them, numbers, and texts.
TABLES: dict[str, tuple[str, ...]] = {"metrics": (), "floor": SCORES, "iou": (), "images": ("train", "val", "test")}
NUMBERS = ("size", "parameters", "best_epoch", "epochs", "seconds")
TEXTS = ("split", "data_fingerprint")


@dataclass(frozen=True)
class Entry:
    """A run as it was found.

    Attributes:
        path: Its folder.
        state: "finished", "failed", "interrupted", "running", or "broken" if the folder does not tell.
        config: Its settings; empty if they cannot be read.
        rows: Of metrics.csv, one an epoch.
        result: What result.json says; empty unless the state is "finished".
        remarks: What is wrong with it, in words.
    """

    path: Path
    state: str
    config: Config
    rows: Sequence[Mapping[str, float]]
    result: Mapping[str, Any]
    remarks: tuple[str, ...]


def flat(cfg: Mapping[Any, Any], prefix: str = "") -> Config:
    """A nested config as one level of full names."""
    settings: Config = {}
    for key, value in cfg.items():
        if isinstance(value, Mapping):
            settings.update(flat(value, f"{prefix}{key}."))
        else:
            settings[f"{prefix}{key}"] = (
                list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
            )
    return settings


def find(pattern: str) -> list[Path]:
    """The run folders that `pattern` names, a run's own folder, a folder of them or a glob; and folders that hold none.

    Raises:
        ValueError: nothing of that name.
    """
    roots = [Path(name) for name in sorted(glob(pattern)) if Path(name).is_dir()]
    if not roots:
        raise ValueError(f"no folder {pattern}: wanted a folder of runs, one run, or a glob, as in runs=runs")
    return list(dict.fromkeys(path for root in roots for path in _inside(root)))


def _inside(root: Path) -> Iterator[Path]:
    runs = sorted(path.parent.parent for path in root.rglob(".hydra/config.yaml"))
    empty = [
        child
        for child in root.iterdir()
        if child.is_dir() and child.name[0] != "." and not any(child in (run, *run.parents) for run in runs)
    ]
    if root in runs:
        yield root
    elif runs or empty:
        yield from sorted([*runs, *empty])
    else:
        yield root


def read(path: Path) -> Entry:
    """All that can be read of the run in `path`; what cannot becomes a remark."""
    run = Run(path)
    remarks: list[str] = []

    def attempt(file: str, reading: Callable[[], T]) -> T | None:
        try:
            return reading()
        except Exception as error:  # whatever a damaged file leads to: the other runs are still to be reported
            told = next(iter(str(error).splitlines()), type(error).__name__)
            remarks.append(told if str(path) in told else f"{path / file} is damaged ({told})")
            return None

    config = attempt(".hydra/config.yaml", lambda: flat(run.config)) or {}
    status = attempt("status.json", lambda: run.status) or {}
    result = attempt("result.json", lambda: _complete(run.result, path)) or {}
    rows = attempt("metrics.csv", lambda: _rows(path / "metrics.csv")) or []
    state = str(status.get("status", "broken")) if config else "broken"
    if state in ("finished", "running") and result:  # killed between its result and its last word
        return Entry(path, "finished", config, rows, result, tuple(remarks))
    if state == "finished":
        state, remarks = "broken", remarks or [f"no {path / 'result.json'}, though status.json says finished"]
    if "error" in status:
        remarks.append(str(status["error"]))
    return Entry(path, state, config, rows, {}, tuple(remarks))


def _complete(result: dict[str, Any] | None, path: Path) -> dict[str, Any]:
    if result is None:
        return {}
    good = {
        **{key: _is_table(result.get(key), names) for key, names in TABLES.items()},
        **{key: isinstance(result.get(key), int | float) for key in NUMBERS},
        **{key: isinstance(result.get(key), str) for key in TEXTS},
    }
    if lacking := [key for key in good if not good[key]]:
        told = f"{path / 'result.json'} is incomplete: it lacks all or part of {', '.join(lacking)}"
        raise ValueError(f"{told}; resume=never trains the run again")
    return result


def _is_table(value: object, names: Sequence[str]) -> bool:
    """Whether it maps `names`, and whatever else, to numbers; None is NaN."""
    if not isinstance(value, Mapping):
        return False
    return value.keys() >= set(names) and all(isinstance(number, int | float | None) for number in value.values())


def _rows(path: Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: float(text) for key, text in row.items()} for row in csv.DictReader(file)]


def collect(pattern: str) -> list[Entry]:
    """Every run that `pattern` names; see `find`.

    Raises:
        ValueError: there is none.
    """
    entries = [read(path) for path in find(pattern)]
    if not any(entry.config for entry in entries):
        raise ValueError(f"no run in {pattern}: found no .hydra/config.yaml; train one with python -m fcnseg.train")
    return entries
