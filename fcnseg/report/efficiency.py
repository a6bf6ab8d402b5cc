"""What more images would bring: mIoU over the number of train images, of runs that differ only in it."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from fcnseg.report import charts
from fcnseg.report.compare import Experiment, by_train_images, titled
from fcnseg.report.document import Block, Chart, Table
from fcnseg.report.study import Numbers


def over_images(found: Sequence[Experiment]) -> list[Block]:
    """The curve of every group of experiments on one test set, made with data.limit, and its numbers; nothing without any."""
    groups = by_train_images(found)
    lines, rows = {}, []
    for group, named in zip(groups, titled([group[0] for group in groups]), strict=True):
        numbers, values = _scores(group)
        lines[named.title] = numbers, values
        for number, column in zip(numbers, values.T, strict=True):
            seeds = column[~np.isnan(column)]
            measured = (f"{value:.4f}" for value in (seeds.mean(), seeds.min(), seeds.max()))
            rows.append([named.title, f"{number:.0f}", *measured, f"{len(seeds)}"])
    if not lines:
        return []
    caption = (
        f"mIoU over the number of train images, which grows in steps of equal factors: the mean over seeds, in a band from the "
        f"lowest to the highest. {found[0].test_set}."
    )
    draw = partial(charts.curves, lines, "train images", "mIoU", scale="log")
    columns = ("experiment", "train images", "mIoU", "lowest", "highest", "runs")
    return [Chart("efficiency", caption, draw), Table(columns, rows)]


def _scores(group: Sequence[Experiment]) -> tuple[Numbers, Numbers]:
    """The numbers (N,) of train images, fewest first, and the mIoU (seeds, N) of the runs, NaN where a seed is missing."""
    scores: dict[int, list[float]] = {}
    for each in group:
        for entry in each.entries:
            if (miou := entry.result["metrics"]["test/miou"]) is not None:
                scores.setdefault(entry.result["images"]["train"], []).append(miou)
    numbers = sorted(scores)
    values = np.full((max(map(len, scores.values()), default=0), len(numbers)), np.nan)
    for column, number in enumerate(numbers):
        values[: len(scores[number]), column] = scores[number]
    return np.array(numbers, dtype=float), values
