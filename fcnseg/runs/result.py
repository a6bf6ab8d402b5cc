"""The result of a run: how it is measured, and how it is printed."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from rich.console import Console
from rich.table import Table

from fcnseg.data import spelled
from fcnseg.data.module import VOCDataModule
from fcnseg.details import UNIT
from fcnseg.metrics import PAPER_SCORES, SCORES, everywhere, iou_per_class, scores
from fcnseg.runs.per_image import PerImage
from fcnseg.task import SegmentationTask


def _number(value: float) -> float | None:
    """A number for JSON, in which NaN is null."""
    return None if math.isnan(value) else value


def measure(trainer: Trainer, task: SegmentationTask, data: VOCDataModule) -> dict[str, Any]:
    """Test `task` with the weights that it has: its scores, the IoU of every class and the floor, all from the same masks."""
    trainer.test(task, data, verbose=False)
    matrices = task.metrics["test"].all_matrices().cpu()
    found, iou = dict.fromkeys(SCORES, math.nan), [math.nan] * len(data.classes)
    if task.was_finite("test"):
        exact = scores(matrices, data.classes.background)  # those that Lightning logs are rounded
        found = {name: value.item() for name, value in exact.items()}
        iou = iou_per_class(matrices[:, :-1].sum(0)).tolist()
    # At the images' own sizes there is no loss: it is taken at the size of the batch.
    found["loss"] = math.nan if task.original_masks else trainer.callback_metrics["test/loss"].item()
    floor = scores(everywhere(data.floor_class, matrices), data.classes.background)
    return {
        "metrics": {f"test/{name}": _number(value) for name, value in found.items()},
        "iou": {name: _number(value) for name, value in zip(data.classes.names, iou, strict=True)},
        "calibration": _calibration(task) if task.was_finite("test") else None,
        "confusion": matrices.sum(0).tolist(),  # (C + 1, C): truth, void last, by prediction
        "floor": {name: _number(value.item()) for name, value in floor.items()},
        "floor_class": data.classes.names[data.floor_class],
        "classes": data.classes.plain(),
        "split": data.only or data.split,
        "images": {stage: data.count(stage) for stage in data.parts},
        "size": "original" if task.original_masks else spelled(data.size),
        "data_fingerprint": data.fingerprint,
        "parameters": sum(parameter.numel() for parameter in task.net.parameters()),
    }


def _calibration(task: SegmentationTask) -> dict[str, Any]:
    """The expected calibration error over the labelled pixels, and what it was computed from: the sums of every bin."""
    pixels, confidence, right = torch.cat(task.details.calibration).sum(0).T.cpu().double()
    confidence /= UNIT
    error = ((confidence - right).abs().sum() / pixels.sum()).item()
    sums = {"pixels": pixels.long(), "confidence": confidence, "right": right.long()}
    return {"error": _number(error), **{name: values.tolist() for name, values in sums.items()}}


def per_image(task: SegmentationTask, data: VOCDataModule) -> PerImage | None:
    """What the test that `measure` made found in every image; None if its logits were not finite."""
    if not task.was_finite("test"):
        return None
    found, matrices = task.details, task.details.all_matrices().cpu()
    place = matrices.nonzero()
    cells = torch.cat([place, matrices[tuple(place.T)][:, None]], 1)
    pixels, confidence, right = torch.cat(found.calibration).cpu().unbind(-1)
    near, boundary, softmin = (torch.cat(each).cpu() for each in (found.near, found.boundary, found.softmin))
    counts = (each.int().numpy() for each in (cells, pixels, right, near, boundary))
    names = np.array(data.names("test", data.parts["test"][1]), dtype=np.str_)
    return PerImage(
        names,
        **dict(zip(("cells", "pixels", "right", "near", "boundary"), counts, strict=True)),
        confidence=(confidence.double() / UNIT).float().numpy(),
        softmin=softmin.numpy(),
    )


def beats_floor(result: Mapping[str, Any]) -> bool:
    """Whether a result's mIoU is above the floor's; a run whose loss became NaN has none."""
    miou, floor = result["metrics"]["test/miou"], result["floor"]["miou"]
    return miou is not None and (floor is None or miou > floor)


def show(result: dict[str, Any], path: Path, console: Console) -> float | None:
    """Print a result: its scores beside the floor, the IoU of every class, and the run's folder; return the test mIoU."""
    size = "their own sizes" if result["size"] == "original" else f"{result['size']} px"
    title = f"{result['images']['test']} test images ({result['split']} split) at {size}"
    table = Table("", "this run", "the floor", title=title, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, words in SCORES.items():
        if name not in PAPER_SCORES or result["floor"][name] is not None:  # null without a background
            table.add_row(words, shown(result["metrics"][f"test/{name}"]), shown(result["floor"][name]))
    table.add_row("loss", shown(result["metrics"]["test/loss"]), "")
    console.print(table)
    if not beats_floor(result):
        console.print(
            f"This is not better than predicting {result.get('floor_class', 'background')} everywhere.", markup=False
        )
    # A class that is predicted but not in any truth has an IoU of 0, and is not present.
    pixels = [sum(row) for row in result["confusion"]]
    present = {
        name: iou
        for (name, iou), count in zip(result["iou"].items(), pixels, strict=False)
        if count and iou is not None
    }
    classes = Table(*["class", "IoU"] * 3, title="IoU of each class present", title_justify="left")
    cells = [cell for name, iou in present.items() for cell in (name, shown(iou))]
    for start in range(0, len(cells), 6):
        classes.add_row(*cells[start : start + 6])
    console.print(classes)
    if "best_epoch" in result:
        speed = f", {result['images_per_s']:.1f} images/s" if result["images_per_s"] else ""
        epochs = f"best epoch {result['best_epoch'] + 1} of {result['epochs']}"
        console.print(
            f"{epochs}, {result['seconds']:.1f} s{speed}, {result['parameters']:,} parameters", highlight=False
        )
    console.print(f"everything is in {path}", highlight=False, soft_wrap=True)
    miou: float | None = result["metrics"]["test/miou"]
    return miou


def shown(value: float | None, digits: int = 4) -> str:
    """A number in a table: with so many digits after the point, or - for none."""
    return "-" if value is None or math.isnan(value) else f"{value:,.{digits}f}"
