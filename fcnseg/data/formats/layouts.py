"""The layouts of data sets that annotation programs and people make: each function recognises some in a folder."""

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any

from fcnseg.data import voc
from fcnseg.data.dataset import SUFFIXES
from fcnseg.data.formats import polygons
from fcnseg.data.formats.classes import ClassList, find_class_list, named
from fcnseg.data.formats.files import Files

IMAGES = ("images", "image", "imgs", "img", "img_dir", voc.IMAGES.lower(), "leftimg8bit", "photos")
MASKS = (
    *("masks", "mask", "labels", "label", "annotations", "ann_dir", "segmentationclasspng", voc.MASKS.lower()),
    *("gtfine", "gt"),
)
MASK_SUFFIXES = (".png", ".PNG", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg")  # unreadable files are reported later
PROGRAMS = {  # the program that writes each class list
    "labelmap.txt": "CVAT's Segmentation mask 1.1",
    "class_names.txt": "labelme2voc's output",
    "_classes.csv": "Roboflow's masks",
}
ENDINGS = ("", "_mask", "_label", "_labels")  # the possible ends of masks' names, without a setting
SETS = {  # the names that folders, files and tables give an image set
    **dict.fromkeys(("train", "training", "train2017"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "val2017"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SEARCHED = 20  # the number of files without a partner for which a nearest name is looked for, among all others

Pairs = dict[str, tuple[Path, Path]]  # the photograph and the file with the mask of every name


def lists(root: Path) -> Files | None:
    """VOC's layout: also CVAT's "Segmentation mask 1.1"."""
    if (found := voc.Folder.find(root)) is None:
        return None
    sets = {SETS.get(name, name): list(found.names(name)) for name in found.image_sets()}
    pairs = {name: (found.image(name), found.mask(name)) for names in sets.values() for name in names}
    class_list = find_class_list(found.path)
    return Files(found.path, _format("VOC's layout", voc.LISTS, class_list), sets, pairs, class_list)


def _format(kind: str, found: str, class_list: ClassList | None) -> str:
    """The name of a format, with the files that it was recognised by, such as the class list of a program."""
    program = PROGRAMS.get(class_list.source.name) if class_list else None
    return f"{program}, by {class_list.source.name} and {found}" if class_list and program else f"{kind}, by {found}"


def table(root: Path) -> Files | None:
    """A CSV of image, mask and, if wanted, split, whose paths start from its folder.

    Raises:
        ValueError: A line lacks a path, or leads out of the folder.
    """
    for path in sorted(root.glob("*.csv")):
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            rows = csv.DictReader(file)
            rows.fieldnames = [title.strip().lower() for title in rows.fieldnames or ()]
            if not {"image", "mask"} <= set(rows.fieldnames):
                continue
            sets: dict[str, list[str]] = {}
            pairs = {}
            for number, row in enumerate(rows, start=2):
                image, mask = ((row[kind] or "").strip() for kind in ("image", "mask"))
                if not image or not mask:
                    raise ValueError(f"{path}, line {number}: wanted the paths of an image and its mask")
                name = Path(image).with_suffix("").as_posix()
                split = (row.get("split") or "").strip().lower()
                sets.setdefault(SETS.get(split, split), []).append(name)
                pairs[name] = (_inside(root, image, path), _inside(root, mask, path))
        return Files(root, f"a table of images and masks, by {path.name}", sets, pairs, find_class_list(root))
    return None


def _inside(root: Path, name: str, source: Path) -> Path:
    """A path below `root` that a file of the data set names."""
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise ValueError(f"{source} names {name!r}, wanted files inside {root}")
    return root / name


def folders(root: Path, image_suffix: str, mask_suffix: str | None) -> Files | None:
    """Folders of images and of masks, inside a folder for each image set or around them; or all files in one folder."""
    below = _folders(root)
    sets = {SETS[name]: path for name, path in below.items() if name in SETS}
    folders_of: dict[str, tuple[Path, Path]] = {}
    if places := _places(root):
        image_sets, mask_sets = map(_folders, places)
        both = [name for name in image_sets if name in SETS and name in mask_sets]
        folders_of = {SETS[name]: (image_sets[name], mask_sets[name]) for name in both} or {"": places}
    elif sets:
        folders_of = {name: _places(path) or (path, path) for name, path in sets.items()}
    elif root.is_dir():
        folders_of = {"": (root, root)}
    files = Files(root, "", {}, {})
    for name, (images, masks) in folders_of.items():
        pairs, alone = _pairs(images, masks, image_suffix, mask_suffix)
        prefix = f"{name}/" if name else ""
        files.pairs |= {f"{prefix}{stem}": both for stem, both in pairs.items()}
        files.sets[name] = [f"{prefix}{stem}" for stem in pairs]
        files.alone += alone
        files.class_list = files.class_list or find_class_list(images.parent) or find_class_list(images)
    if not files.pairs:
        if alone := [line for line in files.alone if "nearest" in line]:
            raise ValueError(
                f"the folders in {root} hold no image and mask of one name: {alone[0]}, or say what names end in with"
                " data.source.image_suffix and data.source.mask_suffix (data=folder)"
            )
        return None
    files.sets = {name: names for name, names in files.sets.items() if names}
    files.class_list = find_class_list(root) or files.class_list
    first, second = next(iter(folders_of.values()))
    shown = [path.relative_to(root).as_posix() for path in (first, second)]
    found_by = f"the folders {' and '.join(shown)}" if first != second else f"names in the folder {shown[0]}"
    files.format = _format("images and masks", found_by, files.class_list)
    return files


def _folders(root: Path) -> dict[str, Path]:
    """The folders in `root` by their names in lower case."""
    return {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()} if root.is_dir() else {}


def _places(root: Path) -> tuple[Path, Path] | None:
    """The folders of images and of masks in `root`, if both are there."""
    below = _folders(root)
    images, masks = (next((below[name] for name in names if name in below), None) for names in (IMAGES, MASKS))
    return (images, masks) if images and masks else None


def _pairs(images: Path, masks: Path, image_suffix: str, mask_suffix: str | None) -> tuple[Pairs, list[str]]:
    """The pairs in two folders, and a line for each file without a partner; of several `ENDINGS`, those of the most pairs."""
    files = [list(folder.glob("*") if images == masks else folder.rglob("*")) for folder in (images, masks)]
    found = []
    for ending in ENDINGS if mask_suffix is None else (mask_suffix,):
        if images == masks and not ending:
            continue  # every image would be its own mask
        shot = _stems(images, files[0], SUFFIXES, image_suffix)
        drawn = _stems(masks, files[1], MASK_SUFFIXES, ending)
        if images == masks:
            shot = {name: path for name, path in shot.items() if not name.endswith(ending)}
        found.append(pair(shot, drawn))
    return max(found, key=lambda pairs: len(pairs[0]), default=({}, []))


def pair(images: Mapping[str, Path], masks: Mapping[str, Path]) -> tuple[Pairs, list[str]]:
    """The pairs of photographs and masks of one name, and a line for each that is alone."""
    pairs = {name: (images[name], masks[name]) for name in sorted(images) if name in masks}
    lines: list[str] = []
    for own, others, kind, other in ((images, masks, "image", "mask"), (masks, images, "mask", "image")):
        free = [name for name in others if name not in own]
        for name in sorted(own):
            if name not in others:
                near = get_close_matches(name, free, 1, 0.5) if len(lines) < SEARCHED else []
                remedy = f"; the nearest is {others[near[0]]}: rename one of them" if near else ""
                lines.append(f"{own[name].name}: the {kind} {own[name]} has no {other}{remedy}")
    return pairs, lines


def _stems(folder: Path, files: Iterable[Path], suffixes: tuple[str, ...], ending: str) -> dict[str, Path]:
    """The files with one of these suffixes, by their paths without `ending` and suffix."""
    found: dict[str, Path] = {}
    paths = [path for path in files if path.suffix in suffixes and path.stem.endswith(ending)]
    for path in sorted(paths, key=lambda path: (suffixes.index(path.suffix), path)):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        found.setdefault(stem.removesuffix(ending), path)
    return found


def coco(root: Path) -> Files | None:
    """COCO's annotations: a file for all images, or one for each image set."""
    files = Files(root, "", {}, {})
    words: dict[str, None] = {}
    below = [folder for name, folder in _folders(root).items() if name in (*SETS, "annotations")]
    for folder in (root, *below):
        for path in sorted(folder.glob("*.json")):
            if (content := _json(path, "images", "annotations", "categories")) is None:
                continue
            names, drawings = _as(path, "COCO's annotations", polygons.coco, content)
            words |= dict.fromkeys(names)
            stated = (SETS[part] for part in (*path.stem.lower().split("_")[::-1], folder.name.lower()) if part in SETS)
            image_set = next(stated, "")
            prefix = f"{image_set}/" if image_set else ""
            for file, drawing in drawings.items():
                name = prefix + Path(file).with_suffix("").as_posix()
                files.sets.setdefault(image_set, []).append(name)
                files.pairs[name] = (_photograph(root, path, image_set, file), path)
                files.drawings[name] = drawing
            files.format = files.format or f"COCO's annotations, by {path.relative_to(root)}"
    return _drawn(files, words)


def _photograph(root: Path, source: Path, image_set: str, file: str) -> Path:
    """The image that annotations name; the first possible place if the image is missing."""
    inside = _inside(root, file, source)
    places = [*(root / "images" / name for name in (image_set, f"{image_set}2017", "")), source.parent]
    places += [root / name for name in (image_set, f"{image_set}2017", voc.IMAGES, "")]
    return next((path for place in places if (path := place / file).is_file()), inside)


def labelme(root: Path) -> Files | None:
    """Labelme's own JSON files, beside the images."""
    files = Files(root, "", {}, {})
    words: dict[str, None] = {}
    below = _folders(root)
    top = next((path for name, path in below.items() if name in IMAGES), root)
    places = [root, *(path for name, path in below.items() if name in SETS)]
    paths = top.rglob("*.json") if top != root else chain(*(place.glob("*.json") for place in places))
    for path in sorted(paths):
        if (content := _json(path, "shapes", "imageWidth", "imageHeight")) is None:
            continue
        photographs = (path.with_suffix(suffix) for suffix in SUFFIXES)
        photograph = next((file for file in photographs if file.is_file()), path.with_suffix(".jpg"))
        name = path.relative_to(top).with_suffix("").as_posix()
        first = name.split("/")[0].lower()
        files.sets.setdefault(SETS.get(first, ""), []).append(name)
        files.pairs[name] = (photograph, path)
        files.drawings[name] = _as(path, "a JSON file of labelme's", polygons.labelme, content)
        words |= dict.fromkeys(word for word, _ in files.drawings[name].shapes)
        files.format = files.format or f"labelme's JSON files, by {path.relative_to(root)}"
    return _drawn(files, sorted(words))


def _drawn(files: Files, words: Iterable[str]) -> Files | None:
    """The files with the classes of their drawings; None without a drawing."""
    if not files.drawings:
        return None
    files.class_list = find_class_list(files.path) or named(files.path, list(words))
    return files


def _json(path: Path, *keys: str) -> dict[str, Any] | None:
    """The content of a JSON file, if it has these keys; None if not, or if it is broken: any program may have written it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError, RecursionError):
        return None
    return content if isinstance(content, dict) and content.keys() >= {*keys} else None


def _as(path: Path, kind: str, read: Callable[[Any], Any], content: Any) -> Any:
    """The result of `read` for a JSON file's content; an error names the file and the kind."""
    try:
        return read(content)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} looks like {kind}, but is broken ({type(error).__name__}: {error})") from error
