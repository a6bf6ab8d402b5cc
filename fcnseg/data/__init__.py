"""Data sets in VOC's folder layout, and how they become batches on the device."""

SPLITS = ("official", "halves")
MIN_SIZE = 32  # pixels: the deepest network halves the image five times


def check_settings(*, size: int, batch_size: int, split: str, limit: int | None) -> None:
    """Refuse settings of the data that are out of their range.

    Args:
        size: Height and width in pixels that images are resized to.
        batch_size: The number of images in a batch.
        split: The name of the split: one of `SPLITS`.
        limit: The number of train images that are used; None: all.

    Raises:
        ValueError: A setting is out of its range; the message names it.
    """
    limited = [] if limit is None else [("limit", limit, 1)]
    for name, value, least in (("size", size, MIN_SIZE), ("batch_size", batch_size, 1), *limited):
        check_whole_number(f"data.{name}", value, least)
    if split not in SPLITS:
        raise ValueError(f"data.split={split}: wanted one of {', '.join(SPLITS)}")


def check_whole_number(name: str, value: object, least: int) -> None:
    """Refuse a setting whose value is not a whole number, or is less than `least`.

    Raises:
        ValueError: The value is not such a number; the message names the setting.
    """
    if type(value) is not int or value < least:
        raise ValueError(f"{name}={value}: wanted a whole number from {least} up")
