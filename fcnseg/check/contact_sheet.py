"""The contact sheet of a data set: some images with their masks over them, and the shares of its classes."""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch
from PIL import Image

from fcnseg.check.survey import Survey
from fcnseg.data import decode
from fcnseg.data.dataset import DataSet
from fcnseg.data.pictures import overlay
from fcnseg.machine.files import replacing

PAIRS = 12
COLUMNS = 4
BARS = 40  # the classes with the most pixels that the chart shows
SIDE = 320  # pixels of the longer side of an image


def save(path: Path, data_set: DataSet, surveys: Sequence[Survey]) -> None:
    """Write the contact sheet of surveys as a PNG; at least one image could be read.

    Raises:
        ValueError: It cannot be written there.
    """
    names = [name for survey in surveys for name in survey.contents]
    # Always the same images, so that two sheets can be compared.
    chosen = random.Random(0).sample(names, min(PAIRS, len(names)))
    rows, bars = math.ceil(len(chosen) / COLUMNS), min(BARS, len(data_set.classes))
    figure = Figure(figsize=(13, 3.1 * rows + 1.2 + 0.25 * bars), layout="constrained")
    above, below = cast(Sequence[SubFigure], figure.subfigures(2, 1, height_ratios=[3.1 * rows, 1.2 + 0.25 * bars]))
    axes = above.subplots(rows, COLUMNS, squeeze=False).flatten()
    for ax in axes:
        ax.axis("off")
    for ax, name in zip(axes, chosen, strict=False):
        ax.imshow(_overlay(data_set, name))
        ax.set_title(name if len(name) <= 28 else f"...{name[-25:]}", fontsize=8, parse_math=False)
    _shares(below.subplots(), surveys, bars)
    try:
        with replacing(path) as file:
            figure.savefig(file, format="png", dpi=90)
    except OSError as error:
        raise ValueError(f"picture={path} cannot be written ({error.strerror}): name another file, or null") from error


def _overlay(data_set: DataSet, name: str) -> npt.NDArray[np.uint8]:
    """(H, W or more, 3) an image, and the same with the colours of its classes over it."""
    image = decode.read_image(data_set.image(name))
    mask = data_set.read_mask(name, image)
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    shown = np.asarray(image.resize(size))
    labels = np.asarray(mask.resize(size, Image.Resampling.NEAREST))
    mixed = overlay(shown.transpose(2, 0, 1), labels, data_set.classes)  # (H, W, 3)
    # A wide image has its overlay below it, a high one beside it: both pairs are about square.
    return np.concatenate([shown, mixed], axis=0 if size[0] >= size[1] else 1)


def _shares(ax: Axes, surveys: Sequence[Survey], bars: int) -> None:
    """The share of each class among the labelled pixels of each image set, on a logarithmic axis."""
    classes = surveys[0].classes
    labels = np.argsort(-np.array(surveys[0].pixels[:-1]), kind="stable")[:bars]
    height = 0.8 / len(surveys)
    for i, survey in enumerate(surveys):
        shares = np.array(survey.pixels[:-1]) / max(1, sum(survey.pixels[:-1]))
        colours = np.array(classes.colours)[labels] / 255
        place = np.arange(bars) + i * height
        ax.barh(place, shares[labels], height, color=colours, edgecolor="black", hatch="//" * i, linewidth=0.5)
    ax.set_yticks(np.arange(bars) + 0.4 - height / 2, [classes.names[label] for label in labels], parse_math=False)
    ax.set_xscale("log")
    ax.set_xlabel("share of labelled pixels")
    ax.invert_yaxis()
    handles = [Patch(facecolor="lightgrey", edgecolor="black", hatch="//" * i) for i in range(len(surveys))]
    ax.legend(handles, [survey.name for survey in surveys], loc="lower right")
