"""What the runs of earlier versions of this package lack, or hold in another form, read in the form of today."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fcnseg.data.dataset import Classes
from fcnseg.data.voc import VOC

RENAMED = {  # how the name of a class or a function began, and how it begins today
    "fcnseg.data.module.VOCDataModule": "fcnseg.data.module.DataModule",
    "fcnseg.losses.": "fcnseg.learning.losses.",
    "fcnseg.schedules.": "fcnseg.learning.schedules.",
}


def with_todays_form(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored config as this version would have stored it: only so are the two compared, and is it rebuilt."""
    config: dict[str, Any] = _renamed(stored)
    if config.get("aug") == {"_target_": "fcnseg.data.augment.none", "_partial_": True}:
        config["aug"] = {"_target_": "fcnseg.data.augment.Chain"}
    schedule = config.get("schedule")
    if isinstance(schedule, dict) and schedule.get("_target_") == "torch.optim.lr_scheduler.ConstantLR":
        schedule.setdefault("total_iters", 0 if schedule.get("factor") == 1 else 5)  # 5 is PyTorch's default
    return config


def with_first_names(text: str) -> str:
    """A text with the names that classes and functions had first, so that what is hashed from it stays the same."""
    for first, today in RENAMED.items():
        text = text.replace(today, first)
    return text


def _renamed(node: Any) -> Any:
    """A copy of a config, or of a value in it, with today's names."""
    if isinstance(node, Mapping):
        return {key: _renamed(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_renamed(value) for value in node]
    old = next((old for old in RENAMED if str(node).startswith(old)), None)
    return RENAMED[old] + str(node).removeprefix(old) if old else node


def result(stored: dict[str, Any]) -> dict[str, Any]:
    """The content of a result.json: earlier versions knew only VOC's classes, whose floor is background."""
    return {"floor_class": VOC.names[0], "classes": VOC.plain(), **stored}


def classes_of(stored: Mapping[str, Any], path: Path) -> Classes:
    """The classes of the checkpoint `path`; VOC's if it has none, since earlier versions knew only these.

    Raises:
        ValueError: The classes are damaged.
    """
    try:
        return Classes.of(stored["classes"]) if "classes" in stored else VOC
    except ValueError as error:
        raise ValueError(f"{path}: {error}; restore this file") from error


def sessions_of(checkpoint: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The sessions in which a checkpoint was trained, which earlier versions called its parts."""
    found: list[dict[str, Any]] = checkpoint["sessions" if "sessions" in checkpoint else "parts"]
    return found


def check_resumable(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Refuse to resume a checkpoint without the log of its run, which earlier versions kept in another place.

    Raises:
        ValueError: It is one of an earlier version.
    """
    if "run_log" not in checkpoint:
        raise ValueError(f"{path} was saved by an earlier version of fcnseg: resume it with that, or give resume=never")
