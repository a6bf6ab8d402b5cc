"""The classes of a data set that `check` has recognised: from its own files, or a list of the values in its masks."""

from collections.abc import Callable

from fcnseg.data.dataset import DataSet
from fcnseg.data.formats.classes import FILE, find_class_list
from fcnseg.data.formats.files import Files
from fcnseg.data.formats.stored import Stored, look, write_classes


def ready(files: Files, say: Callable[[str], None], *, write: bool) -> DataSet | None:
    """The data set, when its classes are known or have been written; None if they are not.

    Args:
        files: The files of the data set, and the classes if a file lists them.
        say: A function that prints a line for the user.
        write: Whether classes.yaml may be written.

    Raises:
        ValueError: The class list is broken, or there is one already where `write` asks for it.
    """
    if (known := files.class_list) and not write:
        strange = _strange(files)
        say(f"its classes are those of {known.source}")
        for line in strange:
            say(line)
        return files
    if known:
        raise ValueError(f"write=true: {known.source} says the classes already: leave it out")
    stored = look(mask for _, mask in files.pairs.values())
    if write:
        say(f"{write_classes(files, stored)} is written: give the classes their names in it")
        files.class_list = find_class_list(files.path)
        return files
    say(f"nothing says which classes its masks have: they hold{':' if stored.pixels else ' nothing'}")
    for value in sorted(stored.pixels, key=lambda value: -stored.pixels[value])[:20]:
        say(f"  {value}: {stored.found(value)}")
    for problem in stored.problems:
        say(f"  {problem}")
    say(f"write=true writes {files.path / FILE} with them, for you to name (README, Your data)")
    return None


def _strange(files: Files) -> list[str]:
    """A line for each number or colour in masks that no class has, those with the most pixels first."""
    if files.drawings or not files.class_list:
        return []
    legend = files.class_list.legend
    stored: Stored = look(mask for _, mask in files.pairs.values() if mask.is_file())
    known = {*legend.values, *legend.colours}
    ordered = sorted(stored.pixels.keys() - known, key=lambda value: -stored.pixels[value])
    lines = [f"no class has {value}: {stored.found(value)}" for value in ordered[:10]]
    return [*lines, f"... nor {len(ordered) - 10} more"] if len(ordered) > 10 else lines
