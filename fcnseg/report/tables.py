"""The report's tables, and the CSV file with all that is known of every run."""

import csv
import io
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from fcnseg import paper
from fcnseg.data import voc
from fcnseg.metrics import SCORES
from fcnseg.report.collect import STAGES, Entry
from fcnseg.report.compare import Experiment, Stat, differences
from fcnseg.report.document import Table
from fcnseg.runs.settings import flatten

VOC_SCORES = [name for name in SCORES if name not in paper.FLOOR]
PRINTED = (*paper.FLOOR, "loss")  # the metrics that the paper prints
PRINTED_COLUMNS = ("IoU", "IoU in the paper", "accuracy", "accuracy in the paper", "loss", "loss in the paper")
COST_COLUMNS = ("parameters", "seconds per epoch", "best epoch")
MEASURED = (  # what the CSV file has of a result; a dot leads into one of its tables
    *(f"metrics.test/{name}" for name in ("loss", *SCORES)),
    *(f"floor.{name}" for name in SCORES),
    *("split", "size", "data_fingerprint", "parameters", "best_epoch", "epochs", "seconds", "images_per_s"),
    *(f"images.{stage}" for stage in STAGES),
    *("commit", "dirty", "hardware", "precision"),
    *(f"iou.{name}" for name in voc.CLASSES),
)


def results(experiments: Sequence[Experiment]) -> Table:
    """The floor, then a row for every experiment on one test set, our numbers beside the paper's."""
    floor = experiments[0].first.result["floor"]
    both = [cell for name in paper.FLOOR for cell in (_shown(floor[name]), f"{paper.FLOOR[name]:.3f}")]
    first = ["background everywhere\nthe floor", "", *both, "", "", *(_shown(floor[name]) for name in VOC_SCORES)]
    return Table(
        columns=("experiment", "seeds", *PRINTED_COLUMNS, *(SCORES[name] for name in VOC_SCORES), *COST_COLUMNS),
        rows=[[*first, *[""] * len(COST_COLUMNS)], *map(_result, experiments)],
        groups=[("", 2), ("the paper's definition", 6), ("VOC's definition", 3), ("", 3)],
    )


def _result(experiment: Experiment) -> list[str]:
    published = experiment.first.published
    theirs = [f"{getattr(published, name):.4f}" if published else "" for name in PRINTED]
    ours, scores = (
        [_shown(experiment.stat("metrics", f"test/{name}")) for name in each] for each in (PRINTED, VOC_SCORES)
    )
    # A seed may have been run twice, under two names.
    seeds = len({entry.config.get("seed") for entry in experiment.entries})
    seconds = fmean(entry.result["seconds"] / max(1, entry.result["epochs"]) for entry in experiment.entries)
    best = [f"{entry.result['best_epoch'] + 1} of {entry.result['epochs']}" for entry in experiment.entries]
    return [
        f"{experiment.title}\n{experiment.beside_the_paper}",
        str(seeds) if seeds == len(experiment.entries) else f"{seeds} in {len(experiment.entries)} runs",
        *(cell for pair in zip(ours, theirs, strict=True) for cell in pair),
        *scores,
        f"{experiment.first.result['parameters']:,}",
        f"{seconds:.1f}",
        ", ".join(dict.fromkeys(best)),
    ]


def _shown(value: Stat | float | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, Stat) else f"{value:.4f}"


def differences_from_the_paper(experiments: Iterable[Experiment]) -> Table | None:
    """The settings of every experiment that differ from the paper's; None if all are the same."""
    rows = [[each.title, "; ".join(each.differences)] for each in experiments if each.differences]
    return Table(("experiment", "not as in the paper"), rows, words=(0, 1)) if rows else None


def differences_between(experiments: Iterable[Experiment]) -> Table | None:
    """The facts that make numbers hard to compare and that differ between runs; None if no fact does."""
    runs = [(experiment.title, _facts(entry)) for experiment in experiments for entry in experiment.entries]
    rows = []
    for fact in runs[0][1]:
        titles: dict[str, dict[str, None]] = {}  # of the experiments with a value, each once and in order
        for title, facts in runs:
            titles.setdefault(facts[fact], {})[title] = None
        if len(titles) > 1:
            rows += [[fact, value, "; ".join(having)] for value, having in titles.items()]
    return Table(("what", "is", "in"), rows, words=(0, 1, 2)) if rows else None


def _facts(entry: Entry) -> dict[str, str]:
    result = entry.result
    return {
        "data set": entry.choice("data"),
        "data fingerprint": result["data_fingerprint"],
        "split": result["split"],
        "images (train/val/test)": "/".join(map(str, result["images"].values())),
        "size": f"{result['size']} px",
        "precision": str(result.get("precision", "not recorded")),
        "hardware": str(result.get("hardware", "not recorded")),
        "torch": str(result.get("versions", {}).get("torch", "not recorded")),
        "code": f"{str(result.get('commit'))[:8]}{' with changes' if result.get('dirty') else ''}",
    }


def unfinished(entries: Iterable[Entry]) -> Table | None:
    """The runs without a result and what is known about the reason; None if every run has finished."""
    goes_on = "the same command goes on from its last checkpoint"
    hints = {"running": f"it is running, or was killed: {goes_on}", "interrupted": goes_on}
    rows = []
    for entry in entries:
        if entry.state != "finished":
            epochs = f"{len(entry.rows)} of {entry.config.get('trainer.max_epochs', '?')}"
            rows.append([entry.path.name, entry.state, epochs, "; ".join(entry.remarks) or hints.get(entry.state, "")])
    return Table(("run", "state", "epochs done", "what is known"), rows, words=(0, 1, 3)) if rows else None


def as_csv(entries: Iterable[Entry]) -> str:
    """A row for every run: what was chosen, what differs from the paper, all numbers, and all other settings."""
    records = [_record(entry) for entry in entries]
    columns = dict.fromkeys(column for record in records for column in record)
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(records)
    return text.getvalue()


def _record(entry: Entry) -> dict[str, Any]:
    config, measured = entry.config, flatten(dict(entry.result))
    return {
        **{"run": entry.path.name, "folder": str(entry.path), "state": entry.state},
        **{key.removeprefix("choices."): value for key, value in config.items() if key.startswith("choices.")},
        **{"seed": config.get("seed"), "backbone": config.get("model.backbone")},
        **{"differs_from_paper": "; ".join(differences(entry)), "remarks": "; ".join(entry.remarks)},
        **{
            f"paper_printed/{metric.removeprefix('paper_')}": getattr(entry.published, metric, None)
            for metric in PRINTED
        },
        **{key.removeprefix("metrics.").replace(".", "/"): measured.get(key) for key in MEASURED},
        **{f"config/{key}": value for key, value in config.items() if not key.startswith("choices.")},
    }
