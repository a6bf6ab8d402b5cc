"""Augmentations: what all of them share, random numbers of each sample's own, and flips.

An augmentation is a callable of (image, mask, draw), which works on the device that its tensors are on. It returns the
image, (N, 3, H, W) uint8, and the mask, (N, H, W) uint8; a crop changes H and W, and nothing else does. `draw()` gives each
sample of the batch its next random number. Augmentations that change pixels are in `transforms` and `mixing`.

An augmentation that mixes samples has an attribute `partners`: the number of samples before each sample that it uses.
The last sample comes before the first. On several devices, each device gets that many extra samples before its own.
"""

from collections.abc import Callable
from itertools import count

import torch
from torch import Tensor

from fcnseg.errors import check_number

Draw = Callable[[], Tensor]
Augmentation = Callable[[Tensor, Tensor, Draw], tuple[Tensor, Tensor]]


def hashed(x: Tensor) -> Tensor:
    """A hash of 32-bit integers, held in int64, with the multipliers of lowbias32 and MurmurHash2."""
    for multiplier in (0x7FEB352D, 0x5BD1E995):  # below 2^31: the product of 32 bits with it fits in int64
        x = (x ^ (x >> 16)) * multiplier & 0xFFFFFFFF
    return x ^ (x >> 15)


def draws(seed: int, epoch: int, sample: Tensor) -> Draw:
    """Random numbers that depend only on (seed, epoch, sample, how many were drawn): the same in any batch or resumed run.

    The numbers are a hash of these four values. A generator for each sample takes a hundred times as long: 21 ms instead of
    0.2 ms for VOC's 1464 train images.

    Args:
        seed: The seed of the run.
        epoch: The epoch, counted from 0.
        sample: (N,) int64, the index of each sample in its image set.

    Returns:
        A function that gives (N,) float32 numbers, uniform in [0, 1), new ones at every call.
    """
    state = hashed(hashed(torch.full_like(sample, seed & 0xFFFFFFFF)) ^ epoch)
    state = hashed(state ^ sample)

    def draw() -> Tensor:
        nonlocal state
        state = hashed(state + 0x9E3779B9 & 0xFFFFFFFF)
        return (state >> 8).float() / 2**24

    return draw


class EpochDraws:
    """The `draws` of all samples in an epoch, made once and then gathered for each batch.

    Drawing for each batch would take some sixty operations on a few numbers. A GPU takes longer to launch these than to
    do the flips.

    Args:
        seed: The seed of the run.
        epoch: The epoch, counted from 0.
        samples: The number of samples in the image set.
        device: The device of the batches.
    """

    def __init__(self, seed: int, epoch: int, samples: int, device: torch.device) -> None:
        self._next = draws(seed, epoch, torch.arange(samples, device=device))
        self._drawn: list[Tensor] = []  # (samples,) each: the first number of all samples, the second, ...

    def of(self, sample: Tensor) -> Draw:
        """The `draws` of a batch's (N,) samples."""
        places = count()

        def draw() -> Tensor:
            if (place := next(places)) == len(self._drawn):
                self._drawn.append(self._next())
            return self._drawn[place].index_select(0, sample)

        return draw


def partners(augment: Augmentation) -> int:
    """The number of samples before each sample that an augmentation uses."""
    return int(getattr(augment, "partners", 0))


def choose(chosen: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """`one` for the samples, or the pixels, that are chosen, `other` for the rest.

    It computes `torch.where`, which takes six times as long on the CPU: it reads a sample's choice again for each byte.

    Shape:
        chosen (N,) or (N, H, W) bool; one, other (N, ..., H, W) uint8 -> (N, ..., H, W) uint8.
    """
    bits = chosen.byte().neg()  # 0 or 255
    bits = bits.view(len(bits), *[1] * (one.ndim - bits.ndim), *bits.shape[1:])  # (N, 1, ..., 1), or (N, 1, H, W)
    return one.bitwise_xor(other).bitwise_and_(bits).bitwise_xor_(other)


class Flip:
    """Horizontal and vertical flips (section 3.2).

    Args:
        horizontal: The probability of swapping left and right.
        vertical: The probability of swapping top and bottom.

    Raises:
        ValueError: A probability is outside 0..1.
    """

    def __init__(self, *, horizontal: float = 0.5, vertical: float = 0.5) -> None:
        horizontal, vertical = check_number("horizontal", horizontal, 0, 1), check_number("vertical", vertical, 0, 1)
        self.flips = ((-1, horizontal), (-2, vertical))

    def __call__(self, image: Tensor, mask: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Flip some of the samples together with their masks."""
        for axis, p in self.flips:
            flipped = draw() < p
            image = choose(flipped, image.flip(axis), image)
            mask = choose(flipped, mask.flip(axis), mask)
        return image, mask


def is_augmentation(step: object) -> bool:
    """Whether an object can be called as an augmentation. A class cannot, not even one with `_partial_: true`: it makes one."""
    return callable(step) and not isinstance(getattr(step, "func", step), type)


class Chain:
    """Several augmentations, one after the other; without any, images and masks stay as they are.

    Args:
        steps: The augmentations in their order, by names of the user's choice: `~aug.flip` removes the one called flip.

    Raises:
        ValueError: A step is not an augmentation, as in `+aug.crop=crop`.
    """

    def __init__(self, **steps: Augmentation) -> None:
        for name, step in steps.items():
            if not is_augmentation(step):
                raise ValueError(f"aug.{name}={step}: wanted an augmentation; +aug@aug.{name}=crop adds one")
        self.steps = steps
        # The sum over the steps: the partners of the second step need the partners of the first step.
        self.partners = sum(map(partners, steps.values()))

    def __call__(self, image: Tensor, mask: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Apply all steps; each step continues the draws of the step before it."""
        for augment in self.steps.values():
            image, mask = augment(image, mask, draw)
        return image, mask
