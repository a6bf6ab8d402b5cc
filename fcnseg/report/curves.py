"""Curves: losses and scores over the epochs and the seconds of training, and mIoU over the number of train images."""

from collections.abc import Sequence
from functools import partial
from statistics import fmean

import numpy as np

from fcnseg.names import FINISHED, MONITOR
from fcnseg.report import charts, tables
from fcnseg.report.blocks import Block, Chart, Table, Text
from fcnseg.report.collect import Entry
from fcnseg.report.experiments import Experiment, by_train_images, grouped, titled
from fcnseg.report.statistics import nanmean, padded
from fcnseg.results.per_image import Numbers
from fcnseg.texts import counted

MOST_CURVES = 8  # experiments in one chart
MOST_EPOCHS = 10  # columns of its table
SHOWN = {
    MONITOR: "mIoU of the validation images",
    "val/loss": "loss of the validation images",
    "lr": "learning rate",
    "images_per_s": "images/s trained",
}


def overlaid(experiments: Sequence[Experiment]) -> list[Block]:
    """The curves of the best experiments on one test set, a chart for every value; nothing if no run has two epochs."""
    best = sorted(experiments, key=lambda each: -each.miou)
    chosen = [each for each in best if max(len(entry.rows) for entry in each.entries) > 1][:MOST_CURVES]
    if not chosen:
        return []
    blocks: list[Block] = [
        Text(f"{len(chosen)} of {counted(len(experiments), 'experiment')}, the best ones that trained for two epochs or more.")
    ]
    for name, words in SHOWN.items():
        values = {each.title: made for each in chosen if not np.isnan(made := _values(each, name)).all()}
        if not values:  # earlier versions wrote fewer values
            continue
        band = ": the mean over seeds, in a band from the lowest to the highest" if max(map(len, values.values())) > 1 else ""
        caption = f"{words[0].upper()}{words[1:]}{band}. {experiments[0].test_set}."
        lines = {title: (np.arange(1, each.shape[1] + 1), each) for title, each in values.items()}
        draw = partial(charts.curves, lines, "epoch", words)
        blocks.append(Chart(f"curves-{name.replace('/', '-')}", caption, draw, numbers=_table(values, words)))
    return [*blocks, *_over_seconds(chosen, experiments[0].test_set)]


def _over_seconds(experiments: Sequence[Experiment], test_set: str) -> list[Chart]:
    """The mIoU over the time that training took, on the hardware of each run; nothing if no run has its seconds."""
    seconds = {each.title: _values(each, "seconds").cumsum(1) for each in experiments}
    known = {title: each for title, each in seconds.items() if not np.isnan(each).all()}
    scores = {each.title: _values(each, MONITOR) for each in experiments}
    lines = {title: (each.mean(0), scores[title]) for title, each in known.items()}
    words = SHOWN[MONITOR]
    caption = f"{words} over the seconds of training, a mean over seeds, on the hardware of each run. {test_set}."
    draw = partial(charts.curves, lines, "seconds", words)
    return [Chart("curves-seconds", caption, draw, numbers=_table(known, "seconds"))] if lines else []


def _values(experiment: Experiment, name: str) -> Numbers:
    """The values of every seed and epoch, (seeds, epochs), with NaN after the last epoch of a seed."""
    return padded([[row.get(name, np.nan) for row in entry.rows] for entry in experiment.entries]).T


def _table(values: dict[str, Numbers], words: str) -> Table:
    """The means of evenly spread epochs; metrics.csv in each run's folder has every epoch."""
    means = padded(nanmean(of_seeds, axis=0) for of_seeds in values.values())  # (epochs, experiments)
    epochs = sorted({int(at) for at in np.linspace(0, len(means) - 1, min(len(means), MOST_EPOCHS)).round()})
    rows = [
        [title, *("-" if np.isnan(mean) else f"{mean:.4g}" for mean in column[epochs])]
        for title, column in zip(values, means.T, strict=True)
    ]
    return Table((words, *(f"epoch {at + 1}" for at in epochs)), rows)


def over_images(experiments: Sequence[Experiment]) -> list[Block]:
    """The curve, and its numbers, of every group made with data.limit on one test set; nothing without a group."""
    groups = by_train_images(experiments)
    lines, rows = {}, []
    for group, named in zip(groups, titled([group[0] for group in groups]), strict=True):
        if scores := _by_train_images(group):
            lines[named.title] = np.array([*scores], dtype=float), padded(scores.values())
        for images, of_runs in scores.items():
            values = (f"{value:.4f}" for value in (fmean(of_runs), min(of_runs), max(of_runs)))
            rows.append([named.title, f"{images}", *values, f"{len(of_runs)}"])
    if not lines:
        return []
    caption = (
        f"mIoU over the number of train images, which grows in steps of equal factors: the mean over seeds, in a band from the "
        f"lowest to the highest. {experiments[0].test_set}."
    )
    draw = partial(charts.curves, lines, "train images", "mIoU", scale="log")
    columns = ("experiment", "train images", "mIoU", "lowest", "highest", "runs")
    return [Chart("efficiency", caption, draw), Table(columns, rows)]


def _by_train_images(group: Sequence[Experiment]) -> dict[int, list[float]]:
    """The mIoU of every run by the number of train images, fewest first."""
    results = [entry.result for experiment in group for entry in experiment.entries]
    found = sorted((each["images"]["train"], miou) for each in results if (miou := each["metrics"]["test/miou"]) is not None)
    return {same[0][0]: [miou for _, miou in same] for same in grouped(found, lambda pair: pair[0])}


def losses(experiments: Sequence[Experiment]) -> list[Block]:
    """The charts of the losses, and a table of the runs that have one epoch."""
    drawn = loss_charts(experiments)
    note = [Text("The numbers of every epoch are in metrics.csv, in the folder of each run.")] if drawn else []
    return [*note, *drawn, *tables.one_epoch(experiments)]


def loss_charts(experiments: Sequence[Experiment]) -> list[Chart]:
    """The paper's Figures 2-8: a chart for every experiment that has trained for two epochs or more."""
    made = []
    for experiment in experiments:
        if curves := [_curve(entry) for entry in experiment.entries if len(entry.rows) > 1]:
            finished, theirs = experiment.first.status == FINISHED, experiment.first.published
            figure = f" (the paper's Figure {theirs.figure})" if theirs and finished else ""
            seeds = f", {len(curves)} seeds" if len(curves) > 1 else ""
            status = "" if finished else f" ({experiment.first.status})"
            floor = tables.not_above_floor(experiment) if finished else ""
            caption = f"{experiment.title}{status}{seeds}{figure}. {experiment.beside_the_paper.capitalize()}{floor}."
            name = "".join(letter if letter.isalnum() else "-" for letter in experiment.title.split(",")[0])
            made.append(Chart(f"loss-{name}", caption, partial(charts.loss_curves, curves)))
    return made


def _curve(entry: Entry) -> charts.Curve:
    scores = [row.get(MONITOR, 0) for row in entry.rows]
    # An unfinished run has no result yet, and would keep its best epoch so far.
    best = int(entry.result.get("best_epoch", np.argmax(scores)))
    patience = entry.config.get("patience")
    stopped = entry.status == FINISHED and patience is not None and len(scores) - 1 - best >= patience
    train, val = ([row.get(f"{stage}/loss", np.nan) for row in entry.rows] for stage in ("train", "val"))
    return charts.Curve(train, val, min(best, len(scores) - 1), stopped)
