"""A data set of any format: the files of its images and masks by name, its image sets, and how masks are read."""

import re
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path, PurePosixPath

from PIL import Image

from fcnseg.data import decode
from fcnseg.data.dataset import Classes, DataSet
from fcnseg.data.formats.classes import FILE, ClassList
from fcnseg.data.formats.polygons import Drawing
from fcnseg.texts import warn


@dataclass
class Files(DataSet):
    """Images and masks in files of any layout. Training can use them once there are classes and the image sets train and val.

    Attributes:
        path: The folder of the data set.
        format: The name of the format, and the file or folder that it was recognised by.
        sets: The names of the images of each image set; all of them in "" if no file says.
        pairs: The photograph and the file with the mask of every name.
        class_list: The classes, and the numbers and colours that masks store for them; None if no file lists them.
        alone: A line for each photograph without a mask and each mask without a photograph.
        drawings: The shapes in the mask of every name; empty if masks are pictures.
    """

    path: Path
    format: str
    sets: dict[str, list[str]] = field(default_factory=dict)
    pairs: dict[str, tuple[Path, Path]] = field(default_factory=dict)
    class_list: ClassList | None = None
    alone: list[str] = field(default_factory=list)
    drawings: dict[str, Drawing] = field(default_factory=dict)

    def add(self, image_set: str, name: str, photograph: Path, mask: Path) -> None:
        """Add an image to an image set."""
        self.sets.setdefault(image_set, []).append(name)
        self.pairs[name] = photograph, mask

    @property
    def known(self) -> ClassList:
        """The class list.

        Raises:
            ValueError: No file lists the classes.
        """
        if self.class_list is None:
            raise ValueError(
                f"{self.path} is {self.format}, but nothing says which classes its masks have: write {FILE}"
                " (README, Your data), or have it written by"
                f" python -m fcnseg.check data=folder data.root={self.path} write=true"
            )
        return self.class_list

    @property
    def classes(self) -> Classes:  # type: ignore[override]
        """The classes."""
        return self.known.classes

    @property
    def rules(self) -> str:
        """A text of all that labels depend on besides the files of masks."""
        legend = self.known.legend
        return repr([sorted(pairs.items()) for pairs in (legend.values, legend.colours, self.known.words)])

    def image_sets(self) -> tuple[str, ...]:
        """The names of its image sets, in alphabetical order: `train`, `val`, ..."""
        return tuple(sorted(self.sets))

    def names(self, image_set: str) -> tuple[str, ...]:
        """The names of an image set's images.

        Raises:
            ValueError: There is no such image set, or it is empty.
        """
        if not self.sets.get(image_set):
            found = f"found {list(self.image_sets())}; add it to the data set, or name another"
            raise ValueError(f"no image set '{image_set}' in {self.path}: {found}")
        return tuple(self.sets[image_set])

    def image(self, name: str) -> Path:
        """The file of the photograph `name`."""
        return self.pairs[name][0]

    def mask(self, name: str) -> Path:
        """The file that holds the mask of `name`, or its shapes."""
        return self.pairs[name][1]

    def mask_bytes(self, name: str) -> bytes:
        """The bytes that describe the mask of `name`."""
        return repr(self.drawings[name]).encode() if self.drawings else self.mask(name).read_bytes()

    def read_mask(self, name: str, image: Image.Image | None) -> Image.Image:
        """The labels of a mask: see `decode.read_mask`; polygons are drawn."""
        if not self.drawings:
            return decode.read_mask(self.mask(name), image, legend=self.known.legend)
        return self.drawings[name].draw(self.mask(name), name, image, self.known)


SHARE = 0.2  # the share of the images that val gets where nothing else is said


def make_val(files: Files, share: float = SHARE, group: str | None = None) -> None:
    """Make val out of train, or train and val out of a set without a name, if no val is there.

    A hash of an image's name, or of the part that `group` matches, decides whether it goes to val. So images that are added
    later move no other image.

    Raises:
        ValueError: There are fewer than two groups, or a setting is out of its range.
    """
    if not 0 < share < 1:
        raise ValueError(f"data.source.val={share}: wanted the share of images that val gets, between 0 and 1")
    try:
        pattern = re.compile(group or "")
    except re.error as error:
        raise ValueError(f"data.source.group={group}: {error}; wanted a regular expression such as '^[^_]+'") from error
    sets = files.sets
    if "val" in sets:
        if share != SHARE or group:
            warn(f"{files.path} names its val images itself: data.source.val and data.source.group have no effect on it")
        return
    taken = ["train"] if "train" in sets else [name for name in sets if name != "test"] or [*sets]  # a test set stays one
    whole = [name for image_set in taken for name in sets.pop(image_set)]
    matches = {name: pattern.search(PurePosixPath(name).name) if group else None for name in whole}
    keys = {name: match[0] if match else name for name, match in matches.items()}
    places = {key: int(sha256(key.encode()).hexdigest(), 16) / 2**256 for key in keys.values()}  # from 0 to 1
    if len(places) < 2:
        what = f"groups (data.source.group={group})" if group else "images"
        raise ValueError(f"{files.path} has {len(places)} {what}, wanted 2 or more, to make train and val of")
    number = sum(place < share for place in places.values())
    val = set(sorted(places, key=places.__getitem__)[: min(max(1, number), len(places) - 1)])  # neither is left empty
    sets["train"] = [name for name in whole if keys[name] not in val]
    sets["val"] = [name for name in whole if keys[name] in val]
