"""The layouts of data sets that annotation programs and people make: each function recognises some in a folder."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from fcnseg.data import voc
from fcnseg.data.dataset import SUFFIXES
from fcnseg.data.formats import polygons
from fcnseg.data.formats.classes import READERS, ClassList, class_list_of_shapes, find_class_list
from fcnseg.data.formats.files import Files

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "img_dir", voc.IMAGES.lower(), "leftimg8bit", "photos")
MASK_FOLDERS = (
    *("masks", "mask", "labels", "label", "annotations", "ann_dir", "segmentationclasspng", voc.MASKS.lower()),
    *("gtfine", "gt"),
)
MASK_SUFFIXES = (".png", ".PNG", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg")  # unreadable files are reported later
ENDINGS = ("", "_mask", "_label", "_labels")  # the possible ends of masks' names, without a setting
SETS = {  # the names that folders, files and tables give an image set
    **dict.fromkeys(("train", "training", "train2017"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "val2017"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SEARCHED = 20  # the number of files without a partner for which a nearest name is looked for, among all others

T = TypeVar("T")
Pairs = dict[str, tuple[Path, Path]]  # the photograph and the file with the mask of every name


def lists(root: Path) -> Files | None:
    """VOC's layout: also CVAT's "Segmentation mask 1.1"."""
    if (found := voc.VOCFolder.find(root)) is None:
        return None
    class_list = find_class_list(found.path)
    files = Files(found.path, _format("VOC's layout", voc.LISTS, class_list), class_list=class_list)
    lists_of = {SETS.get(image_set, image_set): image_set for image_set in found.image_sets()}  # the last of several
    for image_set, listed in lists_of.items():
        for name in found.names(listed):
            files.add(image_set, name, found.image(name), found.mask(name))
    return files


def _format(kind: str, found: str, class_list: ClassList | None) -> str:
    """The name of a format, with the files that it was recognised by, such as the class list of a program."""
    program = READERS[class_list.source.name][1] if class_list else ""
    return f"{program}, by {class_list.source.name} and {found}" if class_list and program else f"{kind}, by {found}"


def table(root: Path) -> Files | None:
    """A CSV of image, mask and, if wanted, split, whose paths start from its folder.

    Raises:
        ValueError: A line lacks a path, or leads out of the folder.
    """
    for path in sorted(root.glob("*.csv")):
        # Any other table may be there, in any encoding: it is passed over, and no error.
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            rows = csv.DictReader(file)
            rows.fieldnames = [title.strip().lower() for title in rows.fieldnames or ()]
            if {"image", "mask"} <= set(rows.fieldnames):
                files = Files(root, f"a table of images and masks, by {path.name}", class_list=find_class_list(root))
                for number, row in enumerate(rows, start=2):
                    _add_row(files, path, number, row)
                return files
    return None


def _add_row(files: Files, path: Path, number: int, row: Mapping[str, str | None]) -> None:
    """Add the image in the line `number` of the table `path`."""
    image, mask, split = ((row.get(column) or "").strip() for column in ("image", "mask", "split"))
    if not image or not mask:
        raise ValueError(f"{path}, line {number}: wanted the paths of an image and its mask")
    image_set = SETS.get(split.lower(), split.lower())
    name = Path(image).with_suffix("").as_posix()
    for inside in (image, mask):
        voc.check_inside(inside, path, files.path)
    files.add(image_set, name, files.path / image, files.path / mask)


def folders(root: Path, image_suffix: str, mask_suffix: str | None) -> Files | None:
    """Folders of images and of masks, inside a folder for each image set or around them; or all files in one folder.

    Raises:
        ValueError: There are images and masks, but no two have one name.
    """
    files, places = Files(root, ""), _places_of_sets(root)
    for image_set, (images, masks) in places.items():
        pairs, alone = _pairs(images, masks, image_suffix, mask_suffix)
        for stem, both in pairs.items():
            files.add(image_set, PurePosixPath(image_set, stem).as_posix(), *both)
        files.alone += alone
        files.class_list = files.class_list or find_class_list(images.parent) or find_class_list(images)
    if not files.pairs:
        if alone := [line for line in files.alone if "nearest" in line]:
            raise ValueError(
                f"the folders in {root} hold no image and mask of one name: {alone[0]}, or say what names end in with"
                " data.source.image_suffix and data.source.mask_suffix (data=folder)"
            )
        return None
    files.class_list = find_class_list(root) or files.class_list
    first, second = (path.relative_to(root).as_posix() for path in next(iter(places.values())))
    found_by = f"the folders {first} and {second}" if first != second else f"names in the folder {first}"
    files.format = _format("images and masks", found_by, files.class_list)
    return files


def _places_of_sets(root: Path) -> dict[str, tuple[Path, Path]]:
    """The folders of images and of masks of each image set; of the set "" if they have no folders for image sets."""
    if places := _places(root):
        images, masks = map(_folders, places)
        both = [name for name in images if name in SETS and name in masks]
        return {SETS[name]: (images[name], masks[name]) for name in both} or {"": places}
    sets = {SETS[name]: path for name, path in _folders(root).items() if name in SETS}
    return {name: _places(path) or (path, path) for name, path in sets.items()} or {"": (root, root)}


def _folders(root: Path) -> dict[str, Path]:
    """The folders in `root` by their names in lower case."""
    return {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()} if root.is_dir() else {}


def _places(root: Path) -> tuple[Path, Path] | None:
    """The folders of images and of masks in `root`, if both are there."""
    below = _folders(root)
    images, masks = (next((below[name] for name in names if name in below), None) for names in (IMAGE_FOLDERS, MASK_FOLDERS))
    return (images, masks) if images and masks else None


def _pairs(images: Path, masks: Path, image_suffix: str, mask_suffix: str | None) -> tuple[Pairs, list[str]]:
    """The pairs in two folders, and a line for each file without a partner; of several `ENDINGS`, those of the most pairs."""
    files = [list(folder.glob("*") if images == masks else folder.rglob("*")) for folder in (images, masks)]
    found = []
    for ending in ENDINGS if mask_suffix is None else (mask_suffix,):
        if images == masks and not ending:
            continue  # every image would be its own mask
        shot = _stems(images, files[0], SUFFIXES, image_suffix)
        if images == masks:
            shot = {name: path for name, path in shot.items() if not name.endswith(ending)}
        found.append(paired(shot, _stems(masks, files[1], MASK_SUFFIXES, ending)))
    return max(found, key=lambda pairs: len(pairs[0]), default=({}, []))


def paired(images: Mapping[str, Path], masks: Mapping[str, Path]) -> tuple[Pairs, list[str]]:
    """The pairs of photographs and masks of one name, and a line for each that is alone."""
    lines: list[str] = []
    for own, others, kind, other in ((images, masks, "image", "mask"), (masks, images, "mask", "image")):
        free = [name for name in others if name not in own]
        for name in sorted(own.keys() - others.keys()):
            # Comparing every name with every other would take minutes where thousands have no partner.
            near = get_close_matches(name, free, 1, 0.5) if len(lines) < SEARCHED else []
            remedy = f"; the nearest is {others[near[0]]}: rename one of them" if near else ""
            lines.append(f"{own[name].name}: the {kind} {own[name]} has no {other}{remedy}")
    return {name: (images[name], masks[name]) for name in sorted(images.keys() & masks.keys())}, lines


def _stems(folder: Path, files: Iterable[Path], suffixes: tuple[str, ...], ending: str) -> dict[str, Path]:
    """The files with one of these suffixes, by their paths without `ending` and suffix."""
    found: dict[str, Path] = {}
    paths = [path for path in files if path.suffix in suffixes and path.stem.endswith(ending)]
    for path in sorted(paths, key=lambda path: (suffixes.index(path.suffix), path)):  # of a.jpg and a.png, the first counts
        stem = path.relative_to(folder).with_suffix("").as_posix()
        found.setdefault(stem.removesuffix(ending), path)
    return found


def coco(root: Path) -> Files | None:
    """COCO's annotations: a file for all images, or one for each image set."""
    files, words = Files(root, ""), list[str]()
    below = [folder for name, folder in _folders(root).items() if name in (*SETS, "annotations")]
    paths = [path for folder in (root, *below) for path in sorted(folder.glob("*.json"))]
    keys = ("images", "annotations", "categories")
    for path, (names, drawings) in _drawn(paths, "COCO's annotations", polygons.coco, keys):
        words += names
        parts = (*path.stem.lower().split("_")[::-1], path.parent.name.lower())  # instances_val2017.json, val/any.json
        image_set = next((SETS[part] for part in parts if part in SETS), "")
        for file, drawing in drawings.items():
            name = PurePosixPath(image_set, Path(file).with_suffix("")).as_posix()
            files.add(image_set, name, _photograph(root, path, image_set, file), path)
            files.drawings[name] = drawing
        files.format = files.format or f"COCO's annotations, by {path.relative_to(root)}"
    return _with_classes(files, dict.fromkeys(words))


