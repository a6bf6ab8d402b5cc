"""Work on many images: the threads that do it, and its progress bar."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from fcnseg.machine.limits import cores

S = TypeVar("S")
T = TypeVar("T")


def with_progress(results: Iterable[T], title: str, total: int) -> Iterable[T]:
    """The same results; while they arrive, a bar on stderr shows how many of `total` are there, if it is a terminal."""
    console = Console(stderr=True)  # what is printed to stdout may go to a file
    return track(results, title, total, console=console, transient=True, disable=not console.is_terminal)


def in_threads(work: Callable[[S], T], items: Sequence[S], title: str) -> Iterator[T]:
    """The results of `work` on every item, in the order of the items, while a progress bar called `title` shows how many.

    Threads will do for images, on every core, since Pillow frees Python's lock.
    """
    with ThreadPoolExecutor(cores()) as pool:
        yield from with_progress(pool.map(work, items), title, len(items))
