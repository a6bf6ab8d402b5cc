"""What is known of the settings of data without opening any: ranges and sizes."""

from collections.abc import Sequence
from typing import Any

from fcnseg.errors import check_choice, check_whole_number

SPLITS = ("official", "halves")
MIN_SIZE = 32  # pixels: the deepest network halves the image five times
Size = int | list[int]  # of images in pixels: of both sides, or [height, width]


def check_data_settings(*, size: Size, batch_size: int, split: str, limit: int | None, pack_size: Size | None) -> None:
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
    kept_at = size if pack_size is None else pack_size
    check_size("size", size)
    check_size("pack_size", kept_at)
    check_whole_number("data.batch_size", batch_size, 1)
    if limit is not None:
        check_whole_number("data.limit", limit, 1)
    if any(kept < side for kept, side in zip(sides(kept_at), sides(size), strict=True)):
        raise ValueError(f"data.pack_size={pack_size} is smaller than data.size={size}: raise it, or null keeps data.size")
    check_choice("data.split", split, SPLITS)


def check_size(name: str, size: Any) -> None:
    """Refuse what is no size of images, as the setting `name` of the data.

    Raises:
        ValueError: It is neither a whole number nor two, or a side is too short.
    """
    several = isinstance(size, Sequence) and not isinstance(size, str)  # a list of OmegaConf's is a Sequence, and no list
    if several and len(size) != 2:
        raise ValueError(f"data.{name}={list(size)}: wanted a whole number from {MIN_SIZE} up, or [height,width]")
    for side in size if several else [size]:
        check_whole_number(f"data.{name}", side, MIN_SIZE)


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
