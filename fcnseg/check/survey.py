"""The survey of a data set: the contents of its image sets, the scores to beat, and the broken files."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from itertools import chain, combinations_with_replacement
from pathlib import PurePosixPath
from statistics import median_low
from typing import NamedTuple

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from fcnseg.data import decode
from fcnseg.data.dataset import BY_COLOUR, VOID, Classes, DataSet
from fcnseg.learning.losses import class_weights
from fcnseg.learning.metrics import scores
from fcnseg.machine.threads import in_threads
from fcnseg.texts import counted, first_of

Span = tuple[int, int, int]  # the least, the median and the greatest of some lengths in pixels; zeros without any
RARE = 0.0001  # the share of train's pixels below which a class is almost empty


class Look(NamedTuple):
    """The contents of one image and its mask. If they have a problem, there is no size, and nothing is counted.

    Attributes:
        pixels: The number of pixels of each of the C classes, then of void.
        problems: One line for each problem, which begins with the name of the file.
        size: The image's width and height.
        by_colour: Whether the mask's palette holds the classes' colours at other indices than their labels.
        content: A hash of the image's pixels.
    """

    pixels: list[int]
    problems: Sequence[str] = ()
    size: tuple[int, int] | None = None
    by_colour: bool = False
    content: str = ""


@dataclass(frozen=True)
class Survey:
    """The counts of one image set. An image with a problem is only in `images`.

    Attributes:
        name: The name of the image set.
        images: The number of images that its file lists; a name that is listed twice counts once.
        width: The span of the images' widths.
        height: The span of the images' heights.
        pixels: The number of pixels of each of the C classes, then of void.
        holding: The number of images that hold each of these C + 1 labels.
        classes: The C classes, in the order of their labels.
        problems: One line for each problem, which begins with the name of the file, or of the image set if it is in its list.
        by_colour: The number of masks whose palette holds the classes' colours at other indices than their labels.
        contents: A hash of the pixels of every image that could be read, by its name.
    """

    name: str
    images: int
    width: Span
    height: Span
    pixels: tuple[int, ...]
    holding: tuple[int, ...]
    classes: Classes
    problems: tuple[str, ...] = ()
    by_colour: int = 0
    contents: dict[str, str] = field(default_factory=dict)

    @property
    def void_share(self) -> float:
        """The share of void among all pixels."""
        return self.pixels[-1] / max(1, sum(self.pixels))

    @property
    def floor(self) -> tuple[float, float]:
        """Accuracy and mIoU of predicting background everywhere, without void; NaN if nothing is labelled.

        Without a background, it is the class with the most pixels.
        """
        predicted = torch.zeros(1, len(self.pixels), len(self.classes), dtype=torch.long)  # by truth and prediction
        predicted[0, :, self.classes.floor(self.pixels)] = torch.tensor(self.pixels)
        floor = scores(predicted, self.classes.background)
        return floor["pixel_acc"].item(), floor["miou"].item()

    @property
    def weights(self) -> tuple[float, ...]:
        """The C class weights of the paper's eq. (2), were this the train set."""
        return tuple(class_weights(torch.tensor(self.classes.void_as_background(self.pixels))).tolist())


def image_sets(data_set: DataSet) -> tuple[list[str], list[str]]:
    """The image sets to survey: train, val, and others with masks; and a line for each that is left out.

    Images that `test` shares with train or val are problems of it. Any other set that shares images is taken for a list of
    another purpose, such as VOC's trainval.

    Raises:
        ValueError: There is no train or no val, or one of these lists cannot be read.
    """
    chosen, left_out = ["train", "val"], []
    # Test comes first of the others, so that it is not taken for a list that repeats images.
    seen = {name for image_set in chosen for name in data_set.names(image_set)}
    for other in sorted({*data_set.image_sets()} - {*chosen}, key=lambda name: (name != "test", name)):
        try:
            names = {*data_set.names(other)}
        except ValueError as error:  # training reads no other list than train's and val's
            left_out.append(f"{other} is left out: {error}")
            continue
        if other != "test" and names & seen:
            left_out.append(f"{other} is left out: it lists images of other image sets again")
        elif not any(data_set.mask(name).is_file() for name in names):
            left_out.append(f"{other} is left out: none of its images has a mask")
        else:
            chosen.append(other)
            seen |= names
    return chosen, left_out


def survey(data_set: DataSet, image_set: str, *others: str) -> Survey:
    """Read every image and mask of an image set, and count their contents; no name may also be in `others`.

    Raises:
        ValueError: There is no such image set, or its list cannot be read.
    """
    listed = tuple(dict.fromkeys(data_set.names(image_set)))
    looks = list(in_threads(partial(_read, data_set), listed, image_set))
    sound = [look.size for look in looks if look.size]
    counts = [look.pixels for look in looks]
    return Survey(
        name=image_set,
        images=len(listed),
        width=_span(width for width, _ in sound),
        height=_span(height for _, height in sound),
        pixels=tuple(np.sum(counts, axis=0).tolist()),
        holding=tuple(np.count_nonzero(counts, axis=0).tolist()),
        problems=(*data_set.repeated(image_set, *others), *chain(*(look.problems for look in looks))),
        by_colour=sum(look.by_colour for look in looks),
        classes=data_set.classes,
        contents={name: look.content for name, look in zip(listed, looks, strict=True) if look.content},
    )


def warnings_of(train: Survey, *others: Survey) -> list[str]:
    """A line for each thing that does not stop training, but may spoil it, or a test."""
    lines = []
    for one, other in combinations_with_replacement((train, *others), 2):  # each set with itself, too
        lines += [*_duplicates(one, other), *_namesakes(one, other)]
    if not train.contents:  # nothing could be read, so that every class would seem to be missing
        return lines
    return lines + _rare_classes(train, others)


