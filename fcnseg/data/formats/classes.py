"""The class list of a folder of masks: from classes.yaml, or from the file that an annotation program writes."""

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fcnseg.data import voc
from fcnseg.data.dataset import VOID, Classes
from fcnseg.data.decode import UNKNOWN, Colour, Legend

FILE = "classes.yaml"
KEYS = ("names", "colors", "void", "map")
BACKGROUND_NAMES = ("background", "_background_", "bg")  # names of pixels outside all objects
IGNORED = ("void", "ignore", "ignored", "__ignore__")  # names that stand for void, in lists of programs
REMEDY = "see README, Your data"


@dataclass(frozen=True)
class ClassList:
    """The classes of a folder, and the numbers and colours that its masks store for them.

    Attributes:
        source: The file that lists the classes.
        classes: The names and colours of the classes, in the order of their labels.
        legend: The labels of stored numbers and of colours.
        words: The labels of names; polygons have names in place of numbers.
    """

    source: Path
    classes: Classes
    legend: Legend
    words: Mapping[str, int] = field(default_factory=dict)


def class_list(
    source: Path,
    names: Mapping[int, str],
    *,
    colours: Mapping[str, Colour] | None = None,
    void: Iterable[int | Colour | str] = (),
    map: Mapping[int | Colour | str, str | None] | None = None,
) -> ClassList:
    """The class list of names by stored number.

    Args:
        source: The file of the list, for messages.
        names: The name of each class by the number that masks store for it; labels follow the order of the numbers.
        colours: The colours of classes by name.
        void: The numbers, colours and names of void; 255 is also void if no class has it.
        map: The class, or None for void, of further numbers, colours and names. If it has a number, it must have every
            number that masks store.

    Raises:
        ValueError: The number of classes is not 2 to 254, two share a name or a colour, or a name belongs to no class.
    """
    ordered = [names[value] for value in sorted(names)]
    given, mapped = dict(colours or {}), dict(map or {})
    _check_names(source, ordered, [*given, *(name for name in mapped.values() if name is not None)])
    label: dict[str | None, int] = {None: VOID, **{name: i for i, name in enumerate(ordered)}}
    by_colour = {colour: label[name] for name, colour in given.items()}
    if len(by_colour) < len(given):
        raise ValueError(f"{source} gives two classes one colour, wanted another for each")
    # A map of numbers is complete: a number that it leaves out is a mistake in a mask, and no class by its place.
    values = {} if any(isinstance(key, int) for key in mapped) else {value: label[names[value]] for value in names}
    words = dict.fromkeys(IGNORED, VOID) | {name: i for i, name in enumerate(ordered)}
    for key, name in (*dict.fromkeys(void).items(), *mapped.items()):
        if isinstance(key, int):
            values[key] = label[name]
        elif isinstance(key, str):
            words[key] = label[name]
        else:
            by_colour[key] = label[name]
    values.setdefault(VOID, VOID)
    background = next((i for i, name in enumerate(ordered) if name.lower() in BACKGROUND_NAMES), None)
    return ClassList(source, Classes(tuple(ordered), _shown(ordered, given), background), Legend(values, by_colour), words)


def _check_names(source: Path, names: Sequence[str], spoken_of: Sequence[str]) -> None:
    """Refuse too few or too many classes, two of one name, and a colour or a mapping of an unknown class."""
    if not 2 <= len(names) <= UNKNOWN:
        raise ValueError(f"{source} names {len(names)} classes, wanted 2 to {UNKNOWN}")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{source} gives several classes the name {repeated[0]}, wanted one name for each")
    if strange := [name for name in spoken_of if name not in names]:
        raise ValueError(f"{source} mentions {strange[0]}, which is no class: the names are {', '.join(names)}")


def _shown(names: Sequence[str], given: Mapping[str, Colour]) -> tuple[Colour, ...]:
    """A colour to show each class in: its own, or one of VOC's colour map that no other class has."""
    colours = ((red, green, blue) for red, green, blue in voc.PALETTE.tolist())
    spare = (colour for colour in colours if colour not in given.values())
    return tuple(given.get(name) or next(spare) for name in names)


def find_class_list(folder: Path) -> ClassList | None:
    """The class list in `folder`: classes.yaml before the lists of programs; None without one.

    Raises:
        ValueError: The file is broken.
    """
    for name, read in READERS.items():
        if (path := folder / name).is_file():
            try:
                return read(path, path.read_text(encoding="utf-8-sig"))
            except (UnicodeDecodeError, yaml.YAMLError) as error:
                raise ValueError(f"{path} cannot be read ({error}): save it as text in UTF-8; {REMEDY}") from error
    return None


def _yaml(path: Path, text: str) -> ClassList:
    """classes.yaml: `names:` and, if wanted, `colors:`, `void:` and `map:`."""
    content = yaml.safe_load(text)
    if not isinstance(content, dict) or not content.get("names") or not content.keys() <= set(KEYS):
        found = f"the keys {', '.join(map(str, content))}" if isinstance(content, dict) else "no keys"
        raise ValueError(f"{path} has {found}, wanted names: and, of {', '.join(KEYS[1:])}, what is needed; {REMEDY}")
    names = _numbered(path, content["names"])
    ordered = [names[value] for value in sorted(names)]
    colours = content.get("colors") or {}
    if isinstance(colours, list) and len(colours) != len(ordered):
        raise ValueError(f"{path} has {len(colours)} colors for {len(ordered)} names, wanted one for each")
    pairs = dict(zip(ordered, colours, strict=True)) if isinstance(colours, list) else colours
    void, mapped = content.get("void", []), content.get("map") or {}
    if not isinstance(pairs, dict) or not isinstance(mapped, dict):
        raise ValueError(f"{path}: wanted colors: and map: with lines of 'key: value'; {REMEDY}")
    listed = void if isinstance(void, list) and not _is_colour(void) else [void]
    voids = [_key(path, one) if type(one) is int else _colour(path, one) for one in listed if one is not None]
    by_name = {str(names.get(name, name)): _colour(path, colour) for name, colour in pairs.items()}
    if "void" in by_name and "void" not in ordered:
        voids.append(by_name.pop("void"))
    return class_list(
        path,
        names,
        colours=by_name,
        void=voids,
        map={_key(path, key): _meaning(path, name, names) for key, name in mapped.items()},
    )


