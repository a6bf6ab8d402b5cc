"""Find run folders and read them; a damaged folder is read as far as possible."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from glob import glob
from math import nan
from pathlib import Path, PurePath
from typing import Any, TypeVar, cast

import numpy as np

from fcnseg.data.dataset import Classes
from fcnseg.data.settings import as_one_number, spelled
from fcnseg.names import CONFIG, FAILED, FINISHED, INTERRUPTED, KILLED, METRICS, PER_IMAGE, RESULT, RUNNING, SCORES, STATUS
from fcnseg.results import paper
from fcnseg.results.per_image import PerImage
from fcnseg.runs.folder import Run
from fcnseg.runs.identity import without_watchers
from fcnseg.settings.table import flatten

T = TypeVar("T")
Config = dict[str, Any]  # full names of settings, such as trainer.max_epochs, to their values
SIZES = ("data.size", "data.pack_size")
STAGES = ("train", "val", "test")
STATUSES = (FINISHED, RUNNING, INTERRUPTED, KILLED, FAILED, "broken")
LONGEST = 1000  # characters of a text that is shown


def line(value: object, longest: int = LONGEST) -> str:
    """A value from a run's folder as one line of printable text, of at most `longest` characters."""
    text = " ".join("".join(each if each.isprintable() else " " for each in str(value)).split())
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


Check = Callable[[object], bool]  # whether the report can rely on a value from a run's folder


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value == line(value) and len(value) <= 100


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 53


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e12  # neither infinite nor NaN


def _is_size(value: object) -> bool:
    return _is_count(value) or bool(isinstance(value, str) and re.fullmatch(r"\d{1,5}x\d{1,5}", value))


def _or_none(check: Check) -> Check:
    """Whether a value is right, or None, which stands for NaN or for a value that an earlier version did not measure."""
    return lambda value: value is None or check(value)


def _list_of(check: Check, length: int) -> Check:
    """Whether a value is a list of right values, of this length."""
    return lambda value: isinstance(value, list) and length == len(value) and all(map(check, value))


def _table_of(check: Check, names: Iterable[str]) -> Check:
    """Whether a value is a table of right values that has these names."""
    return lambda value: isinstance(value, dict) and value.keys() >= set(names) and all(map(check, value.values()))


def _needed(names: Sequence[str]) -> dict[str, Check]:
    """The checks of the values that result.json must hold, for classes of these names."""
    return {
        "metrics": _table_of(_or_none(_is_finite), [f"test/{name}" for name in ("loss", *SCORES)]),
        "floor": _table_of(_or_none(_is_finite), SCORES),
        "iou": _table_of(_or_none(_is_finite), names),
        "images": _table_of(_is_count, STAGES),
        "confusion": _list_of(_list_of(_is_count, len(names)), len(names) + 1),  # truth, void last, by prediction
        **dict.fromkeys(("parameters", "best_epoch", "epochs"), _is_count),
        **{"size": _is_size, "seconds": _is_finite, "split": _is_text, "data_fingerprint": _is_text},
    }


def _checked_classes(result: Mapping[str, Any]) -> Classes | None:
    """The classes of a result, whose names can be shown; None if they are damaged."""
    with suppress(ValueError):
        classes = Classes.of(result.get("classes"))
        return classes if all(map(_is_text, classes.names)) else None
    return None


# The optional values of result.json, by their full names; the report reads only these and the required ones.
OPTIONAL: dict[str, Check] = {
    **dict.fromkeys(("images_per_s", "predicted_per_s", "giga_macs", "peak_memory", "calibration.error"), _or_none(_is_finite)),
    **dict.fromkeys(("commit", "hardware", "precision", "floor_class", "versions.torch"), _or_none(_is_text)),
    "dirty": lambda value: value in (None, False, True),
}


@dataclass(frozen=True)
class Entry:
    """The content of one run's folder, as far as it could be read.

    Attributes:
        path: The folder, which may hold no run.
        status: One of `STATUSES`; "broken" if the folder does not show any other.
        config: The run's settings; empty if they cannot be read.
        rows: The rows of metrics.csv, one an epoch.
        result: The content of result.json; empty unless the status is "finished".
        remarks: The problems of the run, in sentences for the user.
        per_image: The findings of a finished run's test in every image; None if images.npz is missing or damaged.
    """

    path: Path
    status: str
    config: Config
    rows: Sequence[Mapping[str, float]]
    result: Mapping[str, Any]
    remarks: tuple[str, ...]
    per_image: PerImage | None = None

    @property
    def name(self) -> str:
        """The name of the folder, as text to show."""
        return line(self.path.name)

    def choice(self, group: str) -> str:
        """The choice from a group of the config, such as `model`; empty if it is unknown."""
        return str(self.config.get(f"choices.{group}") or "")

    @property
    def data_set(self) -> str:
        """The choice of data, and the name of its folder unless that says nothing more, such as "folder streets"."""
        choice, name = self.choice("data"), PurePath(str(self.config.get("data.root") or "")).name
        known = ("", "..") if choice == "folder" else ("", "..", "data", "voc", choice)
        # Images that are generated are the same ones in every folder.
        return choice if choice == "shapes" or name.lower() in known else f"{choice} {line(name, 60)}"

    @property
    def classes(self) -> Classes:
        """The classes of a finished run."""
        return cast(Classes, self.result["classes"])

    @property
    def floor_class(self) -> str:
        """The one class that the floor of a finished run predicts everywhere."""
        return str(self.result.get("floor_class", "background"))

    @property
    def published(self) -> paper.PublishedResult | None:
        """The paper's result for this run's experiment; None if the paper has no such experiment."""
        return paper.EXPERIMENTS.get(self.choice("experiment"))


