"""Losses over labelled pixels: cross-entropy in several forms, Dice, Lovasz, and sums of them.

All compute in float32, and give 0 without a gradient for a batch that is all void. On a GPU, none waits for the device.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fcnseg.data.dataset import VOID
from fcnseg.errors import check_number

TINY = torch.finfo(torch.float32).tiny


def class_weights(class_pixels: Tensor) -> Tensor:
    """Eq. (2) of the paper: w_c = 1 - n_c / sum_k n_k, where n_c is the pixels of class c in the train set.

    Shape:
        class_pixels (C,) -> (C,) float32.
    """
    pixels = class_pixels.double()
    return (1 - pixels / pixels.sum().clamp_min(1)).float()


def pixel_rows(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The pixels of a batch one below the other, which is free for channels_last logits.

    Shape:
        logits (N, C, H, W), mask (N, H, W) -> (N*H*W, C) float32, (N*H*W,) int64.
    """
    return logits.permute(0, 2, 3, 1).flatten(0, 2).float(), mask.flatten().long()


def labelled_pixels(mask: Tensor) -> Tensor:
    """The number of labelled pixels of a mask of any shape, as a scalar."""
    return (mask != VOID).sum()


class Loss(nn.Module):
    """The base class of the losses of this package. One of your own may be any module with this constructor and these shapes.

    Args:
        class_pixels: (C,), the pixels of every class in the train set; most losses do not need them. Void counts as
            background if there is one, as the paper's numbers were made.

    Shape:
        logits (N, C, H, W) of any float type, labels (N, H, W) uint8 with 255 for void -> ().
    """

    def __init__(self, class_pixels: Tensor) -> None:  # which a config gives to every loss
        super().__init__()


class CrossEntropy(Loss):
    """Cross-entropy over labelled pixels, plain or weighted by eq. (2).

    Args:
        class_pixels: (C,), the pixels of every class in the train set.
        weighted: Whether a pixel counts with the weight of its class; the sum is then divided by the sum of these weights.
        label_smoothing: The share of a labelled pixel's truth, from 0 to 1, that is spread evenly over all classes.
    """

    weight: Tensor

    def __init__(self, class_pixels: Tensor, *, weighted: bool, label_smoothing: float = 0.0) -> None:
        super().__init__(class_pixels)
        weight = class_weights(class_pixels) if weighted else torch.ones(len(class_pixels))
        self.register_buffer("weight", weight)
        self.weighted = weighted
        self.label_smoothing = check_number("label_smoothing", label_smoothing, 0, 1)

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        # One row a pixel: deterministic on CUDA, where the 2-D form is not.
        rows, labels = pixel_rows(logits, mask)
        weight = self.weight if self.weighted else None
        smoothing = self.label_smoothing  # torch also leaves void pixels out of it
        losses = F.cross_entropy(rows, labels, weight, ignore_index=VOID, reduction="none", label_smoothing=smoothing)
        total = losses.sum()  # summed apart: CUDA's own sum over rows runs in a single block of threads
        return total / self.divisor(mask).clamp_min(TINY)

    def divisor(self, mask: Tensor) -> Tensor:
        """The number of labelled pixels, or the sum of their weights."""
        if not self.weighted:
            return labelled_pixels(mask)
        labels, counted = mask.flatten().long(), mask.flatten() != VOID  # (N * H * W,) each
        return self.weight[labels.where(counted, 0)].mul(counted).sum()


class Focal(Loss):
    """Focal loss (Lin et al., arXiv 1708.02002), the mean of -(1 - p)^gamma log p over labelled pixels.

    Args:
        class_pixels: (C,), which every loss is given; this one does not weight classes.
        gamma: The strength with which pixels of a sure class count less: 0 is cross-entropy, the paper's 2.0 is usual.
    """

    def __init__(self, class_pixels: Tensor, *, gamma: float = 2.0) -> None:
        super().__init__(class_pixels)
        self.gamma = check_number("gamma", gamma, 0, math.inf)

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        rows, labels = pixel_rows(logits, mask)
        losses = F.cross_entropy(rows, labels, ignore_index=VOID, reduction="none")  # -log p; 0 where void
        unsure = (-torch.expm1(-losses)).clamp_min(TINY)  # 1 - p; a root of 0 has no gradient
        return (unsure**self.gamma * losses).sum() / labelled_pixels(labels).clamp_min(1)


class OHEM(Loss):
    """Online hard example mining: the mean cross-entropy of the labelled pixels where it is highest.

    Args:
        class_pixels: (C,), which every loss is given; this one does not weight classes.
        share: The share of the batch's labelled pixels that count, from 0.001 to 1.
    """

    def __init__(self, class_pixels: Tensor, *, share: float = 0.25) -> None:
        super().__init__(class_pixels)
        self.share = check_number("share", share, 0.001, 1)

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        rows, labels = pixel_rows(logits, mask)
        losses = F.cross_entropy(rows, labels, ignore_index=VOID, reduction="none")  # 0 where void
        # The hardest of all pixels, of which those beyond the share of the labelled are left out: no count is read from a GPU.
        hardest = losses.topk(math.ceil(self.share * len(losses))).values  # (share*N*H*W,)
        counted = torch.arange(len(hardest), device=losses.device) < self.share * labelled_pixels(labels)
        return (hardest * counted).sum() / counted.sum().clamp_min(1)


