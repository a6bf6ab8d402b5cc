"""Data sets in the formats that people have: recognised by what lies in the folder, and read into labels."""

from pathlib import Path

from fcnseg.data.dataset import DataSet
from fcnseg.data.formats.classes import FILE, READERS
from fcnseg.data.formats.files import SHARE, Layout, split
from fcnseg.data.formats.layouts import IMAGES, LAYOUTS, MASKS, Settings, folders
from fcnseg.data.voc import Folder
from fcnseg.errors import first_of, warn

CHECK = "python -m fcnseg.check data=folder data.root={} write=true"


def folder(
    root: Path, *, val: float = SHARE, group: str | None = None, image_suffix: str = "", mask_suffix: str | None = None
) -> DataSet:
    """The data set in `root`, in any format that is known.

    It is named after `data=folder`. The configs of stored runs name it, so that the name has to stay.

    Args:
        root: The folder that holds the data set.
        val: The share of the images that becomes val, where the data set names none.
        group: A regular expression. Images whose names match it with the same text stand on one side, such as the frames
            of one video; None: every image may stand on either.
        image_suffix: What the names of photographs end in, before `.jpg`, and those of masks do not.
        mask_suffix: What the names of masks end in, before `.png`; None: nothing, `_mask`, `_label` or `_labels`.

    Raises:
        ValueError: There is no data set, nothing says its classes, or it is broken.
    """
    layout = recognise(root, val=val, group=group, image_suffix=image_suffix, mask_suffix=mask_suffix)
    if layout.class_list is None:
        raise ValueError(
            f"{layout.path} is {layout.format}, but nothing says which classes its masks have: write {FILE}"
            f" (README, Your data), or have it written by {CHECK.format(root)}"
        )
    if layout.alone:
        warn(f"left out, as python -m fcnseg.check shows: {first_of(layout.alone, 1, in_line=True)}")
    return layout.data_set(layout.class_list)


def recognise(
    root: Path, *, val: float = SHARE, group: str | None = None, image_suffix: str = "", mask_suffix: str | None = None
) -> Layout:
    """What lies in `root`, also if nothing says its classes: see `folder`.

    Raises:
        ValueError: There is no data set, or it is broken.
    """
    layout = find(root, Settings(image_suffix, mask_suffix))
    if layout is None:
        names = sorted(path.name for path in root.iterdir()) if root.is_dir() else None
        found = "there is no such folder" if names is None else f"the folder holds {', '.join(names[:8]) or 'nothing'}"
        raise ValueError(
            f"no data set in data.root={root}: {found}; wanted VOC's layout, a folder of {', '.join(IMAGES[:2])} or alike"
            f" beside one of {', '.join(MASKS[:2])} or alike, a CSV with the columns image, mask and split, COCO's"
            " annotations.json or labelme's JSON files (README, Your data)"
        )
    split(layout, val, group)
    return layout


def find(root: Path, settings: Settings | None = None) -> Layout | None:
    """What lies in `root`, before val is made; None if it is no data set."""
    settings = settings or Settings()
    layout, found = next(((layout, found) for layout in LAYOUTS if (found := layout(root, settings))), (None, None))
    if found and layout is not folders and settings != Settings():
        warn(
            f"{found.path} is {found.format}, which names images and masks itself: data.source.image_suffix and"
            " data.source.mask_suffix have no effect on it"
        )
    return found


def beyond_voc(root: Path) -> str | None:
    """What lies in `root`, if `data=folder` reads it and `data=voc2012`, which has VOC's 21 classes, cannot."""
    if found := Folder.find(root):
        return f"classes of its own in {own}" if (own := _own_classes(found)) else None
    layout = find(root)
    return layout.format if layout else None


def is_voc(root: Path) -> bool:
    """Whether `data=voc2012` can read what lies in `root`."""
    return (found := Folder.find(root)) is not None and _own_classes(found) is None


def _own_classes(data_set: Folder) -> Path | None:
    """The file in a folder of VOC's layout that says other classes than VOC's."""
    return next((path for name in READERS if (path := data_set.path / name).is_file()), None)
