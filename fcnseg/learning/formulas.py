"""The formulas of scores, and their numbers, for arrays of NumPy and of PyTorch alike: the report needs no PyTorch."""

from typing import Any

NEAR = 0.02  # the share of an image's diagonal that is near: the width of boundaries
PAPER_BATCH = 16  # images in the batches that the paper averages over; a run's own batch size changes nothing


def iou(both: Any, truth: Any, predicted: Any) -> Any:
    """IoU from the pixels of a class in both, in the truth and in the prediction; NaN for a class in neither."""
    return both / (truth + predicted - both)


def calibration_error(pixels: Any, confidence: Any, right: Any) -> Any:
    """The expected calibration error: the mean distance between confidence and the share of right pixels; NaN without any.

    Args:
        pixels: (B,) the pixels in every bin of confidence.
        confidence: (B,) the sum of the confidence of these pixels.
        right: (B,) the number of these pixels that are right.
    """
    return abs(confidence - right).sum() / pixels.sum()
