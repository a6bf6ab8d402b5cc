"""Files and folders that are there whole or not at all: each is written as a draft, which is renamed at the end."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


def draft_of(path: Path) -> Path:
    """Where the unfinished file or folder `path` lies: beside it, since a rename across file systems would be a copy.

    It is always the same place, so that what a killed process left there is overwritten.
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

    Args:
        path: The file, whose draft is written, synced to the disk and renamed.
        before_rename: What to do with the whole draft before it takes the place of the old file.
    """
    draft = draft_of(path)
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if before_rename:
            before_rename(draft)
        draft.replace(path)
        sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def build_once(folder: Path, build: Callable[[Path], None]) -> None:
    """Have `build` fill `folder`, unless it is there: of several processes one builds it while the others wait.

    A finished folder is only looked at, so it may lie on a read-only disk.

    Args:
        folder: The folder, which is made together with the folders above it.
        build: A function that is given an empty folder, the draft, and fills it. If it raises, the draft is removed.
    """
    if folder.exists():
        return
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


def write_text(path: Path, text: str) -> None:
    """Replace the file `path` by `text`."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace the file `path` by `content`, which may hold no NaN."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """What `write_json` wrote; None if there is no such file.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): remove it") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (it holds a {type(content).__name__}): remove it")
    return content