def read(path: Path) -> Entry:
    """Read as much as possible of the run in `path`; every part that cannot be read becomes a remark.

    A run folder may be damaged or hostile. Everything that this function returns has been checked: types, sizes, printable
    text. The rest of the report relies on it.
    """
    run = Run(path)
    remarks: list[str] = []

    def attempt(file: str, reading: Callable[[], T]) -> T | None:
        """The value of `reading()`; if it raises, add a remark and return None."""
        try:
            return reading()
        except Exception as error:  # a damaged file may raise any error, and the other runs must still be reported
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            remarks.append(line(reason if str(path) in reason else f"{path / file} is damaged ({reason})"))
            return None

    config = attempt(CONFIG, lambda: _checked_config(flatten(without_watchers(run.config)))) or {}
    reported = attempt(STATUS, lambda: run.status) or {}
    result = attempt(RESULT, lambda: _checked_result(run.result, path / RESULT)) or {}
    rows = attempt(METRICS, lambda: [_checked_row(row) for row in run.epochs]) or []
    status = str(reported.get("status"))
    if status == FINISHED and not (result or remarks):
        remarks.append(line(f"no {path / RESULT}, though status.json says finished"))
    if not config or status not in STATUSES or (status == FINISHED and not result):
        status = "broken"
    if status == FINISHED:
        per_image = attempt(PER_IMAGE, lambda: _checked_per_image(run.per_image, result))
        return Entry(path, status, config, rows, result, tuple(remarks), per_image)
    if "error" in reported:
        remarks.append(line(reported["error"]))
    return Entry(path, status, config, rows, {}, tuple(remarks))


def _checked_config(config: Config) -> Config:
    """A flat config whose texts can be shown, whose settings have the types that the report expects, and its sizes as results.

    Raises:
        ValueError: A setting has another type.
    """
    rules = {"seed": _is_count, "patience": _or_none(_is_finite), "model.backbone": _or_none(_is_text)}
    for key, value in config.items():
        is_right = _or_none(_is_text) if key.startswith("choices.") else rules.get(key, lambda _: True)
        if not is_right(value):
            raise ValueError(f"{key} is {value}")
    sizes = {key: as_one_number(spelled(config[key])) for key in SIZES if isinstance(config.get(key), list)}
    return {line(key): _shown(value) for key, value in {**config, **sizes}.items()}


def _checked_result(result: dict[str, Any] | None, path: Path) -> dict[str, Any] | None:
    """The values of a result.json that the report reads, the optional ones by their full names; None without the file.

    Raises:
        ValueError: A value that the report needs is missing or wrong.
    """
    if result is None:
        return None
    classes = _checked_classes(result)
    needed = _needed(classes.names) if classes else {"classes": lambda _: False}
    if wrong := [key for key, is_right in needed.items() if not is_right(result.get(key))]:
        raise ValueError(f"{path} is incomplete: it lacks all or part of {', '.join(wrong)}; resume=never trains the run again")
    known, flat = {key: result[key] for key in needed}, flatten(result)
    known |= {key: flat[key] for key, is_right in OPTIONAL.items() if key in flat and is_right(flat[key])}
    return {**known, "classes": classes, "size": as_one_number(result["size"])}


def _checked_per_image(per_image: PerImage | None, result: Mapping[str, Any]) -> PerImage | None:
    """The content of images.npz, with names that can be shown.

    Raises:
        ValueError: Its images or classes differ from those of the result.
    """
    if per_image is None:
        return None
    sizes, wanted = per_image.boundary.shape[:2], (result["images"]["test"], len(result["classes"]))
    if sizes != wanted:
        raise ValueError(f"it is of {sizes[0]} images of {sizes[1]} classes, and the result of {wanted[0]} of {wanted[1]}")
    return replace(per_image, names=np.array([line(name, 100) for name in per_image.names], dtype=np.str_))


def _shown(value: Any) -> Any:
    if isinstance(value, list | dict):
        return [_shown(each) for each in value]
    text = line(value)  # a number of thousands of digits raises here, within the fence
    return text if isinstance(value, str) else value


def _checked_row(row: Mapping[str, float]) -> dict[str, float]:
    """A row of the log, with NaN for values that are too large to draw."""
    return {name: value if _is_finite(value) else nan for name, value in row.items()}


def _inside(root: Path) -> list[Path]:
    """The folder itself if it is a run; otherwise the runs in it, and the folders in it that hold no run."""
    runs = sorted(path.parent.parent for path in root.rglob(CONFIG))
    # A folder without a run may have lost its config, and the user should see it. A folder of runs is not such a folder.
    with_runs = {folder for run in runs for folder in (run, *run.parents)}
    empty = [path for path in root.iterdir() if path.is_dir() and path.name[0] != "." and path not in with_runs]
    return [root] if root in runs else sorted([*runs, *empty]) or [root]


def collect(pattern: str) -> list[Entry]:
    """Read run folders, and the folders beside them that hold no run, as far as possible.

    Args:
        pattern: A run's folder, a folder of run folders, or a glob of either.

    Raises:
        ValueError: No folder matches, or no folder holds a run.
    """
    names = [pattern] if Path(pattern).is_dir() else sorted(glob(pattern))  # a folder's own name may have brackets
    roots = [Path(name) for name in names if Path(name).is_dir()]
    if not roots:
        raise ValueError(f"no folder {pattern}: wanted a folder of runs, one run, or a glob, as in runs=runs")
    entries = [read(path) for path in dict.fromkeys(path for root in roots for path in _inside(root))]
    if not any(entry.config for entry in entries):
        raise ValueError(f"no run in {pattern}: found no {CONFIG}; train one with python -m fcnseg.train")
    return entries
