"""The progress bar of work on many images."""

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


def with_progress(results: Iterable[T], title: str, total: int) -> Iterable[T]:
    """The same results; while they arrive, a bar on stderr shows how many of `total` are there, if it is a terminal."""
    console = Console(stderr=True)  # what is printed to stdout may go to a file
    return track(results, title, total, console=console, transient=True, disable=not console.is_terminal)
