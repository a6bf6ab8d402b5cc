"""Cross-entropy, plain or weighted by the share of each class in the train set."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fcnseg.data.dataset import VOID
from fcnseg.data.voc import BACKGROUND


def class_weights(class_pixels: Tensor) -> Tensor:
    """Eq. (2) of the paper: w_c = 1 - n_c / sum_k n_k, with void counted as background, as the paper's numbers were made.

    Shape:
        class_pixels (C + 1,), void last -> (C,) float32.
    """
    pixels = class_pixels[:-1].double()
    pixels[BACKGROUND] += class_pixels[-1]
    return (1 - pixels / pixels.sum().clamp_min(1)).float()


class CrossEntropy(nn.Module):
    """Cross-entropy over labelled pixels, plain or weighted by eq. (2); 0 for a batch that is all void.

    Args:
        class_pixels: (C + 1,), the pixels of every class in the train set, then of void.
        weighted: Whether a pixel counts with the weight of its class; the sum is then divided by the sum of these weights.

    Shape:
        logits (N, C, H, W) of any float type, labels (N, H, W) uint8 with 255 for void -> ().
    """

    weight: Tensor

    def __init__(self, class_pixels: Tensor, *, weighted: bool) -> None:
        super().__init__()
        weight = class_weights(class_pixels) if weighted else torch.ones(len(class_pixels) - 1)
        self.register_buffer("weight", weight)
        self.weighted = weighted

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        # One row a pixel: free for channels_last logits, and deterministic on CUDA, where the 2-D form is not.
        rows = logits.permute(0, 2, 3, 1).flatten(0, 2).float()  # (N*H*W, C)
        labels = mask.flatten().long()  # (N*H*W,)
        weight = self.weight if self.weighted else None
        # Summed apart: CUDA's own sum over rows runs in a single block of threads.
        total = F.cross_entropy(rows, labels, weight=weight, ignore_index=VOID, reduction="none").sum()
        counted = labels != VOID
        size = self.weight[labels.where(counted, 0)].mul(counted).sum() if self.weighted else counted.sum()
        return total / size.clamp_min(torch.finfo(torch.float32).tiny)
