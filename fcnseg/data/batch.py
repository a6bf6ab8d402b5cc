"""A batch of images and masks, and how images are normalised."""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fcnseg.data.dataset import MEAN, STD


class Batch(NamedTuple):
    """Some images of an image set.

    Attributes:
        image: (N, 3, H, W) uint8 RGB from the loader; normalised float32 on the device.
        mask: (N, H, W) uint8 labels, 0..C-1 and 255 for void.
        sample: (N,) int64, the index of each image in its image set.
    """

    image: Tensor
    mask: Tensor
    sample: Tensor


@cache  # making a tensor on a GPU waits for the GPU
def _statistics(width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every value in a row of `width` pixels: (width * 3,) each."""
    mean, std = (torch.tensor(values, device=device).mul_(255).repeat(width) for values in (MEAN, STD))
    return mean, std


def normalize(image: Tensor) -> Tensor:
    """(N, 3, H, W) uint8 RGB to float32 of mean 0 and deviation 1, as pretrained backbones expect, in channels_last.

    It computes (image / 255 - mean) / std, a row of pixels at a time: broadcasting three means over H and W takes ten
    times as long.
    """
    mean, std = _statistics(width := image.shape[-1], image.device)
    rows = image.permute(0, 2, 3, 1).flatten(2).float()  # (N, H, W * 3)
    pixels: Tensor = rows.sub_(mean).div_(std).unflatten(2, (width, 3))  # (N, H, W, 3)
    return pixels.permute(0, 3, 1, 2)  # (N, 3, H, W)


def denormalize(image: Tensor) -> Tensor:
    """Undo `normalize`: normalised float32 to uint8 RGB, (N, 3, H, W)."""
    mean, std = _statistics(width := image.shape[-1], image.device)
    rows = torch.addcmul(mean, image.permute(0, 2, 3, 1).flatten(2), std)  # (N, H, W * 3)
    pixels: Tensor = rows.round_().clamp_(0, 255).byte().unflatten(2, (width, 3))  # (N, H, W, 3)
    return pixels.permute(0, 3, 1, 2)  # (N, 3, H, W)


def resize(batch: Batch, size: tuple[int, int]) -> Batch:
    """The batch, normalised, at another height and width, as packs are resized: bilinear with antialias, nearest for masks."""
    image, mask, sample = batch
    if mask.shape[1:] == size:
        return batch
    image = F.interpolate(image, size, mode="bilinear", antialias=True)
    mask = F.interpolate(mask[:, None], size, mode="nearest-exact")[:, 0]  # (N, *size), by way of (N, 1, *size)
    return Batch(image.contiguous(memory_format=torch.channels_last), mask, sample)