def _namesakes(one: Survey, other: Survey) -> list[str]:
    """A line for the images of `other` whose files have the names of other images of `one`."""
    by_file_name = {PurePosixPath(name).name: name for name in one.contents}
    others = {name: by_file_name.get(PurePosixPath(name).name) for name in other.contents if name not in one.contents}
    names = [name for name, known in others.items() if known and other.contents[name] != one.contents[known]]
    if not names:
        return []
    found = f"images of {other.name} with the names of other images of {one.name}, such as {others[names[0]]}"
    return [f"{first_of(names, 3, in_line=True)}: {found}"]


def _rare_classes(train: Survey, others: Sequence[Survey]) -> list[str]:
    """A line each for the classes in no image, never in train, or almost empty there; and one for masks of 0 and 255."""
    found: dict[str, list[str]] = {}
    for label, name in enumerate(train.classes.names):
        share, images = train.pixels[label] / max(1, sum(train.pixels)), train.holding[label]
        if not images:
            sets = [other.name for other in others if other.holding[label]]
            found.setdefault(f"in {', '.join(sets)}, but never in train" if sets else "in no image", []).append(name)
        elif share < RARE or images == 1:
            line = f"{name} ({share:.4%} of the pixels, {counted(images, 'image')})"
            found.setdefault("almost empty in train", []).append(line)
    lines = [f"classes {where}: {', '.join(names)}" for where, names in found.items()]
    if train.holding[-1] and not train.holding[1] and len(train.classes) == 2:
        lines.append(
            f"void has {train.void_share:.2%} of train's pixels: if masks store {VOID} for {train.classes.names[1]}, write"
            f" 'names: {{0: {train.classes.names[0]}, {VOID}: {train.classes.names[1]}}}' into classes.yaml"
        )
    return lines


def _duplicates(one: Survey, other: Survey) -> list[str]:
    """A line for the images of two image sets, or of one, that are the same picture under two names."""
    first = {content: name for name, content in reversed(one.contents.items())}
    pairs = [(name, first[content]) for name, content in other.contents.items() if content in first]
    duplicates = [f"{name} and {known}" for name, known in pairs if name != known]
    if not duplicates:
        return []
    where = f"both are in {one.name}" if one is other else f"one is in {one.name} and one in {other.name}"
    return [f"{first_of(duplicates, 3, in_line=True)}: the same picture under two names; {where}"]


def _read(data_set: DataSet, name: str) -> Look:
    """Read an image and its mask, in a thread. A broken file becomes a problem in the result, and stops nothing."""
    image, problems = None, []
    try:
        image = decode.read_image(path := data_set.image(name))
    except ValueError as error:
        problems.append(f"{path.name}: {error}")
    try:  # if the image is broken, too: both problems are named at once
        path = data_set.mask(name)
        mask = data_set.read_mask(name, image)
    except ValueError as error:
        problems.append(f"{path.name}: {error}")
    if image is None or problems:
        return Look([0] * (len(data_set.classes) + 1), problems)
    # The size counts, too: 2 x 3 grey pixels have the bytes of 3 x 2.
    content = sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
    return Look(data_set.classes.count_pixels(mask), (), image.size, mask.info.get("by_colour", False), content)


def _span(lengths: Iterable[int]) -> Span:
    ordered = sorted(lengths) or [0]
    return ordered[0], median_low(ordered), ordered[-1]  # the lower median is one of the lengths


def render(surveys: Sequence[Survey], warnings: Sequence[str], console: Console) -> None:
    """Print the image sets, their classes, problems and warnings. The class weights are those of the first survey."""
    console.print(_image_sets(surveys))
    console.print(_classes(surveys))
    for one in surveys:
        if one.by_colour:
            console.print(f"{one.name}: {one.by_colour} masks hold {BY_COLOUR}")
        number = counted(len(one.problems), "problem") if one.problems else "no problems"
        console.print(f"{one.name}: {number}")
        for problem in one.problems:  # whole lines, for grep
            console.print(f"  {problem}", soft_wrap=True)
    for warning in warnings:
        console.print(f"warning: {warning}", soft_wrap=True)


def _table(*headers: str, caption: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=caption, caption_justify="left")
    table.add_column(no_wrap=True)
    for header in headers:
        table.add_column(header, justify="right", overflow="fold")
    return table


def _image_sets(surveys: Sequence[Survey]) -> Table:
    ground = "the most frequent class" if surveys[0].classes.background is None else "background"
    spans = ("width\nmin/median/max", "height\nmin/median/max")
    caption = f"floor: what predicting {ground} everywhere scores, void left out"
    table = _table("images", *spans, "void", "floor\naccuracy", "floor\nmIoU", "problems", caption=caption)
    for one in surveys:
        lengths = ("/".join(map(str, span)) for span in (one.width, one.height))
        floor = (f"{score:.4f}" for score in one.floor)
        table.add_row(one.name, str(one.images), *lengths, f"{one.void_share:.2%}", *floor, str(len(one.problems)))
    return table


def _classes(surveys: Sequence[Survey]) -> Table:
    headers = [header for one in surveys for header in (f"{one.name}\npixels", "\nimages")]
    caption = f"pixels: of all; images: that hold the class; weight: eq. (2) on {surveys[0].name}, void as background"
    table = _table(*headers, "\nweight", caption=caption)
    weights = [*(f"{weight:.5f}" for weight in surveys[0].weights), ""]  # void has none
    for label, name in enumerate((*surveys[0].classes.names, "void")):
        counts = [(f"{one.pixels[label] / max(1, sum(one.pixels)):.2%}", str(one.holding[label])) for one in surveys]
        table.add_row(name, *chain(*counts), weights[label])
    return table
