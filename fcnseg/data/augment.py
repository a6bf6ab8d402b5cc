"""Augmentation of images and masks together, on their device, a draw per sample.

An augmentation is a callable of (image, mask, draw): image (N, 3, H, W) uint8, mask (N, H, W) uint8, both returned in the
same shapes, and `draw()` giving every sample of the batch its next random number.
"""

from collections.abc import Callable
from itertools import count

import torch
from torch import Tensor

Draw = Callable[[], Tensor]
Augmentation = Callable[[Tensor, Tensor, Draw], tuple[Tensor, Tensor]]


def _mix(x: Tensor) -> Tensor:
    """Scramble 32-bit integers held in int64 (the multiply and xor-shift hash of public integer-hash surveys)."""
    for multiplier in (0x7FEB352D, 0x5BD1E995):  # below 2^31: the product of 32 bits with it fits in int64
        x = (x ^ (x >> 16)) * multiplier & 0xFFFFFFFF
    return x ^ (x >> 15)


def draws(seed: int, epoch: int, sample: Tensor) -> Draw:
    """Random numbers that depend on (seed, epoch, sample, how many were drawn) alone.

    Neither the batch a sample lands in nor a resumed run changes them, and they need no generator's state.

    Args:
        seed: The run's seed.
        epoch: The epoch, from 0.
        sample: (N,) int64 numbers of the samples in their image set.

    Returns:
        A function that gives (N,) float32 numbers, uniform in [0, 1), new ones at every call.
    """
    state = _mix(_mix(torch.full_like(sample, seed & 0xFFFFFFFF)) ^ epoch)
    state = _mix(state ^ sample)

    def draw() -> Tensor:
        nonlocal state
        state = _mix(state + 0x9E3779B9 & 0xFFFFFFFF)
        return (state >> 8).float() / 2**24

    return draw


class EpochDraws:
    """The `draws` of all samples in an epoch, made once: a batch's next one is a single gather.

    Made for every batch, they are some sixty operations on a few numbers, which a GPU's host takes longer to launch than
    the flips take.

    Args:
        seed: The run's seed.
        epoch: The epoch, from 0.
        samples: How many samples there are in the image set.
        device: Where the batches are.
    """

    def __init__(self, seed: int, epoch: int, samples: int, device: torch.device) -> None:
        self._next = draws(seed, epoch, torch.arange(samples, device=device))
        self._drawn: list[Tensor] = []  # (samples,) each: everybody's first, second, ... number

    def of(self, sample: Tensor) -> Draw:
        """What `draws` gives for a batch's (N,) samples."""
        places = count()

        def draw() -> Tensor:
            if (place := next(places)) == len(self._drawn):
                self._drawn.append(self._next())
            return self._drawn[place].index_select(0, sample)

        return draw


def none(image: Tensor, mask: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """The images as they are."""
    return image, mask


def choose(chosen: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """`one` for the samples that are chosen, `other` for the rest.

    As `torch.where`, whose choice a sample is read anew for every byte: six times as slow on the CPU.

    Shape:
        chosen (N,) bool; one, other (N, ...) uint8 -> (N, ...) uint8.
    """
    bits = chosen.byte().neg().view(-1, *[1] * (one.ndim - 1))  # 0 or 255
    return one.bitwise_xor(other).bitwise_and_(bits).bitwise_xor_(other)


class Flip:
    """Horizontal and vertical flips (section 3.2).

    Args:
        horizontal: Probability of swapping left and right.
        vertical: Probability of swapping top and bottom.

    Raises:
        ValueError: a probability outside 0..1.
    """

    def __init__(self, *, horizontal: float = 0.5, vertical: float = 0.5) -> None:
        for name, p in (("horizontal", horizontal), ("vertical", vertical)):
            if not 0 <= p <= 1:
                raise ValueError(f"aug.{name}={p}: wanted a probability, 0 to 1")
        self.flips = ((-1, horizontal), (-2, vertical))

    def __call__(self, image: Tensor, mask: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Flip each sample, or not, together with its mask."""
        for axis, p in self.flips:
            flipped = draw() < p
            image = choose(flipped, image.flip(axis), image)
            mask = choose(flipped, mask.flip(axis), mask)
        return image, mask
