"""What the report says, in its order: the sections, from the runs."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from fcnseg import paper
from fcnseg.data import voc
from fcnseg.report import charts, masks, tables
from fcnseg.report.collect import Entry
from fcnseg.report.compare import Evaluation, Experiment, Published, by_test_set, experiments
from fcnseg.report.document import Block, Chart, Folded, Section, Text

DEFINITIONS = (
    "The paper's definition counts void (255) as background, takes the mean IoU of the classes in a batch of 16 and averages "
    "over batches; VOC's ignores void and pools all images. All numbers are of the test images; ± is the standard deviation "
    "over seeds. The floor is what predicting background everywhere scores: a network is worth what it has above it. The "
    "paper's loss is weighted by class from its fourth experiment on, and so is ours."
)


def sections(
    entries: Sequence[Entry], published: Published, *, images: Sequence[object] | None, root: str | None
) -> list[Section]:
    """The whole report.

    Args:
        entries: The runs.
        published: The settings of the paper's experiments.
        images: Names of test images to show; None: picked.
        root: Where the data set is now; None: where it was.

    Raises:
        ValueError: an image that no run was tested on.
    """
    finished = experiments([entry for entry in entries if entry.state == "finished"], published)
    begun = experiments([entry for entry in entries if entry.state != "finished" and entry.config], published)
    sets = by_test_set(finished)
    parts = [
        Section("Results", _results(sets)),
        Section("Not finished", _unfinished(entries)),
        Section("What each step added", _ablations(sets)),
        Section("Training and validation loss (Figures 2-8)", loss_charts([*finished, *begun])),
        Section("Predictions (Figures 9-11)", _predictions(sets, images, root)),
        Section("IoU of every class", [heat_map(test_set, found) for test_set, found in sets.items()]),
        Section("Confusion matrices", _confusions(finished)),
    ]
    return [section for section in parts if section.blocks]


def summary(entries: Sequence[Entry]) -> str:
    """How many runs of each state."""
    counts = Counter(entry.state for entry in entries)
    states = ("finished", "running", "interrupted", "failed", "broken")
    told = [f"{counts[state]} {state}" for state in states if counts[state]]
    return f"{len(entries)} run{'s' if len(entries) != 1 else ''}: {', '.join(told)}"


def _results(sets: dict[Evaluation, list[Experiment]]) -> list[Block]:
    if not sets:
        return [Text("No run has finished yet: there is nothing to compare.", warning=True)]
    blocks: list[Block] = [Text(DEFINITIONS)]
    if len(sets) > 1:
        blocks.append(Text(f"{len(sets)} test sets: compare within a table, not across.", warning=True))
    for test_set, found in sets.items():
        if told := _unlike(test_set):
            blocks.append(Text(told, warning=True))
        blocks += [Text(f"Test set: {test_set}."), tables.results(test_set, found)]
        if table := tables.unlike_the_paper(found):
            blocks.append(table)
    everything = [experiment for found in sets.values() for experiment in found]
    if table := tables.differing(everything):
        blocks += [Text("What these runs do not have in common:"), table]
    for experiment in everything:
        remarks = [f"{entry.path.name}: {remark}" for entry in experiment.entries for remark in entry.remarks]
        blocks += [Text(remark, warning=True) for remark in remarks]
    return blocks


def _unlike(test_set: Evaluation) -> str:
    """Why the paper's numbers are of something else; nothing if they are not."""
    if test_set.data != paper.DATA:
        return f"Trained and tested on {test_set.data}, not on VOC-2012: the paper's numbers are of another task."
    if test_set.images != (theirs := paper.IMAGES["test"]):
        return (
            f"{test_set.images} test images, not {theirs}: the paper's numbers and its floor are of another test set."
        )
    return ""


def _unfinished(entries: Sequence[Entry]) -> list[Block]:
    table = tables.unfinished(entries)
    return [table] if table else []


def _ablations(sets: dict[Evaluation, list[Experiment]]) -> list[Block]:
    return [chart for test_set, found in sets.items() if (chart := ablation(test_set, found))]


def ablation(test_set: Evaluation, found: Sequence[Experiment]) -> Chart | None:
    """The paper's experiments on one test set, each beside what it builds on; None if there are fewer than two."""
    nearest: dict[str, Experiment] = {}
    for experiment in sorted(found, key=lambda experiment: len(experiment.differences)):
        if experiment.printed:
            nearest.setdefault(experiment.printed.experiment, experiment)
    iou = {name: stat for name, experiment in nearest.items() if (stat := experiment.metric("paper_iou"))}
    steps = []
    for name, printed in paper.EXPERIMENTS.items():
        if name in iou:
            before = printed.after if printed.after in iou else None
            added = (iou[name].mean - iou[before].mean, printed.iou - paper.EXPERIMENTS[before].iou) if before else None
            backbone = nearest[name].first.config.get("model.backbone")
            adds = printed.adds + (f" ({backbone})" if backbone else "") + (" †" if nearest[name].differences else "")
            steps.append(charts.Step(adds, iou[name].mean, iou[name].deviation or 0, printed.iou, added))
    if len(steps) < 2:
        return None
    caption = (
        f"IoU by the paper's definition, and what was added: the first four rows build on one another, the other networks "
        f"on the weighted loss. † not the paper's setting: see the results. {test_set}."
    )
    floor = found[0].first.result["floor"]["paper_iou"]
    return Chart(f"ablation-{test_set.fingerprint}-{test_set.size}", caption, charts.ablation(steps, floor), wide=True)


