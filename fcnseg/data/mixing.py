"""Augmentations that cover a part of an image, or lay parts of one image of the batch over another."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fcnseg.data.augment import Draw, choose, hashed
from fcnseg.data.dataset import MEAN, VOID
from fcnseg.data.transforms import between, check_range, log_between
from fcnseg.errors import check_number

LONGEST = 3.0  # the largest factor between the two sides of a box


class Box:
    """A random box in some of the samples.

    Args:
        p: The probability of a box.
        area: The least and the largest share of the image that the box takes.

    Raises:
        ValueError: A setting is out of its range.
    """

    def __init__(self, *, p: float = 0.5, area: Sequence[float] = (0.02, 0.4)) -> None:
        self.p, self.area = check_number("p", p, 0, 1), check_range("area", area, 0, 1)

    def inside(self, mask: Tensor, draw: Draw) -> Tensor:
        """Which pixels of the (N, H, W) masks are in the box of their sample: (N, H, W) bool."""
        side, shape = between(draw, *self.area).sqrt(), log_between(draw, 1 / LONGEST, LONGEST).sqrt()
        inside = (draw() < self.p)[:, None, None]  # (N, 1, 1)
        for axis, share in ((1, side / shape), (2, side * shape)):
            length = share.clamp(max=1)  # (N,), a share of the image's height or width
            start = draw() * (1 - length)
            place = (torch.arange(mask.shape[axis], device=mask.device) + 0.5) / mask.shape[axis]  # (H,) or (W,)
            within = (place >= start[:, None]) & (place < (start + length)[:, None])  # (N, H) or (N, W)
            inside = inside & within.unsqueeze(3 - axis)  # with (N, H, 1) or (N, 1, W): (N, H, 1), then (N, H, W)
        return inside


class Cutout(Box):
    """A box of each image, or of some, covered with the mean colour; it is void in the mask."""

    def __call__(self, image: Tensor, mask: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Cover a box in some of the samples."""
        inside, image = self.inside(mask, draw), image.clone()
        for channel, mean in enumerate(MEAN):
            image[:, channel].masked_fill_(inside, round(255 * mean))
        return image, mask | inside.byte().neg()


class CutMix(Box):
    """A box of some samples, replaced with the same box of the sample before it in the batch, together with its mask.

    The first sample's partner is the last one. So a partner depends on the order of the samples and on the size of the batch,
    which depend only on the seed, the epoch and `data.batch_size`. A sample that is alone in its batch stays as it is.
    """

    partners = 1

    def __call__(self, image: Tensor, mask: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Replace a box in some of the samples."""
        return mixed(self.inside(mask, draw), image, mask)


class ClassMix:
    """Half of the classes of the sample before it in the batch, chosen at random, cut out there and laid over some samples.

    A class that is laid over another is as large and at the same place as in the partner; void is never chosen, and half of
    three classes is one. For partners, see `CutMix`.

    Args:
        p: The probability that a sample is mixed.

    Raises:
        ValueError: `p` is no probability.
    """

    partners = 1

    def __init__(self, *, p: float = 0.5) -> None:
        self.p = check_number("p", p, 0, 1)

    def __call__(self, image: Tensor, mask: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Lay classes of the partner over some of the samples."""
        labels = mask.roll(1, 0).flatten(1).long()  # (N, H * W)
        is_there = torch.zeros(len(mask), VOID + 1, dtype=torch.bool, device=mask.device).scatter_(1, labels, True)
        is_there[:, VOID] = False
        # One draw gives a sample a random order of its classes: each class has a hash of the draw and of its label.
        each = torch.arange(VOID + 1, device=mask.device) << 24  # draws have 24 bits
        number = torch.where(is_there, hashed((draw() * 2**24).long()[:, None] | each), -1)  # (N, 256), random
        rank = number.argsort(1, descending=True).argsort(1)  # 0 for the class with the largest number
        chosen = (rank < is_there.sum(1, keepdim=True) // 2) & (draw() < self.p)[:, None]
        return mixed(chosen.gather(1, labels).view_as(mask), image, mask)  # (N, 256) -> (N, H * W) -> (N, H, W)


def mixed(chosen: Tensor, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The samples with the pixels that are chosen, (N, H, W) bool, from the sample before each of them in the batch."""
    if len(mask) == 1:
        return image, mask
    return choose(chosen, image.roll(1, 0), image), choose(chosen, mask.roll(1, 0), mask)
