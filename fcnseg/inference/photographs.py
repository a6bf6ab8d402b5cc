"""The photographs that a file, a folder, a pattern or a list stands for, and the names of their masks."""

import glob
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path

from fcnseg.data import voc
from fcnseg.data.dataset import SUFFIXES
from fcnseg.texts import first_of


def photographs(images: str, without: Path) -> tuple[dict[str, Path], list[Path]]:
    """The photographs that `images` means, and the other files there, which have no suffix of a photograph.

    A photograph's key is the name of its mask without the suffix: its path below the given folder.

    Args:
        images: A file; a folder, with all folders below it; a pattern such as photos/**/*.jpg; or a .txt file with a path a
            line, below the folder of this file, or with an image set's names if it is in VOC's ImageSets/Segmentation.
        without: A folder whose files are left out, since the masks' folder may be inside the photographs' folder.

    Raises:
        ValueError: There is no such file, or no photograph, or two would have masks of one name.
    """
    top, found = _found(images)
    paths = {file for file in found if not file.resolve().is_relative_to(without.resolve())}
    if not paths:
        raise ValueError(
            f"images={images}: found nothing outside {without}, wanted a photograph, a folder, a pattern or a .txt file"
        )
    files = sorted(file for file in paths if file.suffix.lower() in SUFFIXES)
    others = sorted(paths - {*files})
    if not files:
        names = first_of(others)
        raise ValueError(f"images={images}: none of these is a photograph ({', '.join(SUFFIXES)}):\n{names}")
    return _named(files, top), others


def _found(images: str) -> tuple[Path, list[Path]]:
    """The folder below which the names of the masks begin, and the files, photographs or not, that `images` means."""
    path = Path(images)
    if path.is_dir():
        return path, [file for file in path.rglob("*") if file.is_file()]
    if path.is_file():  # before the patterns: the name of a file may have brackets in it
        return _listed(path) if path.suffix == ".txt" else (path.parent, [path])
    top = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts[:-1]))  # it holds all possible matches
    return top, [file for file in map(Path, glob.glob(images, recursive=True)) if file.is_file()]


def image_set(images: str) -> tuple[voc.VOCFolder, str] | None:
    """The folder in VOC's layout and the name of its image set, whose list `images` is; None for other files."""
    path = Path(images).absolute()
    is_set = path.suffix == ".txt" and path.parent.as_posix().endswith(f"/{voc.LISTS}")
    return (voc.VOCFolder(path.parents[2]), path.stem) if is_set else None


def _listed(path: Path) -> tuple[Path, list[Path]]:
    """The folder of a list's photographs, and these."""
    if found := image_set(str(path)):
        folder, name = found
        return folder.path / voc.IMAGES, [folder.image(each) for each in folder.names(name)]
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"images={path} is no text in UTF-8, wanted the path of a photograph per line") from error
    return path.parent, [path.parent / line.strip() for line in lines if line.strip()]


def _named(files: Iterable[Path], top: Path) -> dict[str, Path]:
    """The files by the names of their masks."""
    named: dict[str, Path] = {}
    for file in files:
        name = _below(file, top).with_suffix("").as_posix()
        if (other := named.setdefault(name, file)) is not file:
            raise ValueError(f"{other}, {file} would have masks of one name, {name}.png: rename one, or predict one by one")
    return named


def _below(path: Path, top: Path) -> Path:
    """The path relative to `top`; for a file elsewhere, its name."""
    # `photos/../other/a.jpg` begins with `photos` but is elsewhere: its mask would be written elsewhere.
    is_below = path.is_relative_to(top) and ".." not in path.parts[len(top.parts) :]
    return path.relative_to(top) if is_below else Path(path.name)
