"""A data set as the rest of the package sees it: its classes, its image sets, and the photograph and mask of each image."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

VOID = 255  # the label of pixels without one: a prediction there is neither right nor wrong


@dataclass(frozen=True)
class Classes:
    """The classes of a data set; the label of a class is its place here.

    Attributes:
        names: The C names, 2 to 254 of them.
        colours: The C colours, RGB.
        background: The label of what is no object; None if every pixel belongs to a class of its own.
        void_colour: The RGB colour of pixels without a label.
    """

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    background: int | None
    void_colour: tuple[int, int, int] = (255, 255, 255)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def palette(self) -> npt.NDArray[np.uint8]:
        """(256, 3) RGB by label, grey for labels without a class."""
        palette = np.full((256, 3), 128, dtype=np.uint8)
        palette[: len(self)] = self.colours
        palette[VOID] = self.void_colour
        return palette

    def count_pixels(self, mask: Image.Image) -> list[int]:
        """The C + 1 numbers of pixels of every class, then of void, in a mask of labels."""
        pixels = mask.histogram()  # (256,), by label
        return [*pixels[: len(self)], pixels[VOID]]


class DataSet(ABC):
    """Photographs with masks, in image sets such as train and val. Nothing behind it knows how its files store labels.

    Attributes:
        path: The folder that it lies in.
        classes: The classes that its masks label.
        generated: Whether this package has drawn the images, so that nobody else's files lie there.
    """

    path: Path
    classes: Classes
    generated: bool = False

    @abstractmethod
    def image_sets(self) -> tuple[str, ...]:
        """The names of its image sets, in alphabetical order: `train`, `val`, ..."""

    @abstractmethod
    def ids(self, image_set: str) -> tuple[str, ...]:
        """The names of an image set's images, in a fixed order. A name may have folders in it: `a/x`.

        Raises:
            ValueError: There is no such image set, or it is empty.
        """

    @abstractmethod
    def image(self, name: str) -> Path:
        """The file of the photograph `name`."""

    @abstractmethod
    def mask(self, name: str) -> Path:
        """The file that holds the mask of `name`."""

    @abstractmethod
    def read_mask(self, name: str, image: Image.Image | None) -> Image.Image:
        """The mask of `name` as an image of mode "L": labels 0..C-1, and VOID; `info["by_colour"]` as `decode.read_mask`.

        Args:
            name: The name of the image.
            image: The photograph, from `decode.read_image`, whose size and orientation the mask must share; None if it is
                broken.

        Raises:
            ValueError: The mask is broken, or does not fit the image, or a label in it is of no class.
        """

    @property
    def rules(self) -> str:
        """What labels depend on besides the files: how this data set reads them."""
        return ""

    def mask_bytes(self, name: str) -> bytes:
        """All that the labels of `name` depend on."""
        return self.mask(name).read_bytes()

    def missing(self, ids: Sequence[str]) -> list[Path]:
        """The files of images and masks in `ids` that are not there."""
        return [path for name in ids for path in (self.image(name), self.mask(name)) if not path.is_file()]

    def repeated(self, image_set: str, *others: str) -> list[str]:
        """What is wrong with an image set's names: those that it lists twice, and those that `others` list, too."""
        times = Counter(self.ids(image_set))
        twice = [f"{image_set}.txt: lists {name} {n} times, wanted once" for name, n in times.items() if n > 1]
        shared = [(name, other) for other in others for name in dict.fromkeys(self.ids(other)) if name in times]
        return twice + [f"{image_set}.txt: lists {name}, which {other}.txt has too" for name, other in shared]
