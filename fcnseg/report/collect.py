"""Find run folders and read them; of a damaged one, as much as can be read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any, TypeVar

from fcnseg import paper
from fcnseg.metrics import SCORES
from fcnseg.runs.folder import CONFIG, METRICS, RESULT, STATUS, Run
from fcnseg.runs.identity import without_watchers
from fcnseg.runs.settings import flatten

T = TypeVar("T")
Config = dict[str, Any]  # full names of settings, such as trainer.max_epochs, to their values
STAGES = ("train", "val", "test")
# What result.json must hold: values of a type, and tables of numbers with at least these rows.
NEEDED: dict[str, Any] = {
    **{"metrics": (), "floor": tuple(SCORES), "iou": (), "images": STAGES, "confusion": list},
    **dict.fromkeys(("size", "parameters", "best_epoch", "epochs", "seconds"), int | float),
    **dict.fromkeys(("split", "data_fingerprint"), str),
}


@dataclass(frozen=True)
class Entry:
    """What was read of one run's folder.

    Attributes:
        path: The folder, which may hold no run at all.
        state: "finished", "failed", "interrupted", "killed" or "running"; "broken" where the folder does not show which.
        config: The run's settings; empty if they cannot be read.
        rows: The rows of metrics.csv, one an epoch.
        result: The content of result.json; empty unless the state is "finished".
        remarks: What is wrong with the run, in sentences for the user.
    """

    path: Path
    state: str
    config: Config
    rows: Sequence[Mapping[str, float]]
    result: Mapping[str, Any]
    remarks: tuple[str, ...]

    def choice(self, group: str) -> str:
        """What was chosen from a group of the config, such as `model`; empty where that is not known."""
        return str(self.config.get(f"choices.{group}") or "")

    @property
    def published(self) -> paper.PublishedResult | None:
        """What the paper prints of this run's experiment; None if it is not one of the paper's."""
        return paper.EXPERIMENTS.get(self.choice("experiment"))


def read(path: Path) -> Entry:
    """All that can be read of the run in `path`; what cannot be read becomes a remark."""
    run = Run(path)
    remarks: list[str] = []

    def attempt(file: str, reading: Callable[[], T]) -> T | None:
        """What `reading` returns; None, and a remark, if it raises."""
        try:
            return reading()
        except Exception as error:  # a damaged file may raise anything, and the other runs are still to be reported
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            remarks.append(reason if str(path) in reason else f"{path / file} is damaged ({reason})")
            return None

    config = attempt(CONFIG, lambda: flatten(without_watchers(run.config))) or {}
    status = attempt(STATUS, lambda: run.status) or {}
    result = attempt(RESULT, lambda: run.result)
    lacking = [] if result is None else [key for key in NEEDED if not _is_whole(result.get(key), NEEDED[key])]
    if lacking:
        problem = f"{path / 'result.json'} is incomplete: it lacks all or part of {', '.join(lacking)}"
        remarks.append(f"{problem}; resume=never trains the run again")
    rows = attempt(METRICS, lambda: run.epochs) or []
    state = str(status.get("status", "broken")) if config else "broken"
    # A run may have been killed between its result and its last status.
    if state in ("finished", "running", "killed") and result and not lacking:
        return Entry(path, "finished", config, rows, result, tuple(remarks))
    if state == "finished":
        state, remarks = "broken", remarks or [f"no {path / 'result.json'}, though status.json says finished"]
    if "error" in status:
        remarks.append(str(status["error"]))
    return Entry(path, state, config, rows, {}, tuple(remarks))


def _is_whole(value: object, needed: Any) -> bool:
    """Whether a value is of a type, or a table of numbers with at least some rows; None stands for NaN."""
    if isinstance(needed, tuple) and isinstance(value, dict):
        return value.keys() >= set(needed) and all(isinstance(number, int | float | None) for number in value.values())
    return not isinstance(needed, tuple) and isinstance(value, needed)


def _inside(root: Path) -> list[Path]:
    """The folder itself if it is a run; otherwise the runs in it, and the folders in it that hold no run."""
    runs = sorted(path.parent.parent for path in root.rglob(CONFIG))
    # A folder without a run may be one whose config was lost; the user should see it. What holds runs is not such a folder.
    with_runs = {folder for run in runs for folder in (run, *run.parents)}
    empty = [path for path in root.iterdir() if path.is_dir() and path.name[0] != "." and path not in with_runs]
    return [root] if root in runs else sorted([*runs, *empty]) or [root]


def collect(pattern: str) -> list[Entry]:
    """What can be read of run folders, and of folders beside them that hold no run.

    Args:
        pattern: A run's folder, a folder of run folders, or a glob of either.

    Raises:
        ValueError: no folder matches, or none of the folders holds a run.
    """
    names = [pattern] if Path(pattern).is_dir() else sorted(glob(pattern))  # a folder's own name may have brackets
    roots = [Path(name) for name in names if Path(name).is_dir()]
    if not roots:
        raise ValueError(f"no folder {pattern}: wanted a folder of runs, one run, or a glob, as in runs=runs")
    entries = [read(path) for path in dict.fromkeys(path for root in roots for path in _inside(root))]
    if not any(entry.config for entry in entries):
        raise ValueError(f"no run in {pattern}: found no .hydra/config.yaml; train one with python -m fcnseg.train")
    return entries
