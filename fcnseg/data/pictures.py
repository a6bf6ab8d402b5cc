"""Pictures of images, masks and predictions, as uint8 RGB arrays."""

import warnings
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from fcnseg.data.dataset import Classes

Pixels = npt.ArrayLike  # an array, or a tensor on the CPU
Stack = Collection[Pixels]
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
FONT = ImageFont.load_default(14)

# matplotlib's font lacks Chinese characters, among others: charts show boxes for them in the names of classes and images.
warnings.filterwarnings("ignore", "Glyph .* missing from font")


def colour(mask: Pixels, classes: Classes) -> Picture:
    """Labels (H, W) in the colours of their classes."""
    return np.asarray(classes.palette[np.asarray(mask)], dtype=np.uint8)


def photograph(image: Pixels) -> Picture:
    """An image (3, H, W) uint8 as (H, W, 3)."""
    return np.asarray(np.asarray(image).transpose(1, 2, 0), dtype=np.uint8)


def overlay(image: Pixels, mask: Pixels, classes: Classes) -> Picture:
    """An image (3, H, W) uint8 under the colours of its labels (H, W), except for background."""
    background = -1 if classes.background is None else classes.background
    shown = (np.asarray(mask) != background)[..., None] * OPACITY  # (H, W, 1)
    return np.asarray(photograph(image) * (1 - shown) + colour(mask, classes) * shown, dtype=np.uint8)


def errors(truth: Pixels, prediction: Pixels, classes: Classes) -> Picture:
    """Where labels (H, W) differ from the truth, in the colours of `ERRORS`.

    "Missed" is an object predicted as background; "invented" is background predicted as an object. Without a background,
    every error is a wrong class.
    """
    given, predicted = np.asarray(truth), np.asarray(prediction)
    background = -1 if classes.background is None else classes.background
    conditions = (given >= len(classes), given == predicted, predicted == background, given == background)
    kind = np.select(conditions, (4, 0, 1, 2), default=3)  # of ERRORS, by the first that holds
    return np.asarray(np.array([*ERRORS.values()], dtype=np.uint8)[kind])


def pictures_of(image: Pixels, truth: Pixels, prediction: Pixels, classes: Classes, *, with_errors: bool) -> dict[str, Picture]:
    """The pictures of a sample, an image (3, H, W) and labels (H, W), by what they show."""
    shown = {
        "image": photograph(image),
        "truth": colour(truth, classes),
        "prediction": colour(prediction, classes),
        "overlay": overlay(image, prediction, classes),
    }
    return {**shown, "errors": errors(truth, prediction, classes)} if with_errors else shown


def panel(
    images: Stack, truths: Stack, predictions: Stack, classes: Classes, names: Sequence[str], *, with_errors: bool = False
) -> Picture:
    """The pictures of samples, a row each, with headings above and a legend below.

    Small images are enlarged by a whole number, so that the panel is at least `WIDTH` pixels wide.

    Args:
        images: (N, 3, H, W) uint8.
        truths: (N, H, W) labels, 255 for void.
        predictions: (N, H, W) labels.
        classes: The classes of the labels, which have the colours of the labels.
        names: The names of the samples, which head the rows.
        with_errors: Whether the errors of the predictions are shown as well.
    """
    rows = [pictures_of(*each, classes, with_errors=with_errors) for each in zip(images, truths, predictions, strict=True)]
    shades = legend([*truths, *predictions], classes, with_errors=with_errors)
    height, width, _ = rows[0]["image"].shape
    scale = -(-WIDTH // (len(rows[0]) * width))
    step, row_height = scale * width + GAP, scale * height + LINE
    right = max(len(rows[0]) * step - GAP, *map(_room, [*names, *shades]))
    canvas = Image.new("RGB", (right, LINE + len(rows) * row_height + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for column, heading in enumerate(rows[0]):
        draw.text((column * step, 0), heading, "black", FONT)
    for number, (name, row) in enumerate(zip(names, rows, strict=True)):
        top = LINE + number * row_height
        draw.text((0, top), _line(name), "black", FONT)
        for column, picture in enumerate(row.values()):
            large = picture.repeat(scale, 0).repeat(scale, 1)
            canvas.paste(Image.fromarray(large), (column * step, top + LINE))
    return np.vstack([np.asarray(canvas), _drawn(shades, right)])


def _line(text: str) -> str:
    """A name as a line that can be drawn: the name of a class or a file may have any characters."""
    return " ".join(text.encode(errors="replace").decode().split())


def _room(name: str) -> int:
    """The width of a name with a colour before it, in pixels."""
    return int(FONT.getlength(_line(name))) + SWATCH + 4 * GAP


def _drawn(shades: Mapping[str, str], width: int) -> Picture:
    """A legend of this width: names after their colours, in columns that have room for the longest name."""
    column = max(map(_room, shades))
    columns = width // column
    drawn = Image.new("RGB", (width, -(-len(shades) // columns) * LINE), "white")
    draw = ImageDraw.Draw(drawn)
    for number, (name, shade) in enumerate(shades.items()):
        x, top = number % columns * column, number // columns * LINE
        draw.rectangle((x, top + 2, x + SWATCH, top + SWATCH + 2), shade, "black")
        draw.text((x + SWATCH + GAP, top), _line(name), "black", FONT)
    return np.asarray(drawn, dtype=np.uint8)


def legend(masks: Stack, classes: Classes, *, with_errors: bool = False) -> dict[str, str]:
    """The classes in masks of any shapes, and the kinds of errors if these are shown, with their colours as #rrggbb."""
    labels = sorted({label for mask in masks for label in np.unique(mask).tolist()})
    names = [*classes.names, *["void"] * (256 - len(classes))]
    shades = {names[label]: classes.palette[label] for label in labels}
    if with_errors:
        shades |= {f"errors: {kind}": shade for kind, shade in ERRORS.items()}
    return {name: "#{:02x}{:02x}{:02x}".format(*shade) for name, shade in shades.items()}
