"""Measures of the test on every image besides its confusion matrix: confidence, and boundaries."""

from collections.abc import Callable, Iterable
from math import hypot

import torch
from torch import Tensor
from torch.nn import functional as F

from fcnseg.data.batch import Batch
from fcnseg.data.dataset import Classes
from fcnseg.learning.formulas import NEAR
from fcnseg.learning.metrics import SegmentationMetrics
from fcnseg.models import enlarge

BINS = 15  # the number of bins of confidence, which is from 0 to 1
UNIT = 1 << 20  # confidence is summed up in whole parts of this size: integers have the same sum in any order
TEMPERATURE = 0.1  # the temperature of the soft minimum, cleanlab's default


def calibration(logits: Tensor, mask: Tensor) -> Tensor:
    """How often the network is right, by how sure it is: the sums of every bin of confidence over the labelled pixels.

    Shape:
        logits (N, C, H, W), mask (N, H, W) -> (N, BINS, 3) int64: pixels, confidence in parts of 1 / UNIT, pixels that are
        right. A confidence that is NaN counts as 0.
    """
    confidence, prediction = logits.float().softmax(1).nan_to_num(0).max(1)
    number = (confidence * BINS).long().clamp_max(BINS - 1)
    labelled = mask < logits.shape[1]
    # (N, H, W, 3)
    facts = torch.stack([labelled.long(), (confidence * UNIT).round().long(), (prediction == mask).long()], -1)
    facts = (facts * labelled[..., None]).flatten(1, 2)  # (N, H*W, 3)
    place = number.flatten(1)[..., None].expand_as(facts)  # (N, H*W, 3)
    return facts.new_zeros(len(mask), BINS, 3).scatter_add_(1, place, facts)


def softmin(logits: Tensor, mask: Tensor) -> Tensor:
    """The soft minimum, over an image's labelled pixels, of the probability of the label that the mask gives.

    It is cleanlab's score of a mask: the lower it is, the more the mask deserves a second look.

    Shape:
        logits (N, C, H, W), mask (N, H, W) -> (N,) float32, NaN where no pixel is labelled.
    """
    label = mask.clamp_max(logits.shape[1] - 1).long()[:, None]  # (N, 1, H, W)
    probability = logits.float().log_softmax(1).gather(1, label).exp()[:, 0]  # (N, H, W)
    weight = (-probability / TEMPERATURE).exp() * (mask < logits.shape[1])
    return (weight * probability).sum((1, 2)) / weight.sum((1, 2))


def boundaries(prediction: Tensor, mask: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Counts of labelled pixels near a true boundary, and the counts for boundary IoU.

    A pixel is near a boundary if a pixel with another label is within 2 % of the diagonal, horizontally and vertically.
    Void is a label here: VOC draws it around objects. Unlike in the paper on boundary IoU, the image's edge is no boundary.

    Shape:
        prediction and mask (N, H, W) -> (N, 2) int64: pixels near a true boundary, and the wrong ones among them;
        (N, C, 3) int64: pixels of a class near its boundary in both, in the truth, in the prediction.
    """
    reach = max(1, round(NEAR * hypot(*mask.shape[1:])))
    labelled, right = mask < num_classes, prediction == mask
    truth, guess = _near_others(mask, reach) & labelled, _near_others(prediction, reach) & labelled
    near = torch.stack([truth, truth & ~right], 1).flatten(2).sum(2)  # (N, 2)
    label, predicted = mask.clamp_max(num_classes - 1).long(), prediction.long()
    pairs = ((label, truth & guess & right), (label, truth), (predicted, guess))
    sums = [
        near.new_zeros(len(mask), num_classes).scatter_add_(1, classes.flatten(1), chosen.flatten(1).long())
        for classes, chosen in pairs
    ]  # three of (N, C)
    return near, torch.stack(sums, -1)  # (N, 2) and (N, C, 3)


def _near_others(labels: Tensor, reach: int) -> Tensor:
    """Whether the square around each pixel, 2 * reach + 1 wide, has more than one label in it."""
    values, width = labels[:, None].float(), 2 * reach + 1  # (N, 1, H, W)

    def highest(values: Tensor) -> Tensor:
        # A row and then a column: the maximum of a square in 26 comparisons a pixel instead of 169.
        rows = F.max_pool2d(values, (1, width), stride=1, padding=(0, reach))
        return F.max_pool2d(rows, (width, 1), stride=1, padding=(reach, 0))

    return (highest(values) != -highest(-values))[:, 0]  # (N, H, W)


class DetailedMetrics(SegmentationMetrics):
    """The scores of the test, and the details of its images, one entry an image in the order in which they came.

    Attributes:
        calibration: For each batch, (N, BINS, 3): see `calibration`.
        softmin: For each batch, (N,): see `softmin`.
        near: For each batch, (N, 2): see `boundaries`.
        boundary: For each batch, (N, C, 3): see `boundaries`.
        original_masks: A function that gives samples' masks (1, H, W) at their images' own sizes, at which these are then
            scored; None: they are scored at the size of the batch.
    """

    calibration: list[Tensor]
    softmin: list[Tensor]
    near: list[Tensor]
    boundary: list[Tensor]

    def __init__(self, classes: Classes) -> None:
        super().__init__(classes)
        for name in ("calibration", "softmin", "near", "boundary"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self.original_masks: Callable[[Tensor], Iterable[Tensor]] | None = None

    def update(self, prediction: Tensor, mask: Tensor) -> None:
        """Add a batch: prediction (N, H, W) labels, mask (N, H, W) labels with 255 for void."""
        super().update(prediction, mask)
        near, boundary = boundaries(prediction, mask, len(self.classes))
        self.near.append(near)
        self.boundary.append(boundary)

    def add(self, logits: Tensor, prediction: Tensor, batch: Batch) -> None:
        """Add all that is scored of a batch: its certainty, at the batch's size; its labels, there or at the images' own."""
        self.calibration.append(calibration(logits, batch.mask))
        self.softmin.append(softmin(logits, batch.mask))
        if self.original_masks is None:
            super().add(logits, prediction, batch)
        else:
            for image_logits, mask in zip(logits.cpu(), self.original_masks(batch.sample), strict=True):
                self.update(enlarge.labels(image_logits, *mask.shape[-2:])[None], mask)
