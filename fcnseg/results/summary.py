"""The summary of a result that a command prints. It does not import PyTorch, so that the report does not wait for it."""

from collections.abc import Mapping
from itertools import chain
from math import isnan
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.table import Column, Table

from fcnseg.data.settings import SPLITS
from fcnseg.names import PAPER_SCORES, SCORES
from fcnseg.results.result import Measured, Result
from fcnseg.texts import counted


def beats_floor(result: Mapping[str, Any]) -> bool:
    """Whether a result's mIoU is above the floor's; a run whose loss became NaN has no mIoU."""
    miou, floor = result["metrics"]["test/miou"], result["floor"]["miou"]
    return miou is not None and (floor is None or miou > floor)


def show(result: Measured, path: Path, console: Console) -> float | None:
    """Print a result: its scores beside the floor, the IoU of every class, and the run's folder; return the test mIoU."""
    console.print(_scores(result))
    if not beats_floor(result):
        console.print(f"This is not better than predicting {result['floor_class']} everywhere.")
    console.print(_of_classes(result))
    if "best_epoch" in result:  # of a run, and not of a later test
        run = cast(Result, result)
        speed = f", {run['images_per_s']:.1f} images/s" if run["images_per_s"] else ""
        epochs = f"best epoch {run['best_epoch'] + 1} of {run['epochs']}"
        console.print(f"{epochs}, {run['seconds']:.1f} s{speed}, {run['parameters']:,} parameters")
    console.print(f"everything is in {path}", soft_wrap=True)
    return result["metrics"]["test/miou"]


def _scores(result: Measured) -> Table:
    """The scores beside the floor's."""
    size = "their own sizes" if result["size"] == "original" else f"{result['size']} px"
    split = result["split"]  # or the one image set that was tested on
    where = f"{split} split" if split in SPLITS else f"image set {split}"
    title = f"{counted(result['images']['test'], 'test image')} ({where}) at {size}"
    this_run, floor = Column("this run", justify="right"), Column("the floor", justify="right")
    table = Table("", this_run, floor, title=title, title_justify="left")
    for name, words in SCORES.items():
        if name not in PAPER_SCORES or result["floor"][name] is not None:  # null without a background
            table.add_row(words, as_text(result["metrics"][f"test/{name}"]), as_text(result["floor"][name]))
    table.add_row("loss", as_text(result["metrics"]["test/loss"]), "")
    return table


def _of_classes(result: Measured) -> Table:
    """The IoU of the classes that are in the truth, three in a row; one that is only predicted has an IoU of 0."""
    pixels = [sum(row) for row in result["confusion"]]
    table = Table(*["class", "IoU"] * 3, title="IoU of each class present", title_justify="left")
    present = [pair for pair, count in zip(result["iou"].items(), pixels, strict=False) if count and pair[1] is not None]
    for start in range(0, len(present), 3):
        table.add_row(*chain(*((name, as_text(iou)) for name, iou in present[start : start + 3])))
    return table


def as_text(value: float | None, digits: int = 4) -> str:
    """A number in a table, with `digits` digits after the point; - for None."""
    return "-" if value is None or isnan(value) else f"{value:,.{digits}f}"
