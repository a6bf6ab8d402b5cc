"""Looks a data set over: what its image sets hold, what predicting nothing scores on them, which files are broken."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median_low
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fcnseg.data import voc

Counts = npt.NDArray[np.int64]


class Span(NamedTuple):
    """Least, middle and greatest of a length in pixels; zeros if nothing was measured."""

    least: int
    middle: int
    greatest: int

    @classmethod
    def of(cls, lengths: Iterable[int]) -> "Span":
        """The span of some lengths; its middle is one of them (the lower median)."""
        ordered = sorted(lengths)
        return cls(ordered[0], median_low(ordered), ordered[-1]) if ordered else cls(0, 0, 0)

    def __str__(self) -> str:
        return "/".join(map(str, self))


class Floor(NamedTuple):
    """What predicting background everywhere scores over the image set, void left out; NaN if nothing is labelled."""

    accuracy: float
    miou: float


@dataclass(frozen=True)
class Survey:
    """What was counted in one image set.

    Attributes:
        name: The image set's.
        images: How many it names; a name listed twice counts once.
        width: Of the sound images, and so `height`, `pixels` and `holding`.
        height: See `width`.
        pixels: Per label: the 21 classes, then void.
        holding: In how many images each of these 22 labels occurs.
        problems: One line each, which begins with the file's name.
    """

    name: str
    images: int
    width: Span
    height: Span
    pixels: tuple[int, ...]
    holding: tuple[int, ...]
    problems: tuple[str, ...] = ()

    @property
    def void_share(self) -> float:
        """Of all pixels."""
        return self.pixels[-1] / max(1, sum(self.pixels))

    @property
    def floor(self) -> Floor:
        """The score to beat. Background is the one class it gets right, with an IoU equal to the accuracy."""
        labelled = sum(self.pixels[:-1])
        if labelled == 0:
            return Floor(math.nan, math.nan)
        accuracy = self.pixels[voc.BACKGROUND] / labelled
        return Floor(accuracy, accuracy / sum(map(bool, self.pixels[:-1])))

    @property
    def weights(self) -> tuple[float, ...]:
        """The 21 class weights of the paper's eq. (2), were this the train set: void counts as background."""
        counts = np.array(self.pixels[:-1])
        counts[voc.BACKGROUND] += self.pixels[-1]
        return tuple((1 - counts / max(1, counts.sum())).tolist())


class _Look(NamedTuple):
    """What one image and its mask showed. Where they have a problem, there is no size and nothing is counted."""

    size: tuple[int, int] | None
    counts: Counts  # (22,)
    problems: tuple[str, ...]


def survey(folder: voc.Folder, image_set: str) -> Survey:
    """Read every image and mask of an image set fully and count what is in them.

    A broken file is reported in `Survey.problems` and its image left out of the counts.

    Raises:
        ValueError: no such image set, or nothing in it.
    """
    listed = Counter(folder.ids(image_set))
    twice = [f"{image_set}.txt: lists {name} {times} times, wanted once" for name, times in listed.items() if times > 1]
    with ThreadPoolExecutor() as pool:
        arriving = pool.map(lambda name: _look(folder, name), listed)
        console = Console(stderr=True)  # what is printed to stdout may go to a file
        hidden = not console.is_terminal
        looks = list(track(arriving, image_set, len(listed), console=console, transient=True, disable=hidden))
    sizes = [look.size for look in looks if look.size is not None]
    counts = np.stack([look.counts for look in looks])  # (images, 22)
    return Survey(
        name=image_set,
        images=len(listed),
        width=Span.of(width for width, _ in sizes),
        height=Span.of(height for _, height in sizes),
        pixels=tuple(counts.sum(axis=0).tolist()),
        holding=tuple(np.count_nonzero(counts, axis=0).tolist()),
        problems=(*twice, *(problem for look in looks for problem in look.problems)),
    )


def _look(folder: voc.Folder, name: str) -> _Look:
    problems = []
    size = None
    labels = np.zeros(0, dtype=np.uint8)
    try:
        size = voc.read_image(folder.image(name)).size
    except ValueError as error:
        problems.append(f"{name}.jpg: {error}")
    try:
        labels = np.asarray(voc.read_mask(folder.mask(name), size))
    except ValueError as error:
        problems.append(f"{name}.png: {error}")
    if problems:
        return _Look(None, np.zeros(voc.NUM_CLASSES + 1, dtype=np.int64), tuple(problems))
    counts = np.bincount(labels.ravel(), minlength=256)
    return _Look(size, np.append(counts[: voc.NUM_CLASSES], counts[voc.VOID]), ())


def render(surveys: Sequence[Survey], console: Console) -> None:
    """Print what was found: the image sets, their classes, the problems. The class weights are the first survey's."""
    console.print(_image_sets(surveys))
    console.print(_classes(surveys))
    for one in surveys:
        number = f"{len(one.problems) or 'no'} problem{'s' if len(one.problems) != 1 else ''}"
        console.print(f"{one.name}: {number}", markup=False)
        for problem in one.problems:  # whole lines for grep, and brackets in a file's name are no markup
            console.print(f"  {problem}", markup=False, highlight=False, soft_wrap=True)


def _table(*headers: str, caption: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=caption, caption_justify="left")
    table.add_column(no_wrap=True)
    for header in headers:
        table.add_column(header, justify="right", overflow="fold")
    return table


def _image_sets(surveys: Sequence[Survey]) -> Table:
    table = _table(
        *("images", "width\nmin/median/max", "height\nmin/median/max", "void", "floor\naccuracy", "floor\nmIoU"),
        "problems",
        caption="floor: what predicting background everywhere scores, void left out",
    )
    for one in surveys:
        floor = [f"{score:.4f}" for score in one.floor]
        spans = [str(one.width), str(one.height)]
        table.add_row(one.name, f"{one.images}", *spans, f"{one.void_share:.2%}", *floor, f"{len(one.problems)}")
    return table


def _classes(surveys: Sequence[Survey]) -> Table:
    headers = [header for one in surveys for header in (f"{one.name}\npixels", "\nimages")]
    caption = f"pixels: of all; images: that hold the class; weight: eq. (2) on {surveys[0].name}, void as background"
    table = _table(*headers, "\nweight", caption=caption)
    weights = [f"{weight:.5f}" for weight in surveys[0].weights]
    for label, (name, weight) in enumerate(zip((*voc.CLASSES, "void"), (*weights, ""), strict=True)):
        shares = [f"{one.pixels[label] / max(1, sum(one.pixels)):.2%}" for one in surveys]
        images = [f"{one.holding[label]}" for one in surveys]
        table.add_row(name, *(cell for pair in zip(shares, images, strict=True) for cell in pair), weight)
    return table