def loss_charts(found: Sequence[Experiment]) -> list[Block]:
    """Figures 2-8: a chart for every experiment that has trained an epoch."""
    blocks: list[Block] = []
    for number, experiment in enumerate(found):
        curves = [_curve(entry) for entry in experiment.entries if entry.rows]
        if curves:
            printed = experiment.printed
            figure = f"Figure {printed.figure}: " if printed and experiment.first.state == "finished" else ""
            seeds = f", {len(curves)} seeds" if len(curves) > 1 else ""
            state = "" if experiment.first.state == "finished" else f" ({experiment.first.state})"
            caption = f"{figure}{experiment.title}{state}{seeds}. {experiment.standing.capitalize()}."
            blocks.append(Chart(f"loss-{number:02}-{_slug(experiment)}", caption, charts.loss_curves(curves)))
    return blocks


def _slug(experiment: Experiment) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in experiment.title.split(",")[0])


def _curve(entry: Entry) -> charts.Curve:
    scores = [row.get("val/miou", 0) for row in entry.rows]
    best = int(entry.result.get("best_epoch", np.argmax(scores)))
    patience = entry.config.get("patience")
    stopped = entry.state == "finished" and patience is not None and len(scores) - 1 - best >= patience
    train, val = ([row.get(f"{stage}/loss", np.nan) for row in entry.rows] for stage in ("train", "val"))
    return charts.Curve(train, val, min(best, len(scores) - 1), stopped)


def _predictions(
    sets: dict[Evaluation, list[Experiment]], wanted: Sequence[object] | None, root: str | None
) -> list[Block]:
    """Galleries for every data set; splits and sizes may differ within one."""
    data_sets: dict[str, list[Experiment]] = {}
    for test_set, found in sets.items():
        data_sets.setdefault(test_set.fingerprint, []).extend(found)
    blocks: list[Block] = []
    known: list[str] = []
    for found in data_sets.values():
        models = []
        for experiment in found:
            try:
                models.append(masks.load(experiment, root))
            except Exception as error:  # a checkpoint or a data set that is gone: the others are still shown
                blocks.append(Text(f"No predictions of {experiment.title}: {error}", warning=True))
        if models:
            names = masks.test_names(models)
            known += names
            names = masks.pick(models[0].data, names) if wanted is None else masks.chosen(wanted, names)
            blocks += masks.galleries(models, names) if names else []
    if known and (missing := [item for item in wanted or () if not masks.chosen([item], known)]):
        raise ValueError(f"images={missing}: wanted names of test images, such as {', '.join(known[:3])}")
    return blocks


def heat_map(test_set: Evaluation, found: Sequence[Experiment]) -> Chart:
    """IoU of every class on one test set, and how much of it the class is."""
    iou = np.full((voc.NUM_CLASSES, len(found)), np.nan)
    for column, experiment in enumerate(found):
        for row, name in enumerate(voc.CLASSES):
            stat = experiment.stat(lambda result, name=name: result["iou"].get(name))  # type: ignore[misc]
            iou[row, column] = stat.mean if stat else np.nan
    matrices = [entry.result["confusion"] for e in found for entry in e.entries if "confusion" in entry.result]
    shares: Sequence[float | None] = [None] * voc.NUM_CLASSES
    if matrices:
        pixels = np.asarray(matrices[0], dtype=float)[: voc.NUM_CLASSES].sum(1)
        shares = (pixels / pixels.sum()).tolist()
    share = "Beside each class its share of the labelled test pixels." if matrices else "Pixel shares: not recorded."
    caption = (
        f"IoU by VOC's definition, mean over seeds; - for a class in neither truth nor prediction. {share} {test_set}."
    )
    figure = charts.class_heat_map(iou, [experiment.title for experiment in found], shares)
    return Chart(f"classes-{test_set.fingerprint}-{test_set.size}", caption, figure, wide=True)


def _confusions(found: Sequence[Experiment]) -> list[Block]:
    blocks: list[Block] = []
    for experiment in found:
        for entry in experiment.entries:
            title = f"{experiment.title}, seed {entry.config.get('seed')}"
            if "confusion" in entry.result:
                matrix = np.asarray(entry.result["confusion"], dtype=float)[: voc.NUM_CLASSES]
                caption = f"{title}: percent of a class's pixels (row) taken for a class (column); void left out."
                chart = Chart(f"confusion-{entry.path.name}", caption, charts.confusion_matrix(matrix), wide=True)
                blocks.append(Folded(title, [chart]))
            else:
                blocks.append(Text(f"{title}: not recorded; python -m fcnseg.train resume=never records it."))
    return blocks
