"""The numbers or colours in masks whose classes no file lists yet, and a classes.yaml that lists them for the user to name."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fcnseg.data import decode, voc
from fcnseg.data.dataset import MOST_CLASSES, VOID
from fcnseg.data.formats.classes import FILE
from fcnseg.data.formats.files import Files
from fcnseg.machine.files import write_text
from fcnseg.machine.threads import in_threads

MOST = 64  # up to this many colours, each is taken for a class; of more, only colours with LEAST of the pixels
LEAST = 0.0005  # a share of all pixels


@dataclass(frozen=True)
class Stored:
    """The numbers or colours in some masks.

    Attributes:
        masks: The number of masks that could be read.
        pixels: The pixels of each number or colour.
        holding: The number of masks that hold each number or colour.
        problems: A line for each mask that cannot be read.
    """

    masks: int
    pixels: Mapping[int | decode.RGB, int]
    holding: Mapping[int | decode.RGB, int]
    problems: tuple[str, ...]

    def found(self, value: int | decode.RGB) -> str:
        """How often a number or colour occurs, for messages."""
        share = self.pixels[value] / sum(self.pixels.values())
        return f"{share:.2%} of the pixels, in {self.holding[value]} of {self.masks} masks"


def count_values(masks: Sequence[Path]) -> Stored:
    """Count the numbers or colours in masks."""
    pixels: Counter[int | decode.RGB] = Counter()
    holding: Counter[int | decode.RGB] = Counter()
    problems, read = [], 0
    for one in in_threads(_counted, masks, "Masks"):
        if isinstance(one, ValueError):
            problems.append(str(one))
        else:
            read += 1
            pixels.update(one)
            holding.update(one.keys())
    return Stored(read, pixels, holding, tuple(problems))


def _counted(path: Path) -> dict[int | decode.RGB, int] | ValueError:
    try:
        mask = decode.stored_mask(path)
    except ValueError as error:
        return error
    if mask.mode == "RGB":
        return {colour: n for n, colour in decode.colours(mask)}
    counts = np.bincount(decode.samples(mask).ravel())
    return {value: int(counts[value]) for value in np.flatnonzero(counts).tolist()}


def write_classes(files: Files, stored: Stored) -> Path:
    """Write classes.yaml beside the images, with a name to change for every number or colour that masks store.

    Raises:
        ValueError: The file is there already, or masks mix numbers with colours, or hold too few or too many for classes.
    """
    if (path := files.path / FILE).exists():  # a folder, or a file that is no class list
        raise ValueError(f"{path} is there already: move it away to have it written anew")
    values = _to_name(files, stored)
    names = [
        "background" if value in (0, (0, 0, 0)) else f"class_{value if isinstance(value, int) else bytes(value).hex()}"
        for value in values
    ]
    pairs = list(zip(values, names, strict=True))
    lines = ["# Made by python -m fcnseg.check of what the masks hold: give the classes their names.", "names:"]
    if isinstance(values[0], int):
        lines += [f"  {value}: {name}  # {stored.found(value)}" for value, name in pairs]
    else:
        lines += [*(f"  - {name}" for name in names), "colors:  # in the order of the names"]
        lines += [f"  - {[*value]}  # {name}: {stored.found(value)}" for value, name in pairs]
    if left := [value for value in (VOID, voc.VOC.void_colour) if value in stored.pixels and value not in values]:
        lines.append(f"void: {left[0] if isinstance(left[0], int) else [*left[0]]}  # {stored.found(left[0])}")
    write_text(path, "\n".join([*lines, ""]))
    return path


def _to_name(files: Files, stored: Stored) -> list[Any]:
    """The numbers or the colours to name: all of them but void."""
    numbers = sorted(value for value in stored.pixels if isinstance(value, int))
    colours = sorted(value for value in stored.pixels if isinstance(value, tuple))
    if numbers and colours:
        raise ValueError(f"{files.path} has masks of numbers and masks of colours: export all of them in one way")
    if len(colours) > MOST:  # the rare ones come from smoothed edges
        total = sum(stored.pixels.values())
        colours = [colour for colour in colours if stored.pixels[colour] >= LEAST * total]
    # Masks of 0 and 255 alone have two classes; 255 beside several other numbers is void, as in VOC.
    void = voc.VOC.void_colour if colours else VOID if len(numbers) > 2 else None
    values = [value for value in numbers or colours if value != void]
    if not 2 <= len(values) <= MOST_CLASSES:
        found = f"{len(values)} numbers or colours besides void"
        raise ValueError(f"the masks of {files.path} hold {found}: wanted 2 to {MOST_CLASSES}, one for a class")
    return values
