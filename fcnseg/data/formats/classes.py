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
from fcnseg.data.decode import RGB, Legend

FILE = "classes.yaml"
KEYS = ("names", "colors", "void", "map")
BACKGROUND_NAMES = ("background", "_background_", "bg")  # names of pixels outside all objects
IGNORED = ("void", "ignore", "ignored", "__ignore__")  # names that stand for void, in lists of programs


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
    colours: Mapping[str, RGB] | None = None,
    void: Iterable[int | RGB | str] = (),
    map: Mapping[int | RGB | str, str | None] | None = None,
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
    given, mapped = colours or {}, map or {}
    classes = _classes(source, [names[value] for value in sorted(names)], given)
    label: dict[str | None, int] = {None: VOID, **{name: i for i, name in enumerate(classes.names)}}
    if strange := [name for name in (*given, *mapped.values()) if name not in label]:
        raise ValueError(f"{source} mentions {strange[0]}, which is no class: the names are {', '.join(classes.names)}")
    # A map of numbers is complete: a number that it leaves out is a mistake in a mask, and no class by its place.
    by_place = {} if any(isinstance(key, int) for key in mapped) else names
    meanings: dict[int | RGB | str, int] = {  # of what stands here twice, the later counts
        VOID: VOID,
        **dict.fromkeys(IGNORED, VOID),
        **{name: i for i, name in enumerate(classes.names)},
        **{value: label[name] for value, name in by_place.items()},
        **{colour: label[name] for name, colour in given.items()},
        **dict.fromkeys(void, VOID),
        **{key: label[name] for key, name in mapped.items()},
    }
    values = {key: meaning for key, meaning in meanings.items() if isinstance(key, int)}
    by_colour = {key: meaning for key, meaning in meanings.items() if isinstance(key, tuple)}
    words = {key: meaning for key, meaning in meanings.items() if isinstance(key, str)}
    return ClassList(source, classes, Legend(values, by_colour), words)


def _classes(source: Path, names: Sequence[str], given: Mapping[str, RGB]) -> Classes:
    """The classes, each in its own colour, or in one of VOC's colour map that no other class has."""
    if len({*given.values()}) < len(given):
        raise ValueError(f"{source} gives two classes one colour, wanted another for each")
    colours = ((red, green, blue) for red, green, blue in voc.PALETTE.tolist())
    spare = (colour for colour in colours if colour not in given.values())
    background = next((i for i, name in enumerate(names) if name.lower() in BACKGROUND_NAMES), None)
    try:  # the colour map may end before the names, of which there are too many then
        return Classes(tuple(names), tuple(given.get(name) or next(spare, (0, 0, 0)) for name in names), background)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def find_class_list(folder: Path) -> ClassList | None:
    """The class list in `folder`: classes.yaml before the lists of programs; None without one.

    Raises:
        ValueError: The file is broken.
    """
    path = next((folder / name for name in READERS if (folder / name).is_file()), None)
    if path is None:
        return None
    try:
        read, _ = READERS[path.name]
        listed = read(path.read_text(encoding="utf-8-sig"))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error}; README, Your data, shows what this text in UTF-8 may hold") from error
    return class_list(path, **listed)


def _yaml(text: str) -> dict[str, Any]:
    """classes.yaml: `names:` and, if wanted, `colors:`, `void:` and `map:`."""
    content = yaml.safe_load(text)
    if not isinstance(content, dict) or not content.get("names") or not content.keys() <= set(KEYS):
        found = f"the keys {', '.join(map(str, content))}" if isinstance(content, dict) else "no keys"
        raise ValueError(f"it has {found}, wanted names: and, of {', '.join(KEYS[1:])}, what is needed")
    names = _numbered(content["names"])
    colours, void, mapped = content.get("colors") or {}, content.get("void", []), content.get("map") or {}
    if isinstance(colours, list) and len(colours) != len(names):
        raise ValueError(f"it has {len(colours)} colors for {len(names)} names, wanted one for each")
    pairs = dict(zip(sorted(names), colours, strict=True)) if isinstance(colours, list) else colours
    if not isinstance(pairs, dict) or not isinstance(mapped, dict):
        raise ValueError("wanted colors: and map: with lines of 'key: value'")
    by_name = {str(names.get(name, name)): _colour(colour) for name, colour in pairs.items()}
    listed = void if isinstance(void, list) and not _written(void) else [void]
    voids = [_key(one) if type(one) is int else _colour(one) for one in listed if one is not None]
    if "void" in by_name and "void" not in names.values():
        voids.append(by_name.pop("void"))
    meanings = {_key(key): _meaning(name, names) for key, name in mapped.items()}
    return {"names": names, "colours": by_name, "void": voids, "map": meanings}


