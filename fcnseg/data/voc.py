"""PASCAL VOC-2012: its classes, colours and folder layout, which are written down here and nowhere else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from fcnseg.data import decode
from fcnseg.data.dataset import SUFFIXES, VOID, Classes, DataSet, find_folder

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
NUM_CLASSES = len(CLASSES)
BACKGROUND = 0

IMAGES, MASKS, LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"  # its folders
NEEDED = ("train", "val", "default")  # the image sets whose lists may not be empty
PLACES = ("VOCdevkit/VOC2012", "VOC2012")  # below `data.root`, where the archive and other programs put a data set


def _palette() -> npt.NDArray[np.uint8]:
    """VOC's colour map: bit b of channel c is bit (3 * (7 - b) + c) of the label."""
    labels = np.arange(256)
    bits = [[(labels >> (3 * (7 - b) + c) & 1) << b for b in range(8)] for c in range(3)]
    return np.asarray(np.sum(bits, axis=1).T, dtype=np.uint8)


PALETTE = _palette()  # (256, 3) RGB; label 0 is black, 255 a pale yellow
VOC = Classes(CLASSES, tuple(map(tuple, PALETTE[:NUM_CLASSES].tolist())), BACKGROUND, tuple(PALETTE[VOID].tolist()))
LABELS = (*range(NUM_CLASSES), VOID)
LEGEND = decode.Legend(
    dict(zip(LABELS, LABELS, strict=True)), {tuple(PALETTE[label].tolist()): label for label in LABELS}, pictures=False
)


def listed(path: Path, images: Path) -> tuple[str, ...]:
    """The names in the list `path` of an image set, a name per line, whose photographs are in the folder `images`.

    Raises:
        ValueError: The list is missing, empty or not text, or a name leads out of the folder.
    """
    if not path.is_file():
        raise ValueError(f"no list {path}: write the names of the images of '{path.stem}' into it, one a line")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # Windows begins a text with a BOM
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8 ({error}): save it in this encoding") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise ValueError(f"the image set '{path.stem}' is empty: {path} names no image; write one image name a line")
    for name in names:
        check_inside(name, path, images)
    return names


def check_inside(name: str, source: Path, root: Path) -> None:
    """Refuse a name in the file `source` that leads out of the folder `root`. It makes no `Path`: there may be thousands.

    Raises:
        ValueError: It leads out of `root`.
    """
    if name.startswith("/") or ".." in name.split("/") or "\0" in name:
        raise ValueError(f"{source} names {name!r}, wanted files inside {root}")


@dataclass(frozen=True)
class VOCFolder(DataSet):
    """A folder in VOC's layout: `JPEGImages`, `SegmentationClass` and `ImageSets/Segmentation`.

    Attributes:
        path: The folder that holds these three.
        generated: Whether this package has drawn the images, so that the folder holds no files of other people.
        licence: The terms of use of the images.
    """

    path: Path
    generated: bool = field(default=False, compare=False)
    licence: str = field(default=DataSet.licence, compare=False)
    classes = VOC

    @property
    def rules(self) -> str:
        """Empty for VOC's classes, which mean the same everywhere."""
        return "" if self.classes == VOC else super().rules

    @classmethod
    def find(cls, root: Path) -> "VOCFolder | None":
        """The VOC folder under `root`: `root/VOCdevkit/VOC2012`, `root/VOC2012` or `root` itself; None without one."""
        path = find_folder(root, PLACES, LISTS)
        return cls(path) if path else None

    def image_sets(self) -> tuple[str, ...]:
        """The names of its image sets, in alphabetical order: `train`, `val`, ..."""
        # An export of CVAT has empty lists of sets that it lacks; its own set may be called "default".
        lists = (self.path / LISTS).glob("*.txt")
        return tuple(sorted(path.stem for path in lists if path.stem in NEEDED or (path.is_file() and path.stat().st_size)))

    def list_of(self, image_set: str) -> Path:
        """The file that names the images of an image set, one a line."""
        return self.path / LISTS / f"{image_set}.txt"

    def names(self, image_set: str) -> tuple[str, ...]:
        """The names of an image set's images, in the order of its file. A name may have folders in it: `a/x`.

        Raises:
            ValueError: The image set does not exist, is empty or is not text, or a name leads out of the data set.
        """
        path = self.list_of(image_set)
        if not path.is_file():
            raise ValueError(f"no image set '{image_set}': found {list(self.image_sets())}, wanted {path}")
        return listed(path, self.path / IMAGES)

    def image(self, name: str) -> Path:
        """The file of the image `name`, with the first of `SUFFIXES` that exists."""
        return self._file(IMAGES, name, SUFFIXES)

    def mask(self, name: str) -> Path:
        """The file of the mask of the image `name`."""
        return self._file(MASKS, name, (".png", ".PNG"))

    def read_mask(self, name: str, image: Image.Image | None = None) -> Image.Image:
        """The labels of a mask: see `decode.read_mask`."""
        return decode.read_mask(self.mask(name), image, legend=LEGEND)

    def _file(self, kind: str, name: str, suffixes: Sequence[str]) -> Path:
        paths = (self.path / kind / f"{name}{suffix}" for suffix in suffixes)  # almost always it is the first
        return next(filter(Path.is_file, paths), self.path / kind / f"{name}{suffixes[0]}")


def new_folder(path: Path, image_sets: Mapping[str, Sequence[str]]) -> VOCFolder:
    """Make a folder in VOC's layout with the names of the images of each image set, for the images and masks to be put in."""
    folder = VOCFolder(path)
    for name in (IMAGES, MASKS, LISTS):
        (path / name).mkdir(parents=True)
    for image_set, names in image_sets.items():
        folder.list_of(image_set).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return folder
