"""A small generated data set in VOC's folder layout, so that everything can be tried at once, without a download.

Twenty kinds of object stand for VOC's twenty classes. Each has an outline (one of 6), a pattern (one of 4) and a hue
(one of 10, with jitter): two classes share every hue, so that colour alone does not tell them apart.
"""

import colorsys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from fcnseg.data import voc
from fcnseg.data.dataset import VOID
from fcnseg.errors import check_whole_number
from fcnseg.machine.files import build_once
from fcnseg.machine.threads import in_threads

FORMAT = 1  # goes up when a seed draws other images than before: each format has folders of its own

Reals = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.uint8]

# Functions of an object's own coordinates: u and v reach from about -1 to 1 inside it.
OUTLINES: tuple[Callable[[Reals, Reals], Bools], ...] = (
    lambda u, v: np.hypot(u, 1.6 * v) < 1,  # ellipse
    lambda u, v: (np.abs(u) < 0.95) & (np.abs(v) < 0.5),  # rectangle
    lambda u, v: np.maximum(v, 0.866 * np.abs(u) - 0.5 * v) < 0.55,  # triangle
    lambda u, v: np.hypot(u, v) < 0.7 + 0.35 * np.cos(5 * np.arctan2(v, u)),  # star
    lambda u, v: (np.minimum(np.abs(u), np.abs(v)) < 0.3) & (np.maximum(np.abs(u), np.abs(v)) < 0.95),  # cross
    lambda u, v: np.abs(np.hypot(u, v) - 0.7) < 0.25,  # ring
)
PATTERNS: tuple[Callable[[Reals, Reals], Bools], ...] = (
    lambda u, v: np.zeros_like(u, dtype=np.bool_),  # plain
    lambda u, v: np.sin(12 * u) > 0,  # stripes
    lambda u, v: np.sin(9 * u) * np.sin(9 * v) > 0,  # checks
    lambda u, v: np.cos(12 * u) + np.cos(12 * v) > 0.6,  # dots
)


def shapes(root: Path, *, train: int, val: int, seed: int) -> voc.VOCFolder:
    """The generated data set with these numbers, which is drawn first if it does not exist.

    An image depends only on the seed and its name: its bytes are the same on every generation.

    Args:
        root: The folder for generated data sets; each set of numbers has a folder of its own in it.
        train: The number of images in the image set `train`. A set of 20 or more has every class.
        val: The number of images in the image set `val`.
        seed: The seed that the images are drawn with.

    Raises:
        ValueError: A number is no integer or too small.
    """
    for name, number, least in (("train", train, 1), ("val", val, 1), ("seed", seed, 0)):
        check_whole_number(f"data.source.{name}", number, least)
    folder = root / f"shapes-v{FORMAT}-{train}-{val}-{seed}"
    build_once(folder, partial(_generate, train, val, seed))
    return voc.VOCFolder(folder / voc.PLACES[0], generated=True)


def _generate(train: int, val: int, seed: int, folder: Path) -> None:
    """Draw the data set with these numbers into `folder`."""
    names = [f"shapes_{index:06d}" for index in range(train + val)]
    image_sets = {"train": names[:train], "val": names[train:], "trainval": names}
    data_set = voc.new_folder(folder / voc.PLACES[0], image_sets)

    def save(index: int) -> None:
        image, mask = draw(seed, index)
        image.save(data_set.image(names[index]), quality=90)
        mask.save(data_set.mask(names[index]))

    list(in_threads(save, range(len(names)), "Drawing"))


def draw(seed: int, index: int) -> tuple[Image.Image, Image.Image]:
    """An image (RGB, 144 to 208 pixels long) and its mask (VOC's palette), with 1 to 4 objects, some in front of others."""
    rng = np.random.default_rng([seed, index])
    long = int(rng.integers(144, 209))
    short = round(long * rng.uniform(0.62, 0.82))
    size = (short, long) if rng.random() < 0.25 else (long, short)
    canvas = _background(rng, size)
    labels = np.zeros(canvas.shape[:2], dtype=np.uint8)
    own = 1 + index % (voc.NUM_CLASSES - 1)  # drawn last, so that nothing hides it
    for label in (*rng.integers(1, voc.NUM_CLASSES, size=rng.integers(0, 4)), own):
        _add_object(rng, canvas, labels, int(label))
    mask = Image.fromarray(labels).convert("P")
    mask.putpalette(voc.PALETTE.tobytes())
    return _photograph(rng, canvas), mask


def _clouds(rng: np.random.Generator, size: tuple[int, int], cells: int) -> Reals:
    """Smooth noise (H, W) of about 0..1, with `cells` bumps along each side."""
    coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    return np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.float64)


def _background(rng: np.random.Generator, size: tuple[int, int]) -> Reals:
    """Patches of two dull colours: (H, W, 3), RGB of about 0..1."""
    one, other = (np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, 0.5), rng.uniform(0.3, 0.9))) for _ in range(2))
    blend = 0.6 * _clouds(rng, size, 4) + 0.4 * _clouds(rng, size, int(rng.integers(8, 40)))
    canvas: Reals = one + (other - one) * blend[..., None]
    return canvas


def _add_object(rng: np.random.Generator, canvas: Reals, labels: Labels, label: int) -> None:
    """Paint one object over `canvas` (H, W, 3) and, with a void border, over `labels` (H, W)."""
    height, width = labels.shape
    u, v = _own_coordinates(rng, height, width)
    kind = label - 1
    inside = OUTLINES[kind % len(OUTLINES)](u, v)
    hue = kind % 10 / 10 + rng.uniform(-0.035, 0.035)
    colour = np.array(colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.45, 0.95), rng.uniform(0.55, 1)))
    ink = rng.uniform(0.35, 0.6) * PATTERNS[kind % len(PATTERNS)](u, v)
    light = (1 + rng.uniform(-0.25, 0.25) * u) * (1 - ink)  # (H, W)
    canvas[inside] = (light[..., None] * colour)[inside]

    silhouette = Image.fromarray(inside.astype(np.uint8))
    labels[np.asarray(silhouette.filter(ImageFilter.MaxFilter(3))) == 1] = VOID
    labels[np.asarray(silhouette.filter(ImageFilter.MinFilter(3))) == 1] = label


def _own_coordinates(rng: np.random.Generator, height: int, width: int) -> tuple[Reals, Reals]:
    """The coordinates u and v of every pixel, (H, W) each, of an object whose place, size, turn and stretch are drawn."""
    radius = np.sqrt(height * width) * rng.uniform(0.18, 0.38)
    stretch, turn = rng.uniform(0.85, 1.2), rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    y, x = y - height * rng.uniform(0.15, 0.85), x - width * rng.uniform(0.15, 0.85)
    u, v = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    return u / (radius * stretch), v * stretch / radius


def _photograph(rng: np.random.Generator, canvas: Reals) -> Image.Image:
    """The canvas as a camera would take it: with uneven light, soft edges and noise."""
    height, width = canvas.shape[:2]
    light = 0.65 + 0.55 * _clouds(rng, (width, height), 2)
    sharp = Image.fromarray((255 * canvas * light[..., None]).clip(0, 255).astype(np.uint8))
    soft = np.asarray(sharp.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1))))
    noise = rng.normal(scale=rng.uniform(3, 12), size=soft.shape)
    return Image.fromarray((soft + noise).clip(0, 255).astype(np.uint8))
