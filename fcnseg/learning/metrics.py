"""Scores from confusion matrices: VOC's over the whole set, and the paper's over batches, beside the floor of both."""

from math import nan
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassJaccardIndex

from fcnseg.data.batch import Batch
from fcnseg.data.dataset import Classes
from fcnseg.learning.formulas import PAPER_BATCH, iou
from fcnseg.names import PAPER_SCORES


def confusion(prediction: Tensor, mask: Tensor, num_classes: int) -> Tensor:
    """One confusion matrix an image. It does not wait for a GPU; `torch.bincount` would.

    Shape:
        prediction (N, H, W) integer, 0..C-1; mask (N, H, W) uint8, 0..C-1 or 255
        -> (N, C + 1, C) int64: pixels by truth (void is the last row) and prediction.
    """
    n, rows = len(mask), num_classes + 1
    narrow = torch.short if rows * num_classes <= 1 << 15 else torch.int  # enough for the number of a cell
    truth = mask.clamp_max(num_classes).to(narrow)  # void becomes row C
    cell = (truth * num_classes + prediction.to(narrow)).flatten(1).long()  # (N, H*W)
    matrices = torch.zeros(n, rows * num_classes, dtype=torch.long, device=mask.device)
    one = torch.ones((), dtype=torch.long, device=mask.device)
    return matrices.scatter_add_(1, cell, one.expand_as(cell)).view(n, rows, num_classes)


def iou_per_class(matrix: Tensor) -> Tensor:
    """IoU of every class from matrices of (..., C, C): (..., C) on the CPU, NaN for a class in neither truth nor prediction."""
    matrix = matrix.cpu().double()
    both = matrix.diagonal(dim1=-2, dim2=-1)
    return iou(both, matrix.sum(-1), matrix.sum(-2))  # type: ignore[no-any-return]


def accuracy(matrix: Tensor) -> Tensor:
    """Share of pixels that are right, from matrices of (..., C, C): (...) on the CPU."""
    matrix = matrix.cpu().double()
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1) / matrix.sum((-2, -1))


class PooledJaccardIndex(MulticlassJaccardIndex):
    """torchmetrics' mean IoU, whose state is fed with confusion matrices instead of predictions.

    Its own update takes ten times as long as making a matrix an image, and keeps no image's matrix for the other scores.
    """

    def update(self, matrices: Tensor) -> None:  # type: ignore[override]
        """Add the matrices (N, C, C) of N images: pixels by truth and prediction."""
        self.confmat += matrices.sum(0)


def scores(matrices: Tensor, background: int | None) -> dict[str, Tensor]:
    """All scores from the matrices of a set's images, in the set's order.

    `miou`, `pixel_acc` and `mean_acc` (mean recall of the classes present) pool the whole set and ignore void: VOC's rule.
    `paper_iou` and `paper_acc` are the paper's: means over batches of 16, void counted as background, NaN without one.

    Shape:
        matrices (N, C + 1, C) -> a float64 scalar each, on the CPU; NaN where no pixel is labelled.
    """
    matrices = matrices.cpu()
    labelled = matrices[:, :-1].sum(0)
    recall = labelled.diagonal() / labelled.sum(1).double()
    found = {"miou": iou_per_class(labelled).nanmean(), "pixel_acc": accuracy(labelled), "mean_acc": recall.nanmean()}
    if background is None:
        return found | dict.fromkeys(PAPER_SCORES, torch.tensor(nan, dtype=torch.float64))
    batches = torch.stack([part.sum(0) for part in matrices.split(PAPER_BATCH)])  # (ceil(N / 16), C + 1, C)
    batches[:, background] += batches[:, -1]
    batches = batches[:, :-1]
    return found | {"paper_iou": iou_per_class(batches).nanmean(-1).mean(), "paper_acc": accuracy(batches).mean()}


def everywhere(label: int, matrices: Tensor) -> Tensor:
    """The matrices (N, C + 1, C) that predicting one class everywhere would have given: the floor."""
    floor = torch.zeros_like(matrices)
    floor[..., label] = matrices.sum(-1)
    return floor


class SegmentationMetrics(Metric):
    """Confusion matrices of the images of one stage, and the scores from them.

    Args:
        classes: The classes of the masks.
    """

    full_state_update = False
    matrices: list[Tensor]

    def __init__(self, classes: Classes) -> None:
        super().__init__(sync_on_compute=False)  # the task puts the matrices of several processes in order
        self.classes = classes
        self.add_state("matrices", default=[], dist_reduce_fx="cat")

    def update(self, prediction: Tensor, mask: Tensor) -> None:
        """Add a batch: prediction (N, H, W) labels, mask (N, H, W) labels with 255 for void."""
        self.matrices.append(confusion(prediction, mask, len(self.classes)))

    def add(self, logits: Tensor, prediction: Tensor, batch: Batch) -> None:
        """Add all that is scored of a batch: logits (N, C, H, W), and the labels (N, H, W) predicted by them."""
        self.update(prediction, batch.mask)

    def findings(self) -> list[list[Tensor]]:
        """All that was added: lists with an item for every batch."""
        return [getattr(self, name) for name in self._defaults]  # torchmetrics' names of the states

    def all_matrices(self) -> Tensor:
        """(N, C + 1, C) int64, in the order in which the images came."""
        return torch.cat(list(self.matrices))

    def compute(self) -> dict[str, Tensor]:
        """The scores: see `scores`. But `miou`, by which the best epoch is chosen, is torchmetrics' own.

        It is computed in float32: of epochs that differ only in digits beyond that, the first one stays the best.
        """
        matrices = self.all_matrices().cpu()
        jaccard = PooledJaccardIndex(len(self.classes), validate_args=False, sync_on_compute=False)
        jaccard.update(matrices[:, :-1])
        return {**scores(matrices, self.classes.background), "miou": jaccard.compute().double()}


class RunningMean(nn.Module):
    """A mean that is updated step by step. It is saved with the weights, so that a run resumed within an epoch continues it.

    The values stay on their device until the mean is asked for or saved; the CPU sums them up, in double precision, which
    not every device has.

    Attributes:
        values: The scalars that were added since the last sum, on their device.
        counts: For each scalar, the number of things that it is the mean of.
    """

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Tensor] = []
        self.counts: list[int] = []
        self._total, self._count = 0.0, 0

    def add(self, value: Tensor, count: int) -> None:
        """Add the mean `value` of `count` things."""
        self.values.append(value.detach().clone())
        self.counts.append(count)

    def _sum_up(self) -> None:
        values = torch.stack(self.values).tolist() if self.values else []
        for value, count in zip(values, self.counts, strict=True):  # in this order, whenever it is asked for
            self._total += value * count
            self._count += count
        self.values, self.counts = [], []

    def mean(self) -> Tensor:
        """The mean so far, as a float64 scalar on the CPU; NaN if nothing was added."""
        self._sum_up()
        return torch.tensor(self._total / self._count if self._count else nan, dtype=torch.float64, device="cpu")

    def pop(self) -> Tensor:
        """The mean so far; then start again."""
        mean = self.mean()
        self._total, self._count = 0.0, 0
        return mean

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        self._sum_up()
        for name, value in (("total", self._total), ("count", self._count)):
            destination[prefix + name] = torch.tensor(value, dtype=torch.float64, device="cpu")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
        total, count = (state_dict[prefix + name].item() for name in ("total", "count"))
        self.values, self.counts, self._total, self._count = [], [], total, int(count)
