"""The errors that commands distinguish, the checks of single values, and the one way to print a message."""

import os
import signal
import sys
from collections.abc import Iterable, Sequence
from math import inf
from typing import TextIO

# How messages name the types of values.
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list", type(None): "null"}


class RunFailedError(Exception):
    """A run failed while it trained; its status.json has the traceback."""


class DivergedError(RuntimeError):
    """The loss or the logits became NaN or infinite."""


class LostError(RuntimeError):
    """Another process of a run on several devices has ended."""


class StopError(BaseException):
    """A signal asks the run to stop. Like KeyboardInterrupt, it is not an `Exception`: a sweep must stop as well.

    Args:
        signum: The number of the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Refuse a setting whose value is not one of some words.

    Raises:
        ValueError: It is another one; the message names the setting and the words.
    """
    if value not in (words := [*choices]):
        raise ValueError(f"{name}={value}: wanted one of {', '.join(words)}")


def check_whole_number(name: str, value: object, least: int) -> None:
    """Refuse a setting whose value is not a whole number, or is less than `least`.

    Raises:
        ValueError: The value is not such a number; the message names the setting.
    """
    if type(value) is not int or value < least:  # `true` is an int as well, but not of this type
        raise ValueError(f"{name}={value}: wanted a whole number from {least} up")


def check_number(name: str, value: float, least: float, most: float) -> float:
    """The value of a setting, which is refused if it is outside least..most.

    Raises:
        ValueError: It is outside; the message names the setting.
    """
    if not least <= value <= most:
        raise ValueError(f"{name}={value}: wanted a number from {least} {'up' if most == inf else f'to {most}'}")
    return value


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
