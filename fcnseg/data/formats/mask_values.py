"""The numbers or colours in masks whose classes no file lists yet, and a classes.yaml that lists them for the user to name."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fcnseg.data import decode, voc
from fcnseg.data.dataset import VOID
from fcnseg.data.formats.classes import FILE
from fcnseg.data.formats.files import Files
from fcnseg.machine.files import write_text
from fcnseg.machine.limits import cores

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
    pixels: Mapping[int | decode.Colour, int]
    holding: Mapping[int | decode.Colour, int]
    problems: tuple[str, ...]

    def found(self, value: int | decode.Colour) -> str:
        """How often a number or colour occurs, for messages."""
        share = self.pixels[value] / sum(self.pixels.values())
        return f"{share:.2%} of the pixels, in {self.holding[value]} of {self.masks} masks"


def look(masks: Iterable[Path]) -> Stored:
    """Count the numbers or colours in masks."""
    pixels: Counter[int | decode.Colour] = Counter()
    holding: Counter[int | decode.Colour] = Counter()
    problems, read = [], 0
    with ThreadPoolExecutor(cores()) as pool:
        for one in pool.map(_counted, masks):
            if isinstance(one, ValueError):
                problems.append(str(one))
            else:
                read += 1
                pixels.update(one)
                holding.update(one.keys())
    return Stored(read, pixels, holding, tuple(problems))


def _counted(path: Path) -> dict[int | decode.Colour, int] | ValueError:
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
        ValueError: The file exists, or masks mix numbers with colours, or hold too few or too many for classes.
    """
    path = files.path / FILE
    if path.exists():
        raise ValueError(f"{path} is there already: change it, or move it away to have it written anew")
    numbers = sorted(value for value in stored.pixels if isinstance(value, int))
    total = sum(stored.pixels.values())
    colours = [value for value in stored.pixels if isinstance(value, tuple)]
    if len(colours) > MOST:
        colours = [colour for colour in colours if stored.pixels[colour] >= LEAST * total]
    if numbers and colours:
        raise ValueError(f"{files.path} has masks of numbers and masks of colours: export all of them in one way")
    void = voc.VOC.void_colour if colours else VOID if len(numbers) > 2 else None
    values: list[Any] = sorted(numbers) or sorted(colours)
    kept = [value for value in values if value != void]
    if not 2 <= len(kept) <= decode.UNKNOWN:
        found = f"{len(kept)} numbers or colours besides void"
        raise ValueError(f"the masks of {files.path} hold {found}: wanted 2 to {decode.UNKNOWN}, one for a class")
    lines = ["# Made by python -m fcnseg.check of what the masks hold: give the classes their names."]
    lines += _of_numbers(kept, stored) if numbers else _of_colours(kept, stored)
    if void is not None and void in stored.pixels:
        lines.append(f"void: {[*void] if isinstance(void, tuple) else void}  # {stored.found(void)}")
    write_text(path, "\n".join([*lines, ""]))
    return path


def _of_numbers(numbers: Sequence[int], stored: Stored) -> list[str]:
    names = ["background" if number == 0 else f"class_{number}" for number in numbers]
    lines = (f"  {number}: {name}  # {stored.found(number)}" for number, name in zip(numbers, names, strict=True))
    return ["names:", *lines]


def _of_colours(colours: Sequence[decode.Colour], stored: Stored) -> list[str]:
    names = ["background" if not any(colour) else f"class_{bytes(colour).hex()}" for colour in colours]
    pairs = zip(colours, names, strict=True)
    lines = (f"  - {list(colour)}  # {name}: {stored.found(colour)}" for colour, name in pairs)
    return ["names:", *(f"  - {name}" for name in names), "colors:  # in the order of the names", *lines]
