"""What PASCAL VOC-2012 is: its classes, colours, void label and folder layout. These facts live here and nowhere else."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
NUM_CLASSES = len(CLASSES)
BACKGROUND = 0
VOID = 255  # the border round every object: neither right nor wrong

# What Pillow raises for a damaged file (an UnidentifiedImageError is an OSError).
BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB in 0..1: what every torchvision backbone was trained with
STD = (0.229, 0.224, 0.225)


def _palette() -> npt.NDArray[np.uint8]:
    """VOC's colour map: bit b of channel c is bit (3 * (7 - b) + c) of the label."""
    labels = np.arange(256)
    bits = [[(labels >> (3 * (7 - b) + c) & 1) << b for b in range(8)] for c in range(3)]
    return np.asarray(np.sum(bits, axis=1).T, dtype=np.uint8)


PALETTE = _palette()  # (256, 3) RGB; label 0 is black, 255 a pale yellow


@dataclass(frozen=True)
class Folder:
    """A folder in VOC's layout: `JPEGImages`, `SegmentationClass` and `ImageSets/Segmentation`."""

    path: Path

    @classmethod
    def find(cls, root: Path) -> "Folder | None":
        """The VOC folder under `root`: `root/VOCdevkit/VOC2012`, `root/VOC2012` or `root` itself; None if there is none."""
        candidates = (root / "VOCdevkit" / "VOC2012", root / "VOC2012", root)
        return next((cls(path) for path in candidates if (path / "ImageSets" / "Segmentation").is_dir()), None)

    def image_sets(self) -> tuple[str, ...]:
        """Names of the image sets it has, in alphabetical order: `train`, `val`, ..."""
        return tuple(sorted(path.stem for path in (self.path / "ImageSets" / "Segmentation").glob("*.txt")))

    def ids(self, image_set: str) -> tuple[str, ...]:
        """The images of one image set, in the file's order.

        Raises:
            ValueError: no such image set, or nothing in it.
        """
        path = self.path / "ImageSets" / "Segmentation" / f"{image_set}.txt"
        if not path.is_file():
            raise ValueError(
                f"no image set '{image_set}' in {self.path}: found {list(self.image_sets())}, wanted {path}"
            )
        lines = path.read_text(encoding="utf-8").splitlines()
        if ids := tuple(line.strip() for line in lines if line.strip()):
            return ids
        raise ValueError(f"the image set '{image_set}' is empty: {path} names no image; write one image name a line")

    def image(self, name: str) -> Path:
        """Where the photograph of `name` lies."""
        return self.path / "JPEGImages" / f"{name}.jpg"

    def mask(self, name: str) -> Path:
        """Where the class mask of `name` lies."""
        return self.path / "SegmentationClass" / f"{name}.png"

    def missing(self, ids: Sequence[str]) -> list[Path]:
        """The images and masks that `ids` want and the folder lacks."""
        images = {path.name for path in (self.path / "JPEGImages").glob("*.jpg")}
        masks = {path.name for path in (self.path / "SegmentationClass").glob("*.png")}
        lacking = [self.image(name) for name in ids if f"{name}.jpg" not in images]
        return lacking + [self.mask(name) for name in ids if f"{name}.png" not in masks]


def read_image(path: Path) -> Image.Image:
    """The photograph as RGB, upright, whatever its file's colour space, depth or EXIF orientation.

    Raises:
        ValueError: the file is missing, truncated or no image.
    """
    try:
        with Image.open(path) as file:
            file.load()
            ImageOps.exif_transpose(file, in_place=True)
            if file.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
                return Image.fromarray((np.asarray(file) >> 8).astype(np.uint8)).convert("RGB")
            return file if file.mode == "RGB" else file.convert("RGB")
    except BROKEN as error:
        raise ValueError(
            f"broken image {path}: {error}; replace the file or take its name out of the image set"
        ) from error


def read_mask(path: Path, size: tuple[int, int] | None = None) -> Image.Image:
    """The class mask as an image whose pixels are labels (mode "P" or "L"): 0..20, and 255 for void.

    Args:
        path: A palette PNG as VOC ships them, or a grey PNG of the labels themselves.
        size: Width and height the mask must have: its photograph's.

    Raises:
        ValueError: the file is missing, broken, a colour picture, of another size, or holds a label 21..254.
    """
    try:
        with Image.open(path) as file:
            file.load()
    except BROKEN as error:
        raise ValueError(
            f"broken mask {path}: {error}; replace the file or take its name out of the image set"
        ) from error
    if file.mode not in ("P", "L"):
        raise ValueError(
            f"mask {path} is a picture of mode {file.mode}, wanted labels: a palette PNG (mode P) or a grey one (mode L)"
        )
    if size is not None and file.size != size:
        raise ValueError(
            f"mask {path} is {file.size[0]}x{file.size[1]}, its image {size[0]}x{size[1]}: make them one size"
        )
    pixels = file.histogram()  # (256,), by label
    if strays := [label for label in range(NUM_CLASSES, VOID) if pixels[label]]:
        raise ValueError(f"mask {path} holds the labels {strays}, wanted 0..{NUM_CLASSES - 1} and {VOID} for void")
    return file
