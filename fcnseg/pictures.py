"""Pictures of images, masks and predictions, as uint8 RGB arrays."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from fcnseg.data.dataset import Classes

if TYPE_CHECKING:
    from torch import Tensor  # a report without pictures of predictions does not need torch

    Pixels = Tensor | npt.NDArray[Any]  # a tensor on the CPU, or an array

Picture = npt.NDArray[np.uint8]  # (H, W, 3)
ERRORS = {  # how a prediction differs from the truth, in colours that most readers can tell apart
    "right": (222, 226, 230),
    "missed": (33, 102, 172),
    "invented": (240, 228, 66),
    "wrong class": (204, 62, 78),
    "void": (255, 255, 255),
}
OPACITY = 0.6  # the share of the image below that a mask hides
GAP = 4  # white pixels between the pictures of a panel
WIDTH = 600  # the least width of a panel in pixels
LINE, SWATCH = 20, 12  # the height of a line of text, and the side of a colour in a legend, in pixels
HEADINGS = ("image", "truth", "prediction", "overlay")
FONT = ImageFont.load_default(14)

# matplotlib's font lacks Chinese characters, among others: charts show boxes for them in the names of classes and images.
warnings.filterwarnings("ignore", "Glyph .* missing from font")


def colour(mask: "Pixels", classes: Classes) -> Picture:
    """Labels (H, W) in the colours of their classes."""
    return np.asarray(classes.palette[np.asarray(mask)], dtype=np.uint8)


def photograph(image: "Pixels") -> Picture:
    """An image (3, H, W) uint8 as (H, W, 3)."""
    return np.asarray(np.asarray(image).transpose(1, 2, 0), dtype=np.uint8)


def overlay(image: "Pixels", mask: "Pixels", classes: Classes) -> Picture:
    """An image (3, H, W) uint8 under the colours of its labels (H, W), except for background."""
    background = -1 if classes.background is None else classes.background
    shown = (np.asarray(mask) != background)[..., None] * OPACITY  # (H, W, 1)
    return np.asarray(photograph(image) * (1 - shown) + colour(mask, classes) * shown, dtype=np.uint8)


def errors(truth: "Pixels", prediction: "Pixels", classes: Classes) -> Picture:
    """Where labels (H, W) differ from the truth, in the colours of `ERRORS`.

    "Missed" is an object predicted as background; "invented" is background predicted as an object. Without a background,
    every error is a wrong class.
    """
    given, predicted = np.asarray(truth), np.asarray(prediction)
    background = -1 if classes.background is None else classes.background
    kind = np.where(given == predicted, 0, 3)
    kind[(kind == 3) & (predicted == background)] = 1
    kind[(kind == 3) & (given == background)] = 2
    kind[given >= len(classes)] = 4
    return np.asarray(np.array([*ERRORS.values()], dtype=np.uint8)[kind])


def panel(images: "Pixels", truths: "Pixels", predictions: "Pixels", classes: Classes, names: Sequence[str]) -> Picture:
    """Image, truth, prediction, and prediction over the image: a row a sample, with headings above and a legend below.

    Small images are enlarged by a whole number, so that the panel is at least `WIDTH` pixels wide.

    Args:
        images: (N, 3, H, W) uint8.
        truths: (N, H, W) labels, 255 for void.
        predictions: (N, H, W) labels.
        classes: The classes of the labels, which have the colours of the labels.
        names: The names of the images, which head the rows.
    """
    height, width = images.shape[-2:]
    scale = -(-WIDTH // (len(HEADINGS) * width))
    step, row = scale * width + GAP, scale * height + LINE
    shades = legend([truths, predictions], classes)
    places = _flowed(list(shades), len(HEADINGS) * step - GAP)
    bottom = LINE + len(names) * row
    canvas = Image.new("RGB", (len(HEADINGS) * step - GAP, bottom + GAP + LINE * (places[-1][1] + 1)), "white")
    draw = ImageDraw.Draw(canvas)
    for column, heading in enumerate(HEADINGS):
        draw.text((column * step, 0), heading, "black", FONT)
    for number, (name, image, truth, prediction) in enumerate(zip(names, images, truths, predictions, strict=True)):
        draw.text((0, LINE + number * row), _line(name), "black", FONT)
        coloured = (colour(truth, classes), colour(prediction, classes))
        for column, each in enumerate((photograph(image), *coloured, overlay(image, prediction, classes))):
            large = each.repeat(scale, 0).repeat(scale, 1)
            canvas.paste(Image.fromarray(large), (column * step, 2 * LINE + number * row))
    for (name, shade), (x, line) in zip(shades.items(), places, strict=True):
        top = bottom + GAP + line * LINE
        draw.rectangle((x, top + 2, x + SWATCH, top + SWATCH + 2), shade, "black")
        draw.text((x + SWATCH + GAP, top), _line(name), "black", FONT)
    return np.asarray(canvas, dtype=np.uint8)


def _line(text: str) -> str:
    """A name as a line that can be drawn: the name of a class or a file may have any characters."""
    return " ".join(text.encode(errors="replace").decode().split())


def _flowed(names: Sequence[str], right: int) -> list[tuple[int, int]]:
    """The starts of a legend's entries, as (pixel in the line, line), so that no entry crosses the edge `right`."""
    places, x, line = [], 0, 0
    for name in names:
        width = int(FONT.getlength(_line(name))) + SWATCH + 4 * GAP
        if x and x + width > right:
            x, line = 0, line + 1
        places.append((x, line))
        x += width
    return places


def legend(masks: Sequence["Pixels"], classes: Classes) -> dict[str, str]:
    """The classes in masks of any shapes, with their colours as #rrggbb."""
    labels = sorted({label for mask in masks for label in np.unique(mask).tolist()})
    names = [*classes.names, *["void"] * (256 - len(classes))]
    return {names[label]: "#{:02x}{:02x}{:02x}".format(*classes.palette[label]) for label in labels}
