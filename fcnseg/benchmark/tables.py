"""The figures as tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

Figures = Mapping[str, Any]
LISTED = 12  # operations that are shown one by one


def arms(measured: Mapping[str, Figures]) -> Table:
    """One row an arm."""
    titles = ["", "images/s", "spread", "s/epoch", "x plain", "roofline", "host MB", "GPU MB", "syncs", "in"]
    table = _table("Training: medians of blocks; synchronisations a step", titles)
    for name, row in measured.items():
        if "failed" in row:
            table.add_row(name, f"failed: {_reason(row)}")
            continue
        blocks, memory = row["images_per_s_of_blocks"], row["memory_mb"]
        spread = f"{_shown(min(blocks))}-{_shown(max(blocks))}"
        numbers = [row["epoch_s"], row["ratio"], row["roofline"], memory["host"], memory["gpu"], row["syncs_per_step"]]
        precision = row["precision"].removesuffix("-true").removesuffix("-mixed")
        table.add_row(name, _shown(row["images_per_s"]), spread, *map(_shown, numbers), precision)
    return table


def cold(measured: Mapping[str, Figures]) -> Table:
    """Seconds before the first step is done, an arm a row."""
    done = {name: row["cold"] for name, row in measured.items() if "failed" not in row}
    stages = list(next(iter(done.values()), {}))
    table = _table("Seconds until the first step is done", ["", *stages, "all"])
    for name, seconds in done.items():
        table.add_row(name, *map(_shown, [*seconds.values(), sum(second or 0 for second in seconds.values())]))
    return table


def parts(measured: Mapping[str, Figures]) -> Table:
    """One row a figure of a part."""
    table = _table("Parts by themselves", ["", "", ""])
    for part, figures in measured.items():
        for name, value in figures.items():
            table.add_row(part, name.replace("_", " "), _reason(figures) if name == "failed" else _shown(value))
    return table


def operations(measured: Figures) -> Table:
    """One row an operation, the one that loses the most time first."""
    table = _table("A step's operations", ["", "calls", "ms", "ideal", "lost", "tensors"])
    table.columns[-1].justify = "left"
    if "failed" in measured:
        table.add_row(f"failed: {_reason(measured)}")
        return table
    rows = measured["operations"]
    for row in rows[:LISTED]:
        shapes = "  ".join("x".join(map(str, shape)) for shape in row["shapes"][:3] if shape)
        table.add_row(row["name"], *_time_lost([row]), shapes)
    table.add_row("the others", *_time_lost(rows[LISTED:]), end_section=True)
    table.add_row("all", *_time_lost(rows))
    table.add_row("the step", "", _shown(measured["step_ms"]))
    return table


def _time_lost(rows: Sequence[Figures]) -> tuple[str, ...]:
    calls, taken, ideal = (sum(row[name] for row in rows) for name in ("calls", "ms", "ideal_ms"))
    return str(calls), *map(_shown, (taken, ideal, taken - ideal))


def growth(rows: list[Figures], beyond: Figures) -> tuple[Table, Table]:
    """One row a point, and the pack beyond memory."""
    titles = ["growing", "images", "size", "batch", "s/epoch", "ms/image", "ns/pixel", "pack MB", "peak MB", "data MB"]
    table = _table(
        "Growth of a training epoch; data MB: the peak of memory beyond that of as many steps on two batches", titles
    )
    for row in rows:
        if "failed" in row:
            table.add_row(row["growing"], f"failed: {_reason(row)}")
            continue
        per_image = row["epoch_s"] / row["images"]
        numbers = [row["images"], row["size"], row["batch_size"], row["epoch_s"], per_image * 1e3]
        numbers += [per_image / row["size"] ** 2 * 1e9, row["pack_mb"], row["memory_mb"]["host"]]
        numbers += [row["memory_mb"]["host"] - row["memory_mb"]["host_torch"]]
        table.add_row(row["growing"], *map(_shown, numbers))
    return table, parts({"a pack beyond memory": beyond})


def _table(title: str, titles: list[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for position, text in enumerate(titles):
        table.add_column(text, justify="right" if position else "left")
    return table


def _reason(row: Figures) -> str:
    """The last line of a traceback."""
    return str(row["failed"].strip().splitlines()[-1])


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 or isinstance(value, int) else f"{value:.3g}"
