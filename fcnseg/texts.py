"""The words of messages, and the one way to print one."""

import os
import sys
from collections.abc import Sequence
from typing import TextIO


def first_of(items: Sequence[object], most: int = 10, *, in_line: bool = False) -> str:
    """The first items that a message names, and the number of the others.

    Args:
        items: The names of files or weights, or the lines of problems, that would make the whole message too long.
        most: The largest number of items shown.
        in_line: Whether the items are in one line, with commas; else each has its own line.
    """
    separator, more = (", ", " and") if in_line else ("\n", "\n... and")
    shown = separator.join(map(str, items[:most]))
    return f"{shown}{more} {len(items) - most} more" if len(items) > most else shown


def counted(number: int, one: str, many: str = "") -> str:
    """A number and what it counts: "1 image", "3 images"; `many` is for words that take more than an s."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def as_typed(value: object) -> str:
    """A value as a user types it on a command line: true, null."""
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


def warn(message: str) -> None:
    """Print a warning on stderr, in the form in which every command prints its messages."""
    say(f"fcnseg: {message}", sys.stderr)


def say(text: str, stream: TextIO) -> None:
    """Print a text. If nobody reads it, as after `| head`, nothing happens: the run goes on."""
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        drop(stream)


def drop(stream: TextIO) -> None:
    """From here on, discard everything that is printed to a closed stream."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
