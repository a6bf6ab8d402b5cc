"""Data sets, and how they become batches on the device."""

from collections.abc import Sequence
from math import inf
from typing import Any

SPLITS = ("official", "halves")
MIN_SIZE = 32  # pixels: the deepest network halves the image five times
Size = int | list[int]  # of images in pixels: of both sides, or [height, width]


def check_settings(
    *,
    size: int | Sequence[int],
    batch_size: int,
    split: str,
    limit: int | None,
    pack_size: int | Sequence[int] | None = None,
) -> None:
    """Refuse settings of the data that are out of their range.

    Args:
        size: The side in pixels of the square that images are resized to, or height and width.
        batch_size: The number of images in a batch.
        split: The name of the split: one of `SPLITS`.
        limit: The number of train images that are used; None: all.
        pack_size: The size that train's images are kept at, in the form of `size`; None: `size`.

    Raises:
        ValueError: A setting is out of its range; the message names it.
    """
    limited = [] if limit is None else [("limit", limit, 1)]
    pair = {"size": size, "pack_size": size if pack_size is None else pack_size}
    lengths = [(name, side, MIN_SIZE) for name, value in pair.items() for side in _given_sides(name, value)]
    for name, value, least in (*lengths, ("batch_size", batch_size, 1), *limited):
        check_whole_number(f"data.{name}", value, least)
    if any(kept < side for kept, side in zip(*map(sides, reversed(pair.values())), strict=True)):
        raise ValueError(
            f"data.pack_size={pack_size} is smaller than data.size={size}: raise it, or null keeps images at data.size"
        )
    if split not in SPLITS:
        raise ValueError(f"data.split={split}: wanted one of {', '.join(SPLITS)}")


def _given_sides(name: str, size: Any) -> Sequence[Any]:
    """The one or two sides of `size`, of any value."""
    if not isinstance(size, Sequence) or isinstance(size, str):  # a list of OmegaConf's is a Sequence, and no list
        return [size]
    if len(size) != 2:
        raise ValueError(f"data.{name}={list(size)}: wanted a whole number from {MIN_SIZE} up, or [height,width]")
    return size


def sides(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def spelled(size: int | Sequence[int]) -> int | str:
    """A size for names and tables: 96, or "96x128" with the height first."""
    return size if isinstance(size, int) else "x".join(map(str, size))


def as_one_number(size: int | str) -> int | str:
    """A size of `spelled`, with a square as the length of its side: 96 for "96x96", as [96,96] is spelled."""
    height, _, width = str(size).partition("x")
    return int(height) if height == width else size


def check_whole_number(name: str, value: object, least: int) -> None:
    """Refuse a setting whose value is not a whole number, or is less than `least`.

    Raises:
        ValueError: The value is not such a number; the message names the setting.
    """
    if type(value) is not int or value < least:  # `true` is an int as well, but not of this type
        raise ValueError(f"{name}={value}: wanted a whole number from {least} up")


def check_number(name: str, value: float, least: float, most: float) -> float:
    """The value of a setting, which is refused if it is outside least..most.

    Raises:
        ValueError: It is outside; the message names the setting.
    """
    if not least <= value <= most:
        raise ValueError(f"{name}={value}: wanted a number from {least} {'up' if most == inf else f'to {most}'}")
    return value
