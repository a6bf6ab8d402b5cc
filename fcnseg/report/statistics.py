"""Statistics of arrays in which NaN stands for no value: means, IoU from counts of pixels, and bootstrap intervals."""

from collections.abc import Iterable, Sequence
from itertools import zip_longest

import numpy as np

from fcnseg.learning import formulas
from fcnseg.results.per_image import Numbers

DRAWS = 1000  # draws of the test images for the bootstrap


def nanmean(values: Numbers, axis: int = -1) -> Numbers:
    """The mean over an axis of the values that are there; NaN where all are missing, without numpy's warning about it."""
    count = (~np.isnan(values)).sum(axis)
    return np.where(count > 0, np.nansum(values, axis) / np.maximum(1, count), np.nan)


def with_mean(values: Numbers) -> Numbers:
    """The values (..., C) after the mean of those that are not NaN: (..., C + 1)."""
    return np.concatenate([nanmean(values)[..., None], values], -1)


def padded(columns: Iterable[Sequence[float] | Numbers]) -> Numbers:
    """An array (longest, columns) with a column for every list of numbers, and NaN below the shorter lists."""
    return np.array([*zip_longest(*columns, fillvalue=np.nan)])


def iou(counts: Numbers) -> Numbers:
    """IoU from pixels in both, in the truth, in the prediction: (3, ...) -> (...), NaN for a class in neither."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.asarray(formulas.iou(*counts))
    return np.where((found >= 0) & (found < np.inf), found, np.nan)  # counts of somebody else's may contradict each other


def iou_differences(one: Numbers, other: Numbers) -> Numbers:
    """The differences in IoU between two runs on the same images, with 95 % intervals of a bootstrap over the images.

    Both runs get the same draws: an image that is hard for both makes no difference.

    Args:
        one: (3, images, C) pixels of one run, in the order of `iou`.
        other: The same of the run from which `one` is subtracted.

    Returns:
        (C + 1, 3), for the mean of the classes and for every class the difference and the ends of its interval; NaN for an
        absent class.
    """
    images = one.shape[1]
    draws = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), DRAWS)  # how often each is drawn
    weights = np.concatenate([np.ones((1, images)), draws])  # (DRAWS + 1, images): first, all of them once
    first, second = (with_mean(iou(weights @ counts)) for counts in (one, other))  # (3, images, C) -> (DRAWS + 1, C + 1)
    of_all, of_draws = np.split(second - first, [1])  # (1, C + 1), (DRAWS, C + 1)
    there = ~np.isnan(of_all[0])  # a class without images is in no draw
    ends = np.full((2, len(there)), np.nan)
    ends[:, there] = np.nanpercentile(of_draws[:, there], (2.5, 97.5), axis=0)
    return np.concatenate([of_all, ends]).T
