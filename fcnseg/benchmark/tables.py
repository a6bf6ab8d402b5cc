"""The figures as tables."""

import io
from collections.abc import Iterable, Iterator, Mapping

from rich import box
from rich.console import Console
from rich.table import Table

from fcnseg.benchmark.process import Figures

LONGEST = 100  # characters in a cell
LISTED = 12  # operations that are shown one by one


def tables(figures: Figures) -> Iterator[Table]:
    """The tables of what was measured."""
    if "growth" in figures:
        title = "Growth of a training epoch; data MB: the peak of memory beyond that of as many steps on two batches"
        yield _table(title, figures["growth"])
        yield _table("A pack larger than the memory", [figures["beyond_memory"]])
        return
    arms = figures["arms"]
    speeds = {name: {key: value for key, value in arm.items() if key != "cold"} for name, arm in arms.items()}
    yield _table("Training: medians of blocks", _turned(speeds))
    cold = {name: {**arm["cold"], "all": sum(arm["cold"].values())} for name, arm in arms.items() if "cold" in arm}
    yield _table("Seconds until the first step is done", _turned(cold))
    yield _table("A step's operations", _operations(figures["operations"]))
    for name, part in figures["parts"].items():
        yield _table(name.replace("_", " "), [part])


def _turned(arms: Mapping[str, Figures]) -> Iterable[Figures]:
    """A row for each figure, with a column for each arm."""
    keys = dict.fromkeys(key for arm in arms.values() for key in arm)
    return [{"": key.replace("_", " "), **{name: arm.get(key, "") for name, arm in arms.items()}} for key in keys]


def _operations(figures: Figures) -> Iterable[Figures]:
    """The operations that lose the most time, and sums."""
    if "failed" in figures:
        return [figures]
    rows = figures["operations"]
    sums = (
        {"name": name, **{key: sum(row[key] for row in some) for key in ("calls", "ms", "ideal_ms", "lost_ms")}}
        for name, some in (("the others", rows[LISTED:]), ("all", rows))
    )
    return [*rows[:LISTED], *sums, {"name": "the step", "ms": figures["step_ms"]}]


def markdown(figures: Mapping[str, Iterable[Figures]]) -> str:
    """Tables in Markdown from their rows by title."""
    console = Console(file=(text := io.StringIO()), width=1000)
    for title, rows in figures.items():
        console.print(f"**{title}**", _table(None, rows, box.MARKDOWN), highlight=False)
    return text.getvalue()


def _table(title: str | None, rows: Iterable[Figures], box: box.Box = box.HEAVY_HEAD) -> Table:
    """A line for each of `rows`, and a column for each of their keys."""
    rows = list(rows)
    table = Table(title=title, title_justify="left", box=box)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for number, column in enumerate(columns):
        table.add_column(column.replace("_", " "), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_shown(row.get(column, "")) for column in columns))
    return table


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return f"{_shown(min(value))}-{_shown(max(value))}"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    *_, last = ["", *str(value).strip().splitlines()]  # of a traceback, the last line says what is wrong
    return last[:LONGEST].removesuffix("-true").removesuffix("-mixed")  # bf16 says enough