def _numbered(path: Path, names: Any) -> dict[int, str]:
    """Names by number, from a list, which counts from 0, or from lines of 'number: name'."""
    numbered = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(numbered, dict):
        raise ValueError(f"{path}: names: is {names!r}, wanted a list of names or lines of 'number: name'")
    for number, name in numbered.items():
        if type(number) is not int or not 0 <= number < 2**16 or not isinstance(name, str) or not name.strip():
            hint = ": put it in quotes" if not isinstance(name, str) else ""
            raise ValueError(f"{path}: names: has {number}: {name}, wanted a number of 0..65535 and a name{hint}")
    return {number: name.strip() for number, name in numbered.items()}


def _meaning(path: Path, name: Any, names: Mapping[int, str]) -> str | None:
    """The target of a line of `map:`: the name of a class, or None for void."""
    if name in ("void", None) or (name == VOID and VOID not in names):
        return None
    if type(name) is int and name not in names:
        raise ValueError(f"{path}: map: leads to {name}, which is no number of a class: wanted one of {sorted(names)}")
    return names[name] if type(name) is int else str(name)


def _key(path: Path, key: Any) -> int | Colour | str:
    """A key of `map:` or `void:` as masks store it: a number, a colour or a name."""
    if type(key) is int:
        if 0 <= key < 2**16:
            return key
        raise ValueError(f"{path}: {key} is no number that a mask can hold, wanted 0..65535")
    return _colour(path, key) if _is_colour(key) else str(key)


def _is_colour(text: Any) -> bool:
    if isinstance(text, list):
        return len(text) == 3 and all(type(part) is int for part in text)
    return bool(re.fullmatch(r"#[0-9a-fA-F]{6}|\s*\d+\s*,\s*\d+\s*,\s*\d+\s*", str(text)))


def _colour(path: Path, text: Any) -> Colour:
    """A colour from [r, g, b], "r,g,b" or "#rrggbb"."""
    if _is_colour(text):
        hexadecimal = isinstance(text, str) and text.startswith("#")
        parts = (
            bytes.fromhex(text[1:]) if hexadecimal else [int(p) for p in (text if isinstance(text, list) else text.split(","))]
        )
        red, green, blue = parts
        if max(parts) < 256 and min(parts) >= 0:
            return red, green, blue
    raise ValueError(f"{path}: {text!r} is no colour, wanted [r, g, b] of 0..255 or '#rrggbb'")


def _cvat(path: Path, text: str) -> ClassList:
    """CVAT's labelmap.txt: `name:r,g,b:parts:actions` a line, and comments."""
    rows = [line.split(":") for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if strange := [row for row in rows if len(row) < 2 or not _is_colour(row[1])]:
        raise ValueError(f"{path} has the line {':'.join(strange[0])!r}, wanted name:r,g,b:: as CVAT writes it")
    colours = {row[0].strip(): _colour(path, row[1]) for row in rows}
    void = [colour for name, colour in colours.items() if name.lower() in IGNORED]
    kept = {name: colour for name, colour in colours.items() if name.lower() not in IGNORED}
    numbers = {i: name for i, name in enumerate(colours) if name in kept}
    return class_list(path, numbers, colours=kept, void=[*void, *(i for i, name in enumerate(colours) if name not in kept)])


def _labelme2voc(path: Path, text: str) -> ClassList:
    """labelme2voc's class_names.txt: a name a line, of which `__ignore__` is void and stored as 255."""
    return class_list(
        path,
        dict(enumerate(line.strip() for line in text.splitlines() if line.strip() and line.strip() not in IGNORED)),
    )


def _roboflow(path: Path, text: str) -> ClassList:
    """Roboflow's _classes.csv: the number that masks store, and the name."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if row][1:]
    if strange := [row for row in rows if len(row) < 2 or not row[0].isdecimal()]:
        raise ValueError(f"{path} has the line {','.join(strange[0])!r}, wanted a pixel value and a class")
    void = [int(row[0]) for row in rows if row[1].lower() in IGNORED]
    return class_list(path, {int(row[0]): row[1] for row in rows if row[1].lower() not in IGNORED}, void=void)


READERS: dict[str, Callable[[Path, str], ClassList]] = {
    FILE: _yaml,
    "labelmap.txt": _cvat,
    "class_names.txt": _labelme2voc,
    "_classes.csv": _roboflow,
}


def named(source: Path, words: Sequence[str]) -> ClassList:
    """The class list of polygons: background, where nothing is drawn, then the other names in their order."""
    kept = [word for word in words if word.lower() not in IGNORED]
    background = next((word for word in kept if word.lower() in BACKGROUND_NAMES), BACKGROUND_NAMES[0])
    return class_list(source, dict(enumerate([background, *(word for word in kept if word != background)])))
