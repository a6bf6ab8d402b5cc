"""The report's tables: results, what differs, what did not finish; and the CSV of everything."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fcnseg import paper
from fcnseg.data import voc
from fcnseg.report.collect import SCORES, Entry
from fcnseg.report.compare import Evaluation, Experiment, Published, Stat, differences
from fcnseg.report.document import Table

PAPER_COLUMNS = ("IoU", "paper's IoU", "acc.", "paper's acc.", "loss", "paper's loss")
VOC_COLUMNS = ("mIoU", "pixel acc.", "mean acc.")
COST_COLUMNS = ("parameters", "s per epoch", "best epoch")


def results(test_set: Evaluation, experiments: Sequence[Experiment]) -> Table:
    """A row per experiment on one test set, after the floor; ours beside the paper's."""
    floor = experiments[0].first.result["floor"]
    floors = [_shown(floor[name]) for name in SCORES]
    paper_floor = [f"{paper.FLOOR[name]:.3f}" for name in ("paper_iou", "paper_acc")]
    first = ["background everywhere\nthe floor", "", floors[3], paper_floor[0], floors[4], paper_floor[1], "", ""]
    return Table(
        columns=("experiment", "seeds", *PAPER_COLUMNS, *VOC_COLUMNS, *COST_COLUMNS),
        rows=[[*first, *floors[:3], *[""] * len(COST_COLUMNS)], *map(_result, experiments)],
        groups=[("", 2), ("the paper's definition", 6), ("VOC's definition", 3), ("", 3)],
    )


def _result(experiment: Experiment) -> list[str]:
    printed = experiment.printed
    theirs = [f"{number:.4f}" for number in (printed.iou, printed.acc, printed.loss)] if printed else [""] * 3
    ours = [_shown(experiment.metric(name)) for name in ("paper_iou", "paper_acc", "loss")]
    seeds = len({entry.config.get("seed") for entry in experiment.entries})
    seconds = experiment.stat(lambda result: result["seconds"] / max(1, result["epochs"]))
    best = [f"{entry.result['best_epoch'] + 1} of {entry.result['epochs']}" for entry in experiment.entries]
    return [
        f"{experiment.title}\n{experiment.standing}",
        str(seeds) if seeds == len(experiment.entries) else f"{seeds} in {len(experiment.entries)} runs",
        *(cell for pair in zip(ours, theirs, strict=True) for cell in pair),
        *(_shown(experiment.metric(name)) for name in SCORES[:3]),
        f"{experiment.first.result['parameters']:,}",
        f"{seconds.mean:.1f}" if seconds else "-",
        ", ".join(dict.fromkeys(best)),
    ]


def unlike_the_paper(experiments: Iterable[Experiment]) -> Table | None:
    """What every experiment has otherwise than the paper's; None if nothing."""
    rows = [
        [experiment.title, "; ".join(experiment.differences)] for experiment in experiments if experiment.differences
    ]
    return Table(("experiment", "not as in the paper"), rows, words=(0, 1)) if rows else None


def _shown(value: Stat | float | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, Stat) else f"{value:.4f}"


def differing(experiments: Iterable[Experiment]) -> Table | None:
    """What finished runs do not have in common, of what makes numbers hard to compare; None if they share it all."""
    runs = [(experiment.title, entry) for experiment in experiments for entry in experiment.entries]
    facts = [(title, _facts(entry)) for title, entry in runs]
    rows = []
    for fact in facts[0][1]:
        having: dict[str, dict[str, None]] = {}  # value -> titles, in order
        for title, found in facts:
            having.setdefault(found[fact], {})[title] = None
        if len(having) > 1:
            rows += [[fact, value, "; ".join(titles)] for value, titles in having.items()]
    return Table(("what", "is", "in"), rows, words=(0, 1, 2)) if rows else None


def _facts(entry: Entry) -> dict[str, str]:
    result, config = entry.result, entry.config
    versions = result.get("versions", {})
    return {
        "data set": str(config.get("choices.data")),
        "data fingerprint": result["data_fingerprint"],
        "split": result["split"],
        "images (train/val/test)": "/".join(map(str, result["images"].values())),
        "size": f"{result['size']} px",
        "precision": str(result.get("precision", "not recorded")),
        "hardware": str(result.get("hardware", "not recorded")),
        "torch": str(versions.get("torch", "not recorded")),
        "code": f"{str(result.get('commit'))[:8]}{' with changes' if result.get('dirty') else ''}",
    }


def unfinished(entries: Iterable[Entry]) -> Table | None:
    """Runs without a result, and what is known of why; None if there is none."""
    rows = [
        [entry.path.name, entry.state, _progress(entry), "; ".join(entry.remarks) or _hint(entry)]
        for entry in entries
        if entry.state != "finished"
    ]
    return Table(("run", "state", "epochs done", "what is known"), rows, words=(0, 1, 3)) if rows else None


def _progress(entry: Entry) -> str:
    return f"{len(entry.rows)} of {entry.config.get('trainer.max_epochs', '?')}"


def _hint(entry: Entry) -> str:
    return {
        "running": "it is at work, or was killed: the same command goes on where it is",
        "interrupted": "the same command goes on where it is",
    }.get(entry.state, "")


def as_csv(entries: Iterable[Entry], published: Published) -> str:
    """A row a run, whatever its state: settings, scores under both definitions, the floor, the paper's numbers, classes."""
    records = [_record(entry, published) for entry in entries]
    columns = dict.fromkeys(column for record in records for column in record)
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(records)
    return text.getvalue()


def _record(entry: Entry, published: Published) -> dict[str, Any]:
    config, result = entry.config, entry.result
    name = str(config.get("choices.experiment"))
    printed = paper.EXPERIMENTS.get(name)
    theirs = {"loss": printed.loss, "iou": printed.iou, "acc": printed.acc} if printed else {}
    differ = differences(entry, published[name]) if printed else ()
    record: dict[str, Any] = {"run": entry.path.name, "folder": str(entry.path), "state": entry.state}
    record |= {key.removeprefix("choices."): value for key, value in config.items() if key.startswith("choices.")}
    record |= {"seed": config.get("seed"), "backbone": config.get("model.backbone")}
    record |= {"differs_from_paper": "; ".join(differ), "remarks": "; ".join(entry.remarks)}
    record |= {f"paper_printed/{key}": theirs.get(key) for key in ("iou", "acc", "loss")}
    record |= _measured(result)
    record |= {f"config/{key}": value for key, value in config.items() if not key.startswith("choices.")}
    return record


def _measured(result: Mapping[str, Any]) -> dict[str, Any]:
    plain = ("split", "size", "data_fingerprint", "parameters", "best_epoch", "epochs", "seconds", "images_per_s")
    provenance = ("commit", "dirty", "hardware", "precision")
    metrics, floor, iou = (result.get(key, {}) for key in ("metrics", "floor", "iou"))
    return {
        **{f"test/{name}": metrics.get(f"test/{name}") for name in ("loss", *SCORES)},
        **{f"floor/{name}": floor.get(name) for name in SCORES},
        **{key: result.get(key) for key in plain},
        **{f"images/{stage}": result.get("images", {}).get(stage) for stage in ("train", "val", "test")},
        **{key: result.get(key) for key in provenance},
        **{f"iou/{name}": iou.get(name) for name in voc.CLASSES},
    }
