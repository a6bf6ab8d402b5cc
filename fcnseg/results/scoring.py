"""Measure the result of a run; `summary` prints it."""

import math
from typing import Any

import numpy as np
import torch
from lightning import Trainer

from fcnseg.data.module import DataModule
from fcnseg.data.settings import as_one_number, spelled
from fcnseg.learning.formulas import calibration_error
from fcnseg.learning.image_metrics import UNIT
from fcnseg.learning.metrics import everywhere, iou_per_class, scores
from fcnseg.learning.task import SegmentationTask
from fcnseg.names import SCORES
from fcnseg.results.per_image import PerImage
from fcnseg.results.result import Measured


def _number(value: float) -> float | None:
    """A number for JSON, in which NaN is null."""
    return None if math.isnan(value) else value


def measure(trainer: Trainer, task: SegmentationTask, data: DataModule) -> Measured:
    """Test `task` with the weights that it has: its scores, the IoU of every class and the floor, all from the same masks."""
    trainer.test(task, data, verbose=False)
    matrices = task.metrics["test"].all_matrices().cpu()
    values, iou = dict.fromkeys(SCORES, math.nan), [math.nan] * len(data.classes)
    if task.was_finite("test"):
        exact = scores(matrices, data.classes.background)  # the scores that Lightning logs are rounded
        values = {name: value.item() for name, value in exact.items()}
        iou = iou_per_class(matrices[:, :-1].sum(0)).tolist()
    # At the images' own sizes there is no loss: the loss is computed at the size of the batch.
    values["loss"] = math.nan if task.details.original_masks else trainer.callback_metrics["test/loss"].item()
    floor = scores(everywhere(data.floor_class, matrices), data.classes.background)
    return {
        "metrics": {f"test/{name}": _number(value) for name, value in values.items()},
        "iou": {name: _number(value) for name, value in zip(data.classes.names, iou, strict=True)},
        "calibration": _calibration(task) if task.was_finite("test") else None,
        "confusion": matrices.sum(0).tolist(),  # (C + 1, C): truth, void last, by prediction
        "floor": {name: _number(value.item()) for name, value in floor.items()},
        "floor_class": data.classes.names[data.floor_class],
        "classes": data.classes.plain(),
        "split": data.only or data.split,
        "images": {stage: data.count(stage) for stage in data.stages},
        "size": "original" if task.details.original_masks else as_one_number(spelled(data.size)),
        "data_fingerprint": data.fingerprint,
        "parameters": sum(parameter.numel() for parameter in task.net.parameters()),
    }


def _calibration(task: SegmentationTask) -> dict[str, Any]:
    """The expected calibration error over the labelled pixels, and the sums of every bin that it was computed from."""
    pixels, confidence, right = torch.cat(task.details.calibration).sum(0).T.cpu().double()  # (B,) each
    confidence /= UNIT
    error = calibration_error(pixels, confidence, right).item()
    sums = {"pixels": pixels.long(), "confidence": confidence, "right": right.long()}
    return {"error": _number(error), **{name: values.tolist() for name, values in sums.items()}}


def per_image(task: SegmentationTask, data: DataModule) -> PerImage | None:
    """The findings of `measure`'s test in every image; None if its logits were not finite."""
    if not task.was_finite("test"):
        return None
    details, matrices = task.details, task.details.all_matrices().cpu()
    place = matrices.nonzero()  # (M, 3): the image, the truth and the prediction of every cell that is not 0
    cells = torch.cat([place, matrices[tuple(place.T)][:, None]], 1)  # (M, 4)
    pixels, confidence, right = torch.cat(details.calibration).cpu().unbind(-1)  # (N, B) each
    # (N, 2), (N, C, 3) and (N,)
    near, boundary, softmin = (torch.cat(parts).cpu() for parts in (details.near, details.boundary, details.softmin))
    counts = (values.int().numpy() for values in (cells, pixels, right, near, boundary))
    names = np.array(data.names("test"), dtype=np.str_)
    return PerImage(
        names,
        **dict(zip(("cells", "pixels", "right", "near", "boundary"), counts, strict=True)),
        confidence=(confidence.double() / UNIT).float().numpy(),
        softmin=softmin.numpy(),
    )