class Dice(Loss):
    """1 - Dice, the mean over the batch's classes of 1 - 2 |P and T| / (|P| + |T|), P being the softmax and T the truth.

    Void pixels belong to neither P nor T. A class without a pixel in the batch's masks is left out of the mean.
    """

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        p, truth, size = _labelled_softmax(logits, mask)
        dice = 2 * (p * truth).sum(0) / (p.sum(0) + size).clamp_min(1)  # (C,)
        return _mean_present(1 - dice, size)


class Lovasz(Loss):
    """Lovasz-Softmax (Berman et al., arXiv 1705.08790), a surrogate of 1 - IoU; the mean over the batch's classes.

    For each class, a pixel's error is weighted by how much the Jaccard loss grows when this pixel becomes wrong after all
    pixels of larger errors. Void pixels have no error. A class without a pixel in the batch's masks is left out.
    """

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        p, truth, size = _labelled_softmax(logits, mask)
        errors, order = (truth.float() - p).abs().T.sort(dim=1, descending=True)  # (C, N*H*W)
        # Whole numbers: exact, and deterministic on CUDA.
        missed = truth.T.gather(1, order).cumsum(1, dtype=torch.int32)  # (C, N*H*W)
        # Pixels with this error or a larger one.
        wrong = torch.arange(1, len(p) + 1, dtype=torch.int32, device=p.device)
        jaccard = 1 - (size[:, None] - missed) / (size[:, None] + wrong - missed)  # 1 - intersection / union
        return _mean_present((errors * jaccard.diff(dim=1, prepend=jaccard.new_zeros(len(size), 1))).sum(1), size)


class Term(TypedDict):
    """A part of a sum: the factor that it counts with, and a function that makes the loss from `class_pixels`."""

    weight: float
    loss: Callable[[Tensor], nn.Module]


class Sum(Loss):
    """A weighted sum of losses.

    Args:
        class_pixels: (C,), handed on to every loss.
        terms: The parts by their names.

    Raises:
        ValueError: An argument of a part is out of its range.
    """

    def __init__(self, class_pixels: Tensor, *, terms: Mapping[str, Term]) -> None:
        super().__init__(class_pixels)
        self.weights = {name: each["weight"] for name, each in terms.items()}
        self.losses = nn.ModuleDict()
        for name, each in terms.items():
            try:
                self.losses[name] = each["loss"](class_pixels)
            except ValueError as error:
                names_argument = re.match(r"[\w.]+=|terms\.", str(error))
                raise ValueError(f"terms.{name}.loss{'.' if names_argument else ': '}{error}") from error

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        parts = [self.weights[name] * loss(logits, mask) for name, loss in self.losses.items()]
        return torch.stack(parts).sum()


def summands(loss: nn.Module, weight: float = 1.0) -> list[tuple[float, nn.Module]]:
    """The losses of a sum with their weights; of any other loss, itself. `weight` is the one of the whole loss."""
    if not isinstance(loss, Sum) or type(loss).forward is not Sum.forward:  # a subclass may add up in its own way
        return [(weight, loss)]
    return [pair for name, term in loss.losses.items() for pair in summands(term, weight * loss.weights[name])]


def divisor(loss: nn.Module, mask: Tensor) -> Tensor:
    """The number that a loss divides its sum by: of a loss without a method `divisor`, the number of labelled pixels.

    The parts of a divided batch are weighted by it: two parts of 10 and 30 labelled pixels count 1/4 and 3/4. Together they
    then give the loss and the gradient of the whole batch. Only OHEM, Dice and Lovasz, which are not means over pixels, become
    means over the parts.
    """
    found: Callable[[Tensor], Tensor | float] = getattr(loss, "divisor", labelled_pixels)
    return torch.as_tensor(found(mask), device=mask.device)


def _labelled_softmax(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax and truth of every pixel, with zeros where it is void, and the number of pixels of every class.

    Shape:
        logits (N, C, H, W), mask (N, H, W) -> (N*H*W, C) float32, (N*H*W, C) bool, (C,) int32.
    """
    rows, labels = pixel_rows(logits, mask)
    truth = labels[:, None] == torch.arange(rows.shape[1], device=rows.device)
    return rows.softmax(1) * (labels != VOID)[:, None], truth, truth.sum(0, dtype=torch.int32)


def _mean_present(losses: Tensor, size: Tensor) -> Tensor:
    """The mean of the losses (C,) of the classes that have a pixel, by their `size` (C,); 0 if none has."""
    present = size > 0
    return (losses * present).sum() / present.sum().clamp_min(1)


def check_logits(logits: object, image: Tensor, num_classes: int) -> Tensor:
    """The output of any network, such as one of the user's own, checked to have the shape of logits.

    Args:
        logits: The output of the network.
        image: The images (N, 3, H, W) that it was given.
        num_classes: The number of classes of the data set.

    Raises:
        ValueError: The output is no tensor (N, num_classes, H, W).
    """
    wanted = (len(image), num_classes, *image.shape[2:])
    if isinstance(logits, Tensor) and logits.shape == wanted:
        return logits
    found = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
    raise ValueError(f"the network gives {found} for images {tuple(image.shape)}, wanted logits {wanted}: (N, classes, H, W)")
