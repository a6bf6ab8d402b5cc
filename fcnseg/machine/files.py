"""Files and folders that are there whole or not at all: each is written as a draft, which is renamed at the end."""

import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO

LARGEST_TEXT = 4 << 20  # bytes of a file of a run that is read as text: the longest log, of 20 000 epochs, is smaller
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # the first characters of texts that programs for tables compute
NUMBERS = re.compile(r"\[\n([^\[\]{}\"]+)\]")  # a list of numbers in JSON, whose texts have no line breaks
_builds = ContextVar("_builds", default=True)  # whether `build_once` may build


def draft_of(path: Path) -> Path:
    """The path of the unfinished `path`: beside it, since a rename across file systems would be a copy.

    It is always the same place, so that the remains of a killed process are overwritten.
    """
    return path.with_name(f".{path.name}.draft")


def sync_folder(path: Path) -> None:
    """Wait until the names in the folder `path` are on the disk: without it, a power loss can undo or reorder renames."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a network file system that cannot sync folders
            raise
    finally:
        os.close(folder)


@contextmanager
def replacing(path: Path, *, before_rename: Callable[[Path], None] | None = None) -> Iterator[BinaryIO]:
    """Open a new `path` for writing; a kill, an error or a power loss at any moment leaves the old file as it was.

    The draft of `path` is written, synced to the disk, given to `before_rename` and renamed.
    """
    draft = draft_of(path)
    try:
        draft.unlink(missing_ok=True)  # a link of this name, in a folder from somebody else, would be written through
        with draft.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if before_rename:
            before_rename(draft)
        draft.replace(path)
        sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def nothing_built() -> Iterator[None]:
    """Have `build_once` refuse to build in the `with` block: a missing folder is an error."""
    before = _builds.set(False)
    try:
        yield
    finally:
        _builds.reset(before)


def build_once(folder: Path, build: Callable[[Path], None]) -> None:
    """Have `build` fill `folder`, unless it is there: of several processes one builds it while the others wait.

    A finished folder is only read, so it may be on a read-only disk.

    Args:
        folder: The folder, which is made together with the folders above it.
        build: A function that is given an empty folder, the draft, and fills it. If it raises, the draft is removed.

    Raises:
        ValueError: The folder is not there, within `nothing_built`.
    """
    if folder.exists():
        return
    if not _builds.get():
        raise ValueError(
            f"{folder} is not there: the training did not need it, it was removed, or the data set has changed since. It is not"
            " made in a place that only a stored config names; data.root=<the data set's folder> allows that"
        )
    from filelock import FileLock  # late: every command imports this module, and few of them build a folder

    draft = draft_of(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(draft.with_suffix(".lock")):
        if folder.exists():  # another process has built it while this one waited
            return
        shutil.rmtree(draft, ignore_errors=True)  # what a killed build has left
        try:
            draft.mkdir()
            build(draft)
            draft.replace(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def user_cache() -> Path:
    """The folder for what can be made anew, which programs of one user share.

    Raises:
        ValueError: The user has no home.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if not cache.is_absolute():
        raise ValueError(f"there is no home, found {cache}: set XDG_CACHE_HOME to a folder for what can be made anew")
    return cache / "fcnseg"


def write_text(path: Path, text: str) -> None:
    """Replace the file `path` by `text`."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the file `path` by `content`, which may hold no NaN; a list of numbers takes one line."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n")


def read_text(path: Path, largest: int = LARGEST_TEXT) -> str:
    """The text of a file in a run's folder, which may come from somebody else.

    Args:
        path: The file. A pipe or a device is not opened, since reading it may never end.
        largest: The most bytes that the file may have.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not ordinary, too large, or not UTF-8.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is no ordinary file")
    with path.open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"it is larger than {largest} bytes")
    return content.decode()


def sha256(path: Path) -> str:
    """The hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path, remedy: str = "remove it") -> dict[str, Any] | None:
    """The content that `write_json` wrote; None if there is no such file.

    Args:
        path: The file, which may come from somebody else.
        remedy: What to do if the file is damaged, for the message.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        content = json.loads(read_text(path))
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): {remedy}") from error
    return content


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as CSV, in which a program for tables finds no formula: texts that look like one begin with a quote."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
