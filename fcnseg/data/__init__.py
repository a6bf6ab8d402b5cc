"""Data sets, and how they become batches on the device."""

from collections.abc import Sequence

SPLITS = ("official", "halves")
MIN_SIZE = 32  # pixels: the deepest network halves the image five times
Size = int | list[int]  # of images in pixels: of both sides, or [height, width]


def check_settings(*, size: int | Sequence[int], batch_size: int, split: str, limit: int | None) -> None:
    """Refuse settings of the data that are out of their range.

    Args:
        size: The side in pixels of the square that images are resized to; or height and width.
        batch_size: The number of images in a batch.
        split: The name of the split: one of `SPLITS`.
        limit: The number of train images that are used; None: all.

    Raises:
        ValueError: A setting is out of its range; the message names it.
    """
    limited = [] if limit is None else [("limit", limit, 1)]
    is_pair = isinstance(size, Sequence) and not isinstance(size, str) and len(size) == 2
    lengths = [("size", side, MIN_SIZE) for side in (sides(size) if is_pair else [size])]
    for name, value, least in (*lengths, ("batch_size", batch_size, 1), *limited):
        check_whole_number(f"data.{name}", value, least)
    if split not in SPLITS:
        raise ValueError(f"data.split={split}: wanted one of {', '.join(SPLITS)}")


def sides(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def spelled(size: int | Sequence[int]) -> int | str:
    """A size for names and tables: 96, or "96x128" with the height first."""
    return size if isinstance(size, int) else "x".join(map(str, size))


def check_whole_number(name: str, value: object, least: int) -> None:
    """Refuse a setting whose value is not a whole number, or is less than `least`.

    Raises:
        ValueError: The value is not such a number; the message names the setting.
    """
    if type(value) is not int or value < least:
        raise ValueError(f"{name}={value}: wanted a whole number from {least} up")