def _photograph(root: Path, source: Path, image_set: str, file: str) -> Path:
    """The image that annotations name; the first possible place if the image is missing."""
    voc.check_inside(file, source, root)
    places = [*(root / "images" / name for name in (image_set, f"{image_set}2017", "")), source.parent]
    places += [root / name for name in (image_set, f"{image_set}2017", voc.IMAGES, "")]
    return next((path for place in places if (path := place / file).is_file()), root / file)


def labelme(root: Path) -> Files | None:
    """Labelme's own JSON files, beside the images."""
    files, below = Files(root, ""), _folders(root)
    top = next((path for name, path in below.items() if name in IMAGE_FOLDERS), root)
    places = [root, *(path for name, path in below.items() if name in SETS)]
    paths = top.rglob("*.json") if top != root else chain(*(place.glob("*.json") for place in places))
    keys = ("shapes", "imageWidth", "imageHeight")
    for path, drawing in _drawn(sorted(paths), "a JSON file of labelme's", polygons.labelme, keys):
        photographs = (path.with_suffix(suffix) for suffix in SUFFIXES)
        photograph = next((file for file in photographs if file.is_file()), path.with_suffix(".jpg"))
        name = path.relative_to(top).with_suffix("").as_posix()
        files.add(SETS.get(name.split("/")[0].lower(), ""), name, photograph, path)
        files.drawings[name] = drawing
        files.format = files.format or f"labelme's JSON files, by {path.relative_to(root)}"
    return _with_classes(files, sorted({word for drawing in files.drawings.values() for word, _ in drawing.shapes}))


def _with_classes(files: Files, words: Iterable[str]) -> Files | None:
    """The files with the classes of their drawings; None without a drawing."""
    if not files.drawings:
        return None
    files.class_list = find_class_list(files.path) or class_list_of_shapes(files.path, list(words))
    return files


def _drawn(paths: Iterable[Path], kind: str, read: Callable[[Any], T], keys: Sequence[str]) -> Iterator[tuple[Path, T]]:
    """The JSON files that have these keys, and what `read` finds in each. Others, broken ones too, are of other programs.

    Raises:
        ValueError: A file has the keys, but `read` fails on its content.
    """
    for path in paths:
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"))
        except (ValueError, OSError, RecursionError):
            continue
        if isinstance(content, dict) and content.keys() >= {*keys}:
            try:
                found = read(content)
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                broken = f"{path} looks like {kind}, but is broken ({type(error).__name__}: {error})"
                raise ValueError(f"{broken}: export it again") from error
            yield path, found
