"""The figures as tables."""

import io
from collections.abc import Iterator, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from fcnseg.benchmark.process import Figures

LONGEST = 100  # characters in a cell


def tables(figures: Mapping[str, Sequence[Figures]], lines: box.Box = box.HEAVY_HEAD) -> Iterator[str | Table]:
    """A title and a table for every list of rows, with a column for each of their keys."""
    for title, rows in figures.items():
        table = Table(box=lines)
        columns = list(dict.fromkeys(key for row in rows for key in row))
        for number, column in enumerate(columns):
            table.add_column(column.replace("_", " "), justify="right" if number else "left", overflow="fold")
        for row in rows:
            table.add_row(*(_shown(row.get(column, "")) for column in columns))
        yield from (f"**{title}**" if lines is box.MARKDOWN else title, table)


def markdown(figures: Mapping[str, Sequence[Figures]]) -> str:
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
    *_, last = ["", *str(value).strip().splitlines()]  # of a traceback, the last line says what is wrong
    return last[:LONGEST].removesuffix("-true").removesuffix("-mixed")  # bf16 says enough
