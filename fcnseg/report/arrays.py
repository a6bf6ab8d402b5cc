"""Arrays of numbers in which NaN stands for no value: their means, and IoU from counts of pixels."""

from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]


def nanmean(values: Numbers, axis: int = -1) -> Numbers:
    """The mean over an axis of the values that are there; NaN where all are missing, without numpy's warning about it."""
    count = (~np.isnan(values)).sum(axis)
    return np.where(count > 0, np.nansum(values, axis) / np.maximum(1, count), np.nan)


def iou(counts: Numbers) -> Numbers:
    """IoU from pixels in both, in the truth, in the prediction: (3, ...) -> (...), NaN for a class in neither."""
    both, truth, predicted = counts
    union = truth + predicted - both
    return np.where(union > 0, both / np.maximum(union, 1), np.nan)
