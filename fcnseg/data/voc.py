"""PASCAL VOC-2012: its classes, colours and folder layout, which are written down here and nowhere else."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
VOID = 255  # the border around every object: a prediction there is neither right nor wrong

# Pillow's errors for a damaged file (an UnidentifiedImageError is an OSError).
BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB in 0..1: torchvision's backbones were trained with them
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
        """The VOC folder under `root`: `root/VOCdevkit/VOC2012`, `root/VOC2012` or `root` itself; None without one."""
        candidates = (root / "VOCdevkit" / "VOC2012", root / "VOC2012", root)
        return next((cls(path) for path in candidates if (path / "ImageSets" / "Segmentation").is_dir()), None)

    def image_sets(self) -> tuple[str, ...]:
        """The names of its image sets, in alphabetical order: `train`, `val`, ..."""
        return tuple(sorted(path.stem for path in (self.path / "ImageSets" / "Segmentation").glob("*.txt")))

    def ids(self, image_set: str) -> tuple[str, ...]:
        """The names of an image set's images, in the order of its file.

        Raises:
            ValueError: There is no such image set, or it is empty.
        """
        path = self.path / "ImageSets" / "Segmentation" / f"{image_set}.txt"
        if not path.is_file():
            raise ValueError(f"no image set '{image_set}': found {list(self.image_sets())}, wanted {path}")
        lines = path.read_text(encoding="utf-8").splitlines()
        if ids := tuple(line.strip() for line in lines if line.strip()):
            return ids
        raise ValueError(f"the image set '{image_set}' is empty: {path} names no image; write one image name a line")

    def image(self, name: str) -> Path:
        """The file of the image `name`."""
        return self.path / "JPEGImages" / f"{name}.jpg"

    def mask(self, name: str) -> Path:
        """The file of the mask of the image `name`."""
        return self.path / "SegmentationClass" / f"{name}.png"

    def missing(self, ids: Sequence[str]) -> list[Path]:
        """The files of images and masks in `ids` that are not in the folder."""
        return [path for name in ids for path in (self.image(name), self.mask(name)) if not path.exists()]


@contextmanager
def _opened(path: Path, kind: str) -> Iterator[Image.Image]:
    """Open a picture; if the file turns out to be broken in the `with` block, raise a ValueError that names it."""
    try:
        with Image.open(path) as file:
            yield file
    except BROKEN as error:
        remedy = "replace the file or take its name out of the image set"
        raise ValueError(f"broken {kind} {path}: {error}; {remedy}") from error


def read_image(path: Path) -> Image.Image:
    """The image as RGB and upright, from a file of any colour space, depth or EXIF orientation.

    Raises:
        ValueError: The file is missing, truncated or no image.
    """
    with _opened(path, "image") as file:
        file.load()
        ImageOps.exif_transpose(file, in_place=True)
        if file.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
            return Image.fromarray((np.asarray(file) >> 8).astype(np.uint8)).convert("RGB")
        return file if file.mode == "RGB" else file.convert("RGB")


def read_mask(path: Path, size: tuple[int, int] | None = None) -> Image.Image:
    """The class mask as an image whose pixels are labels (mode "P" or "L"): 0..20, and 255 for void.

    Args:
        path: A palette PNG, as VOC's are, or a grey PNG of the labels themselves.
        size: The width and height of its image, which the mask must have too.

    Raises:
        ValueError: The file is missing, broken, a colour picture, of another size, or has a label 21..254.
    """
    with _opened(path, "mask") as file:
        file.load()
    if file.mode not in ("P", "L"):
        wanted = "wanted labels: a palette PNG (mode P) or a grey one (mode L)"
        raise ValueError(f"mask {path} is a picture of mode {file.mode}, {wanted}")
    if size is not None and file.size != size:
        found, wanted = ("x".join(map(str, pixels)) for pixels in (file.size, size))
        raise ValueError(f"mask {path} is {found}, its image {wanted}: make them one size")
    pixels = file.histogram()  # (256,), by label
    if strays := [label for label in range(NUM_CLASSES, VOID) if pixels[label]]:
        raise ValueError(f"mask {path} holds the labels {strays}, wanted 0..{NUM_CLASSES - 1} and {VOID} for void")
    return file


def count_pixels(mask: Image.Image) -> list[int]:
    """The 22 numbers of pixels of every class, then of void."""
    pixels = mask.histogram()  # (256,), by label
    return [*pixels[:NUM_CLASSES], pixels[VOID]]
