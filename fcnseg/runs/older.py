"""What the runs of earlier versions of this package lack, or hold in another form; all other code knows only today's form."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fcnseg.data import TARGETS
from fcnseg.data.dataset import Classes
from fcnseg.data.voc import VOC

DATA_MODULE = "fcnseg.data.module.VOCDataModule"  # the name of the data module when VOC was the only data set


def with_todays_form(config: dict[str, Any]) -> dict[str, Any]:
    """A stored config, or a part of one, as this version would have stored it: only so are the two compared."""
    data = config.get("data")
    if isinstance(data, dict) and data.get("_target_") == DATA_MODULE:
        data["_target_"] = TARGETS[0]
    if config.get("aug") == {"_target_": "fcnseg.data.augment.none", "_partial_": True}:
        config["aug"] = {"_target_": "fcnseg.data.augment.Chain"}
    schedule = config.get("schedule")
    if isinstance(schedule, dict) and schedule.get("_target_") == "torch.optim.lr_scheduler.ConstantLR":
        schedule.setdefault("total_iters", 0 if schedule.get("factor") == 1 else 5)  # 5 is PyTorch's default
    return config


def classes_of(stored: Mapping[str, Any]) -> Classes:
    """The classes of a result or a checkpoint; VOC's if it has none, since earlier versions knew only these.

    Raises:
        ValueError: The classes are damaged.
    """
    return Classes.of(stored["classes"]) if "classes" in stored else VOC


def sessions_of(checkpoint: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The sessions in which a checkpoint was trained, which earlier versions called its parts."""
    found: list[dict[str, Any]] = checkpoint["sessions" if "sessions" in checkpoint else "parts"]
    return found


def check_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Refuse to resume a checkpoint without the log of its run, which earlier versions kept in another place.

    Raises:
        ValueError: It is one of an earlier version.
    """
    if "run_log" not in checkpoint:
        raise ValueError(f"{path} was saved by an earlier version of fcnseg: resume it with that, or give resume=never")
