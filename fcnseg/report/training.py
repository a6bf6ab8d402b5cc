"""How training went: the curves of experiments laid over each other."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from fcnseg.metrics import MONITOR
from fcnseg.report import charts
from fcnseg.report.compare import Experiment
from fcnseg.report.document import Block, Chart, Table, Text
from fcnseg.report.study import Numbers

MOST_CURVES, MOST_EPOCHS = 8, 10  # in one chart; in its table
SHOWN = {MONITOR: "mIoU of the validation images", "val/loss": "loss of the validation images"}


def overlaid(found: Sequence[Experiment]) -> list[Block]:
    """The curves of the best experiments on one test set, a chart for every value; nothing if no run has two epochs."""
    best = sorted(found, key=lambda each: -(stat.mean if (stat := each.stat("metrics", "test/miou")) else 0))
    chosen = [each for each in best if max(len(entry.rows) for entry in each.entries) > 1][:MOST_CURVES]
    if not chosen:
        return []
    blocks: list[Block] = [
        Text(f"{len(chosen)} of {len(found)} experiments, the best ones that trained for two epochs or more.")
    ]
    for name, words in SHOWN.items():
        values = {each.title: _values(each, name) for each in chosen}
        caption = f"The {words}: the mean over seeds, in a band from the lowest to the highest. {found[0].test_set}."
        draw = partial(charts.curves, values, words)
        blocks += [Chart(f"curves-{name.replace('/', '-')}", caption, draw), _table(values, words)]
    return blocks


def _values(experiment: Experiment, name: str) -> Numbers:
    """(seeds, epochs), NaN after the last epoch of a seed."""
    epochs = max(len(entry.rows) for entry in experiment.entries)
    values = np.full((len(experiment.entries), epochs), np.nan)
    for row, entry in zip(values, experiment.entries, strict=True):
        row[: len(entry.rows)] = [each.get(name, np.nan) for each in entry.rows]
    return values


def _table(values: dict[str, Numbers], words: str) -> Table:
    """The means of some epochs, spread over all of them; metrics.csv in each run's folder has every epoch."""
    longest = max(each.shape[1] for each in values.values())
    epochs = sorted({int(at) for at in np.linspace(0, longest - 1, min(longest, MOST_EPOCHS)).round()})
    rows = [[title, *(_mean(each[:, at : at + 1]) for at in epochs)] for title, each in values.items()]
    return Table((words, *(f"epoch {at + 1}" for at in epochs)), rows)


def _mean(column: Numbers) -> str:
    there = column[~np.isnan(column)]
    return f"{there.mean():.4f}" if len(there) else "-"
