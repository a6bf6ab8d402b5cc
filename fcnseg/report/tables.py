"""The report's tables of runs: their results, differences and costs; and the CSV file with all data of every run."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np

from fcnseg.machine.files import csv_text
from fcnseg.names import FINISHED, INTERRUPTED, KILLED, RUNNING, SCORES
from fcnseg.report import charts
from fcnseg.report.blocks import Block, Chart, Table, Text
from fcnseg.report.collect import Entry, line
from fcnseg.report.experiments import Experiment, differences_from_paper, grouped
from fcnseg.results import paper
from fcnseg.results.summary import as_text, beats_floor
from fcnseg.settings.table import flatten

PRINTED = {"paper_iou": "IoU", "paper_acc": "accuracy", "loss": "loss"}  # the metrics that the paper prints
LOSSES = ("train/loss", "val/loss")
MOST_POINTS = 12  # experiments in the chart of costs: each needs a colour and a line of the legend


def results(experiments: Sequence[Experiment]) -> Table:
    """The floor, then a row for every experiment on one test set, our numbers beside the paper's.

    Without a background, the floor depends on the train images, and there may be several: experiments stand below theirs.
    """
    groups = grouped(experiments, lambda experiment: _floor(experiment.first))
    which = " of the rows below" if len(groups) > 1 else ""
    rows = [row for group in groups for row in (_floor(group[0].first, which), *map(_result, group))]
    known = experiments[0].first.classes.background is not None  # otherwise, the paper's scores are not defined
    printed = known and any(experiment.first.published for experiment in experiments)
    hidden = [*([] if known else ["paper's"]), *([] if printed else ["in the paper"])]
    columns = [column for column in rows[1] if not any(words in column for words in hidden)]
    return Table(columns, [[row.get(column, "") for column in columns] for row in rows])


def _floor(entry: Entry, which: str = "") -> dict[str, str]:
    """The cells of the row of a run's floor by their columns: a floor has neither loss nor cost."""
    floor = {words: as_text(entry.result["floor"][name]) for name, words in SCORES.items()}
    printed = {f"{PRINTED[name]} in the paper": f"{theirs:.3f}" for name, theirs in paper.FLOOR.items()}
    return {"experiment": f"{entry.floor_class} everywhere\nthe floor{which}", **floor, **printed}


def _result(experiment: Experiment) -> dict[str, str]:
    """The cells of an experiment's row by their columns."""
    runs, published = [entry.result for entry in experiment.entries], experiment.first.published
    # There may be two runs of one seed, under two names.
    seeds = len({entry.config.get("seed") for entry in experiment.entries})
    row = {
        "experiment": f"{experiment.title}\n{experiment.beside_the_paper}{not_above_floor(experiment)}",
        "seeds": str(seeds) if seeds == len(runs) else f"{seeds} in {len(runs)} runs",
    }
    for name, words in PRINTED.items():
        row[SCORES.get(name, name)] = str(experiment.stat("metrics", f"test/{name}") or "-")
        row[f"{words} in the paper"] = f"{getattr(published, name):.4f}" if published else ""
    row |= {words: str(experiment.stat("metrics", f"test/{name}") or "-") for name, words in SCORES.items()}
    return row | {
        "parameters": f"{runs[0]['parameters']:,}",
        "seconds per epoch": f"{fmean(run['seconds'] / max(1, run['epochs']) for run in runs):.1f}",
        "best epoch": ", ".join(dict.fromkeys(f"{run['best_epoch'] + 1} of {run['epochs']}" for run in runs)),
    }


def not_above_floor(experiment: Experiment) -> str:
    """Words about the runs that are no better than the floor; empty if all are better."""
    runs = [entry.result for entry in experiment.entries]
    below = len(runs) - sum(map(beats_floor, runs))
    which = "" if below == len(runs) else f"{below} of {len(runs)} runs "
    return f"; {which}not better than predicting {experiment.first.floor_class}" if below else ""


def differences_from_the_paper(experiments: Iterable[Experiment]) -> list[Table]:
    """The settings of every experiment that differ from the paper's; nothing if all are the same."""
    rows = [[each.title, "; ".join(each.differences)] for each in experiments if each.differences]
    return [Table(("experiment", "not as in the paper"), rows, words=(0, 1))] if rows else []


def differences_between(experiments: Sequence[Experiment]) -> list[Table]:
    """The differences that make numbers hard to compare, a row a setting, a column an experiment; nothing without any.

    Args:
        experiments: At least one; their titles differ, as those of several test sets do not in the tables of results.
    """
    runs = [[_facts(entry) for entry in experiment.entries] for experiment in experiments]
    rows = []
    for fact in runs[0][0]:
        cells = ["; ".join(dict.fromkeys(facts[fact] for facts in seeds)) for seeds in runs]
        if len({facts[fact] for seeds in runs for facts in seeds}) > 1:
            rows.append([fact, *cells])
    columns = ("setting", *(experiment.title for experiment in experiments))
    return [Table(columns, rows, words=range(len(columns)))] if rows else []


