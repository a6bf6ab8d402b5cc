"""Data sets in the formats that people have: recognised by the contents of the folder, and read into labels."""

from pathlib import Path

from fcnseg.data.formats import layouts
from fcnseg.data.formats.classes import find_class_list
from fcnseg.data.formats.files import SHARE, Files, make_val
from fcnseg.data.formats.layouts import IMAGE_FOLDERS, MASK_FOLDERS
from fcnseg.data.voc import VOCFolder
from fcnseg.texts import first_of, warn


def folder(
    root: Path, *, val: float = SHARE, group: str | None = None, image_suffix: str = "", mask_suffix: str | None = None
) -> Files:
    """The data set in `root`, in any format that is known, even if no file lists its classes.

    It is named after `data=folder`. The configs of stored runs name it, so that the name has to stay.

    Args:
        root: The folder that holds the data set.
        val: The share of the images that becomes val, if the data set has no val.
        group: A regular expression. Images whose names match it with the same text stay together in train or val,
            such as the frames of one video; None: each image is placed by itself.
        image_suffix: The end of photographs' names, before `.jpg`; names of masks lack it.
        mask_suffix: The end of masks' names, before `.png`; None: nothing, `_mask`, `_label` or `_labels`.

    Raises:
        ValueError: There is no data set, or it is broken.
    """
    files = find(root, image_suffix=image_suffix, mask_suffix=mask_suffix)
    if files is None:
        raise ValueError(
            f"no data set in data.root={root}: {contents(root)}; wanted VOC's layout, a folder of"
            f" {', '.join(IMAGE_FOLDERS[:2])} or alike beside one of {', '.join(MASK_FOLDERS[:2])} or alike, a CSV"
            " with the columns image, mask and split, COCO's annotations.json or labelme's JSON files (README, Your data)"
        )
    make_val(files, val, group)
    return files


def contents(root: Path) -> str:
    """The contents of a folder, for messages."""
    if not root.is_dir():
        return "there is no such folder"
    names = sorted(path.name for path in root.iterdir())
    return f"the folder holds {first_of(names, 8, in_line=True) or 'nothing'}"


def find(root: Path, *, image_suffix: str = "", mask_suffix: str | None = None) -> Files | None:
    """The data set in `root`, before val is made; None if there is no data set. For the settings, see `folder`."""
    # Files that name images and masks come first; folders and names that look alike are a guess.
    files = layouts.lists(root) or layouts.table(root) or layouts.coco(root) or layouts.labelme(root)
    if files and (image_suffix or mask_suffix is not None):
        warn(
            f"{files.path} is {files.format}, which names images and masks itself: data.source.image_suffix and"
            " data.source.mask_suffix have no effect on it"
        )
    return files or layouts.folders(root, image_suffix, mask_suffix)


def beyond_voc(root: Path) -> Files | None:
    """The data set in `root`, if only `data=folder` can read it; `data=voc2012` reads VOC's 21 classes."""
    in_layout = VOCFolder.find(root)
    # In VOC's layout, only a class list tells a data set of other classes.
    if in_layout and find_class_list(in_layout.path) is None:
        return None
    return find(root)
