"""The tables of the benchmark: each row is measured, often in a process of its own; then they are printed, or in Markdown."""

import io
import json
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import product
from multiprocessing import get_context
from typing import Any, TypeVar

from rich import box
from rich.console import Console
from rich.table import Table

T = TypeVar("T")
Row = dict[str, Any]  # its cells by their columns
Tables = dict[str, list[Row]]  # rows by the title of their table
Work = Callable[..., Row | list[Row]]  # a function that measures a row, or several
LONGEST = 100  # the most characters that a cell shows


def call(work: Callable[..., T], *args: Any, seconds: int = 0, **named: Any) -> T:
    """Run `work(*args, **named)` silently in a new process, killed after `seconds` (0: never); return its value.

    The process has a memory, and a peak of memory, of its own. It is forked from a server that has imported torch and has
    done nothing else: it is as good as a fresh one, without the seconds that importing torch takes.

    Raises:
        TimeoutError: The process was killed after `seconds`.
        Exception: `work` has raised it; a BrokenProcessPool if its process was killed otherwise.
    """
    start = time.monotonic()
    context = get_context("forkserver")
    context.set_forkserver_preload(["fcnseg.benchmark.parts"])
    try:
        with ProcessPoolExecutor(1, context, _start, (seconds,)) as pool:
            return pool.submit(work, *args, **named).result()
    except BrokenProcessPool as error:
        if 0 < seconds <= time.monotonic() - start:
            raise TimeoutError(f"killed after {seconds} s") from error
        raise


def _start(seconds: int) -> None:
    """Throw away what libraries print, progress bars and warnings; set the time of the process's end."""
    signal.alarm(seconds)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)


def cases(**choices: Iterable[Any]) -> list[Row]:
    """All combinations of choices, each for a row: `cases(network=("fcn", "unet"), arm=("plain", "fcnseg"))` has four."""
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


def rows(work: Work, case: Row) -> list[Row]:
    """The rows that `work(**case)` measures, each with the cells of its case first; one row with the reason if it fails."""
    try:  # JSON has no NaN and no infinity: they become text
        found = json.loads(json.dumps(work(**case)), parse_constant=lambda word: str(float(word)))
    except Exception:
        found = {"failed": traceback.format_exc()}
    return [case | row for row in (found if isinstance(found, list) else [found])]


def measured(title: str, work: Work, cases: Sequence[Row] = ({},), *, at_once: int = 1) -> Iterator[Tables]:
    """Measure a table, `at_once` cases at a time, as `rows` does; after each case, in their order, yield all rows so far."""
    found: list[Row] = []
    with ThreadPoolExecutor(at_once) as pool:
        for some in pool.map(partial(rows, work), cases):
            found += some
            yield {title: found}


def tables(figures: Mapping[str, Sequence[Row]], lines: box.Box = box.HEAVY_HEAD) -> Iterator[str | Table]:
    """A title and a table for every list of rows, with a column for each of their keys."""
    for title, found in figures.items():
        table = Table(box=lines)
        columns = list(dict.fromkeys(key for row in found for key in row))
        for number, column in enumerate(columns):
            table.add_column(column.replace("_", " "), justify="right" if number else "left", overflow="fold")
        for row in found:
            table.add_row(*(_shown(row.get(column, "")) for column in columns))
        yield from (f"**{title}**" if lines is box.MARKDOWN else title, table)


def markdown(figures: Mapping[str, Sequence[Row]]) -> str:
    """The tables in Markdown."""
    console = Console(file=(text := io.StringIO()), width=1000)
    console.print(*tables(figures, box.MARKDOWN), highlight=False)
    return text.getvalue()


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return f"{_shown(min(value))}-{_shown(max(value))}"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    *_, last = ["", *str(value).strip().splitlines()]  # the last line of a traceback says what is wrong
    return last[:LONGEST].removesuffix("-true").removesuffix("-mixed")  # bf16 says enough