def _facts(entry: Entry) -> dict[str, str]:
    result = entry.result
    return {
        "data set": entry.data_set,
        "data fingerprint": result["data_fingerprint"],
        "split": result["split"],
        "images (train/val/test)": "/".join(map(str, result["images"].values())),
        "size": f"{result['size']} px",
        "precision": str(result.get("precision", "not recorded")),
        "hardware": str(result.get("hardware", "not recorded")),
        "torch": str(result.get("versions.torch", "not recorded")),
        "code": f"{str(result.get('commit'))[:8]}{' with changes' if result.get('dirty') else ''}",
    }


def one_epoch(experiments: Iterable[Experiment]) -> list[Table]:
    """The losses of the runs that have trained for one epoch, which cannot be drawn as a curve; nothing without such runs."""
    rows = [
        [experiment.title, str(entry.config.get("seed", "-")), *(as_text(entry.rows[0].get(name)) for name in LOSSES)]
        for experiment in experiments
        for entry in experiment.entries
        if len(entry.rows) == 1
    ]
    return [Table(("trained for one epoch", "seed", "training loss", "validation loss"), rows)] if rows else []


def unfinished(entries: Iterable[Entry]) -> list[Table]:
    """The runs without a result, and the reason if it is known; nothing if every run has finished."""
    resumes = "the same command resumes it from its last checkpoint"
    hints = {RUNNING: f"it is running, or was killed: {resumes}", INTERRUPTED: resumes, KILLED: resumes}
    rows = []
    for entry in entries:
        if entry.status != FINISHED:
            epochs = f"{len(entry.rows)} of {entry.config.get('trainer.max_epochs', '?')}"
            rows.append([entry.name, entry.status, epochs, "; ".join(entry.remarks) or hints.get(entry.status, "")])
    return [Table(("run", "status", "epochs done", "what is known"), rows, words=(0, 1, 3))] if rows else []


def _seconds_to_best(entry: Entry) -> float | None:
    rows = entry.rows[: entry.result["best_epoch"] + 1]
    return sum(row["seconds"] for row in rows) if rows and all("seconds" in row for row in rows) else None


def _megabytes(entry: Entry) -> float | None:
    peak = entry.result.get("peak_memory")
    return peak and peak / 1e6


COSTS: dict[str, Callable[[Entry], float | None]] = {  # by their columns; earlier versions measured fewer of them
    "images/s trained": lambda entry: entry.result.get("images_per_s"),
    "images/s predicted": lambda entry: entry.result.get("predicted_per_s"),
    "seconds to the best epoch": _seconds_to_best,
    "peak memory in MB": _megabytes,
}


def costs(experiments: Sequence[Experiment]) -> list[Block]:
    """Parameters, multiplications, speed, time and memory of experiments on one test set, with mIoU over them as a chart."""
    rows, points = [], {}
    for experiment in experiments:
        result, miou = experiment.first.result, experiment.stat("metrics", "test/miou")
        gmac = result.get("giga_macs")
        numbers = [as_text(stat and stat.mean, 1) for stat in map(experiment.over_seeds, COSTS.values())]
        network = f"{result['parameters']:,}", as_text(gmac, 3)
        rows.append([experiment.title, *network, *numbers, as_text(miou and miou.mean)])
        if gmac and miou:
            points[experiment.title] = np.array([float(f"{gmac:.3g}")]), np.array([[miou.mean]])
    best = dict(sorted(points.items(), key=lambda point: -point[1][1].item())[:MOST_POINTS])
    caption = f"mIoU over GMAC: {len(best)} of {len(experiments)} experiments, the best ones. {experiments[0].test_set}."
    chart = Chart("cost", caption, partial(charts.curves, best, "GMAC for an image", "mIoU", scale="log"))
    table = Table(("experiment", "parameters", "GMAC", *COSTS, "mIoU"), rows)
    return [Text(f"{experiments[0].test_set}."), table, *([chart] if len(best) > 1 else [])]


def as_csv(entries: Iterable[Entry]) -> str:
    """A row for every run: its choices, its differences from the paper, all numbers, and all other settings."""
    records = [_record(entry) for entry in entries]
    # Runs of several versions, or of several networks, have different settings; finished runs have the most columns.
    columns = dict.fromkeys(column for record in sorted(records, key=len, reverse=True) for column in record)
    return csv_text([[*columns], *([record.get(column) for column in columns] for record in records)])


def _record(entry: Entry) -> dict[str, Any]:
    config = entry.config
    measured = {key: value for key, value in flatten(dict(entry.result)).items() if key not in ("classes", "confusion")}
    return {
        **{"run": entry.name, "folder": line(entry.path), "status": entry.status},
        **{key.removeprefix("choices."): value for key, value in config.items() if key.startswith("choices.")},
        **{"seed": config.get("seed"), "backbone": config.get("model.backbone")},
        **{"differs_from_paper": "; ".join(differences_from_paper(entry)), "remarks": "; ".join(entry.remarks)},
        **{f"paper_printed/{name.removeprefix('paper_')}": getattr(entry.published, name, None) for name in PRINTED},
        # The dot is between a table of the result and a key, which may be the name of a class.
        **{key.removeprefix("metrics.").replace(".", "/", 1): value for key, value in measured.items()},
        **{f"config/{key}": value for key, value in config.items() if not key.startswith("choices.")},
    }
