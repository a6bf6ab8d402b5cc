"""A data set as the rest of the package sees it: its classes, its image sets, and the photograph and mask of each image."""

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fcnseg.texts import counted

VOID = 255  # the label of pixels without one: a prediction there is neither right nor wrong
MOST_CLASSES = VOID - 1  # labels are bytes, and one more is kept for what is no class: see `decode.UNKNOWN`
# The endings of photographs.
SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".bmp", ".tif", ".tiff", ".webp")
MEAN = (0.485, 0.456, 0.406)  # ImageNet's mean, RGB in 0..1: torchvision's backbones were trained with it
STD = (0.229, 0.224, 0.225)  # ImageNet's deviation, as above
BY_COLOUR = "the classes' colours at other indices: they are read by their colours"  # for messages about such masks


@dataclass(frozen=True)
class Classes:
    """The classes of a data set; the label of a class is its place here.

    Attributes:
        names: The C names, 2 to 254 of them.
        colours: The C colours, RGB.
        background: The label of pixels outside all objects; None if there is no such class.
        void_colour: The RGB colour of pixels without a label.

    Raises:
        ValueError: There are too few or too many classes, two have one name, or one has no colour.
    """

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    background: int | None
    void_colour: tuple[int, int, int] = (255, 255, 255)

    def __post_init__(self) -> None:
        if not 2 <= len(self) <= MOST_CLASSES:
            raise ValueError(f"{counted(len(self), 'class', 'classes')}, wanted 2 to {MOST_CLASSES}")
        if twice := [name for name, times in Counter(self.names).items() if times > 1]:
            raise ValueError(f"several classes have the name {twice[0]}, wanted a name for each")
        if len(self.colours) != len(self) or self.background not in (None, *range(len(self))):
            found = f"{len(self.colours)} colours and the background {self.background}"
            raise ValueError(f"{found} for {len(self)} classes: wanted a colour for each, and one of them or None")

    def __len__(self) -> int:
        return len(self.names)

    def plain(self) -> dict[str, Any]:
        """The plain values that stand for the classes in a file."""
        colours, void = [[*colour] for colour in self.colours], [*self.void_colour]
        return {"names": [*self.names], "colours": colours, "background": self.background, "void_colour": void}

    @classmethod
    def of(cls, stored: Any) -> "Classes":
        """The classes from the values of `plain`, as they were read from a file.

        Raises:
            ValueError: `stored` holds something else.
        """
        try:
            *own, void = ((r, g, b) for r, g, b in np.array([*stored["colours"], stored["void_colour"]], np.uint8).tolist())
            names, background = tuple(map(str, stored["names"])), stored["background"]
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"damaged classes: {error}") from error
        return cls(names, tuple(own), background, void)

    def check_same(self, other: "Classes", whose: str) -> None:
        """Refuse the classes of some data, `other`, if they are not the same as these; their colours may differ.

        The message calls the owner of these classes `whose`, such as "VOC's server".

        Raises:
            ValueError: The names, their order or the background differ.
        """
        if (self.names, self.background) != (other.names, other.background):
            raise ValueError(
                f"the data have other classes than {whose}: found {other}, wanted {self}; give a data set with these"
                " classes, or map its labels to them"
            )

    def __str__(self) -> str:
        background = "no background" if self.background is None else f"background: {self.names[self.background]}"
        return f"{len(self)} classes ({', '.join(self.names)}; {background})"

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

    def floor(self, pixels: Sequence[int]) -> int:
        """The class that the floor predicts everywhere: background, or else the most frequent of `count_pixels`."""
        return int(np.argmax(pixels[:-1])) if self.background is None else self.background

    def void_as_background(self, pixels: Sequence[int]) -> list[int]:
        """The C numbers of pixels that eq. (2) takes, from the C + 1 of `count_pixels`: void counts as background.

        Without a background, void is left out.
        """
        *labelled, void = pixels
        if self.background is not None:
            labelled[self.background] += void
        return labelled


class DataSet(ABC):
    """Photographs with masks, in image sets such as train and val. Its users need not know how its files store labels.

    Attributes:
        path: The folder of the data set.
        classes: The classes that its masks label.
        generated: Whether this package has drawn the images, so that the folder holds no files of other people.
        licence: The terms of use of the images.
        alone: A line for each file that is left out, since its image or its mask is missing.
    """

    path: Path
    classes: Classes
    generated: bool = False
    licence: str = "images of your own: say here where they come from and who may use them"
    alone: Sequence[str] = ()

    @abstractmethod
    def image_sets(self) -> tuple[str, ...]:
        """The names of its image sets, in alphabetical order: `train`, `val`, ..."""

    @abstractmethod
    def names(self, image_set: str) -> tuple[str, ...]:
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
        """The mask of `name` as an image of mode "L": labels 0..C-1, and VOID.

        `info["by_colour"]` of the image is true if the colours of the file's palette gave the labels: see `decode.read_mask`.

        Args:
            name: The name of the image.
            image: The photograph, from `decode.read_image`; the mask must have its size and orientation. None if the
                photograph is broken.

        Raises:
            ValueError: The mask is broken or does not fit the image, or a label belongs to no class.
        """

    @property
    def rules(self) -> str:
        """A text of all that labels depend on besides the files of images and masks. When it changes, packs are built anew.

        A reader that has more than the classes, such as a table of raw labels, adds it to the text.
        """
        return json.dumps(self.classes.plain())

    def mask_bytes(self, name: str) -> bytes:
        """The bytes of the mask of `name`: the whole file, unless one file holds the masks of many images."""
        return self.mask(name).read_bytes()

    def missing(self, names: Sequence[str]) -> list[Path]:
        """The files of images and masks in `names` that do not exist."""
        return [path for name in names for path in (self.image(name), self.mask(name)) if not path.is_file()]

    def repeated(self, image_set: str, *others: str) -> list[str]:
        """A line for each problem of an image set's names: listed twice, or also in one of `others`."""
        times = Counter(self.names(image_set))
        twice = [f"{image_set} lists {name} {n} times, wanted once" for name, n in times.items() if n > 1]
        shared = [(name, other) for other in others for name in dict.fromkeys(self.names(other)) if name in times]
        return twice + [f"{image_set} lists {name}, which {other} lists too" for name, other in shared]


def find_folder(root: Path, places: Sequence[str], holds: str) -> Path | None:
    """The first of some `places` in `root`, or `root` itself, that has the folder `holds`; None if none has it."""
    return next((path for path in (*(root / place for place in places), root) if (path / holds).is_dir()), None)


Source = Callable[..., DataSet]  # its arguments are a folder, and `download` if that is set


def find_data_set(source: Source, root: Path, download: bool | None = None) -> DataSet:
    """The data set that `source` finds, downloads or generates in the folder `root`.

    Raises:
        ValueError: There is no data set, or `source` does not return one or takes no `download`.
    """
    try:
        data_set = source(root) if download is None else source(root, download=download)
    except OSError as error:
        raise ValueError(f"data.root={root}: {error}; give a folder that can be read and written") from error
    except TypeError as error:
        setting = "data.download" if "'download'" in str(error) else "data.source"
        raise ValueError(f"data.source cannot be called with a folder: {error}; leave {setting} as it is") from error
    if not isinstance(data_set, DataSet):
        kind = type(data_set).__name__
        raise ValueError(f"data.source gave a {kind}, wanted a fcnseg.data.dataset.DataSet: leave data.source as it is")
    return data_set