def _numbered(names: Any) -> dict[int, str]:
    """Names by number, from a list, which counts from 0, or from lines of 'number: name'."""
    numbered = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(numbered, dict):
        raise ValueError(f"names: is {names!r}, wanted a list of names or lines of 'number: name'")
    for number, name in numbered.items():
        if type(number) is not int or not 0 <= number < 2**16 or not isinstance(name, str) or not name.strip():
            hint = ": put it in quotes" if not isinstance(name, str) else ""
            raise ValueError(f"names: has {number}: {name}, wanted a number of 0..65535 and a name{hint}")
    return {number: name.strip() for number, name in numbered.items()}


def _meaning(name: Any, names: Mapping[int, str]) -> str | None:
    """The target of a line of `map:`: the name of a class, or None for void."""
    if name in ("void", None) or (name == VOID and VOID not in names):
        return None
    if type(name) is int and name not in names:
        raise ValueError(f"map: leads to {name}, which is no number of a class: wanted one of {sorted(names)}")
    return names[name] if type(name) is int else str(name)


def _key(key: Any) -> int | RGB | str:
    """A key of `map:` or `void:` as masks store it: a number, a colour or a name."""
    if type(key) is not int:
        return _colour(key) if _written(key) else str(key)
    if not 0 <= key < 2**16:  # a PNG has up to 16 bits a sample
        raise ValueError(f"{key} is no number that a mask can hold, wanted 0..65535")
    return key


def _written(colour: Any) -> re.Match[str] | None:
    """A match if something is written as a colour: as [r, g, b], "r,g,b" or "#rrggbb"."""
    text = ",".join(map(str, colour)) if isinstance(colour, list) else str(colour)
    return re.fullmatch(r"#([0-9a-fA-F]{6})|\s*\d+\s*,\s*\d+\s*,\s*\d+\s*", text)


def _colour(text: Any) -> RGB:
    if found := _written(text):
        red, green, blue = bytes.fromhex(found[1]) if found[1] else map(int, found[0].split(","))
        if max(red, green, blue) < 256:
            return red, green, blue
    raise ValueError(f"{text!r} is no colour, wanted [r, g, b] of 0..255 or '#rrggbb'")


def _cvat(text: str) -> dict[str, Any]:
    """CVAT's labelmap.txt: `name:r,g,b:parts:actions` a line, and comments."""
    rows = [line.split(":") for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if strange := [row for row in rows if len(row) < 2 or not _written(row[1])]:
        raise ValueError(f"it has the line {':'.join(strange[0])!r}, wanted name:r,g,b:: as CVAT writes it")
    colours = {row[0].strip(): _colour(row[1]) for row in rows}
    listed = _without_void(dict(enumerate(colours)))  # its masks store colours, or the numbers of the lines
    void = [*listed["void"], *(colours.pop(name) for name in [*colours] if name.lower() in IGNORED)]
    return {"names": listed["names"], "colours": colours, "void": void}


def _labelme2voc(text: str) -> dict[str, Any]:
    """labelme2voc's class_names.txt: a name per line, of which `__ignore__` is void and stored as 255."""
    return {"names": dict(enumerate(name for line in text.splitlines() if (name := line.strip()) and name not in IGNORED))}


def _roboflow(text: str) -> dict[str, Any]:
    """Roboflow's _classes.csv: the number that masks store, and the name."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if row][1:]  # without the titles
    if strange := [row for row in rows if len(row) < 2 or not row[0].isdecimal()]:
        raise ValueError(f"it has the line {','.join(strange[0])!r}, wanted a pixel value and a class")
    return _without_void({int(row[0]): row[1] for row in rows})


def _without_void(names: Mapping[int, str]) -> dict[str, Any]:
    """Names by number, and the numbers whose names stand for void."""
    void = [value for value, name in names.items() if name.lower() in IGNORED]
    return {"names": {value: name for value, name in names.items() if value not in void}, "void": void}


# The files that list classes: the reader of each, which gives the arguments of `class_list`, and the program that writes it.
READERS: dict[str, tuple[Callable[[str], dict[str, Any]], str]] = {
    FILE: (_yaml, ""),
    "labelmap.txt": (_cvat, "CVAT's Segmentation mask 1.1"),
    "class_names.txt": (_labelme2voc, "labelme2voc's output"),
    "_classes.csv": (_roboflow, "Roboflow's masks"),
}


def class_list_of_shapes(source: Path, words: Sequence[str]) -> ClassList:
    """The class list of polygons: background, where nothing is drawn, then the other names in their order."""
    kept = [word for word in words if word.lower() not in IGNORED]
    background = next((word for word in kept if word.lower() in BACKGROUND_NAMES), BACKGROUND_NAMES[0])
    return class_list(source, dict(enumerate([background, *(word for word in kept if word != background)])))
