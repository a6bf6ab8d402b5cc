"""The survey of a data set: what its image sets hold, the scores to beat, and which files are broken."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from statistics import median_low

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from fcnseg.data import decode, voc
from fcnseg.data.dataset import BY_COLOUR, DataSet
from fcnseg.data.progress import shown
from fcnseg.losses import class_weights
from fcnseg.metrics import scores

Span = tuple[int, int, int]  # the least, the median and the greatest of some lengths in pixels; zeros without any
# Of an image: its size, the pixels of 22 labels, problems, and whether its mask is read by its colours.
Look = tuple[tuple[int, int] | None, list[int], list[str], bool]


@dataclass(frozen=True)
class Survey:
    """What was counted in one image set. An image with a problem is in `images` alone.

    Attributes:
        name: The name of the image set.
        images: The number of images that its file lists; a name that is listed twice counts once.
        width: The span of the images' widths.
        height: The span of the images' heights.
        pixels: The number of pixels of each of the 21 classes, then of void.
        holding: The number of images that hold each of these 22 labels.
        problems: One line for each problem, which begins with the name of the file.
        by_colour: The number of masks whose palette holds VOC's colours at other indices than VOC's.
    """

    name: str
    images: int
    width: Span
    height: Span
    pixels: tuple[int, ...]
    holding: tuple[int, ...]
    problems: tuple[str, ...] = ()
    by_colour: int = 0

    @property
    def void_share(self) -> float:
        """The share of void among all pixels."""
        return self.pixels[-1] / max(1, sum(self.pixels))

    @property
    def floor(self) -> tuple[float, float]:
        """Accuracy and mIoU of predicting background everywhere, without void; NaN if nothing is labelled."""
        predicted = torch.zeros(1, len(self.pixels), voc.NUM_CLASSES, dtype=torch.long)  # by truth and prediction
        predicted[0, :, voc.BACKGROUND] = torch.tensor(self.pixels)
        floor = scores(predicted, voc.BACKGROUND)
        return floor["pixel_acc"].item(), floor["miou"].item()

    @property
    def weights(self) -> tuple[float, ...]:
        """The 21 class weights of the paper's eq. (2), were this the train set."""
        return tuple(class_weights(torch.tensor(voc.VOC.with_void(self.pixels))).tolist())


def survey(folder: DataSet, image_set: str, *others: str) -> Survey:
    """Read every image and mask of an image set, and count what is in them; no name may be in one of `others`, too.

    Raises:
        ValueError: There is no such image set, or its list cannot be read.
    """
    listed = tuple(dict.fromkeys(folder.ids(image_set)))
    with ThreadPoolExecutor() as pool:
        looks = list(shown(pool.map(lambda name: _look(folder, name), listed), image_set, len(listed)))
    sizes, counts, problems, by_colour = zip(*looks, strict=True)
    sound = [size for size in sizes if size]
    return Survey(
        name=image_set,
        images=len(listed),
        width=_span(width for width, _ in sound),
        height=_span(height for _, height in sound),
        pixels=tuple(np.sum(counts, axis=0).tolist()),
        holding=tuple(np.count_nonzero(counts, axis=0).tolist()),
        problems=(*folder.repeated(image_set, *others), *chain(*problems)),
        by_colour=sum(by_colour),
    )


def _look(folder: DataSet, name: str) -> Look:
    """What one image and its mask hold. If they have a problem, there is no size and nothing is counted."""
    image, problems = None, []
    try:
        image = decode.read_image(path := folder.image(name))
    except ValueError as error:
        problems.append(f"{name}{path.suffix}: {error}")
    try:
        path = folder.mask(name)
        mask = folder.read_mask(name, image)
    except ValueError as error:
        problems.append(f"{name}{path.suffix}: {error}")
    if image is None or problems:
        return None, [0] * (voc.NUM_CLASSES + 1), problems, False
    return image.size, folder.classes.count_pixels(mask), [], mask.info["by_colour"]


def _span(lengths: Iterable[int]) -> Span:
    ordered = sorted(lengths) or [0]
    return ordered[0], median_low(ordered), ordered[-1]  # the lower median is one of the lengths


def render(surveys: Sequence[Survey], console: Console) -> None:
    """Print the image sets, their classes and their problems. The class weights are those of the first survey."""
    console.print(_image_sets(surveys))
    console.print(_classes(surveys))
    for one in surveys:
        if one.by_colour:
            console.print(f"{one.name}: {one.by_colour} masks hold {BY_COLOUR}", markup=False)
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
        spans = ["/".join(map(str, span)) for span in (one.width, one.height)]
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
