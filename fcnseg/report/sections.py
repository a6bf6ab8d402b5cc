"""The sections of the report, made from the runs."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import numpy as np

from fcnseg.learning.formulas import PAPER_BATCH
from fcnseg.names import FINISHED
from fcnseg.report import charts, curves, mistakes, tables, two_runs, worst_images
from fcnseg.report.blocks import Block, Chart, Section, Table, Text
from fcnseg.report.collect import STATUSES, Entry
from fcnseg.report.experiments import Experiment, by_test_set, experiments
from fcnseg.report.galleries import Galleries, side_by_side
from fcnseg.report.statistics import nanmean
from fcnseg.report.study import Study, studies
from fcnseg.results import paper
from fcnseg.results.per_image import Numbers
from fcnseg.results.summary import as_text
from fcnseg.texts import counted

MOST_DETAILED = 12  # experiments with charts of their own: two hundred such charts take minutes, and nobody reads them
MOST_COLUMNS = 12  # experiments in a table with a column for each
MOST_STUDIES = 3  # test sets that are shown image by image: each has some thirty pictures
DEFINITIONS = (
    f"All numbers are of the test images; ± is the standard deviation over seeds. The paper's IoU and accuracy count void "
    f"(255) as background, and are means over batches of {PAPER_BATCH} images; the other scores, VOC's, ignore void and count "
    "the pixels of all images together. The floor is the score of predicting background everywhere, or train's most frequent "
    "class if there is no background: only what a network scores above it has been learnt. The loss is weighted by class from "
    "the paper's fourth experiment on, in the paper and here."
)
ABOUT_COSTS = (
    "GMAC: billions of multiplications and additions for one image at the run's size, of convolutions and matrix products. "
    "Images/s predicted is the speed of the network alone. The memory is the most that training took, of the GPU, or of the "
    "whole process on a CPU. Speeds, seconds and memory are means over seeds, on the hardware of each run."
)


def sections(
    entries: Sequence[Entry],
    *,
    images: Sequence[str] | None,
    root: str | None,
    trust: bool = False,
    compare: Sequence[str] = (),
) -> list[Section]:
    """Make the report's sections; empty ones are left out.

    Args:
        entries: The runs to report on.
        images: The names of the test images to show; None: images with many classes are picked. Empty: no pictures of
            images are made, and no network is built.
        root: The folder in which the data set is now; None: the one that each run was trained from.
        trust: Whether the configs of runs may name any code.
        compare: The names of two runs to compare image by image; empty: none.

    Raises:
        ValueError: No run was tested on one of the images, or the two runs cannot be compared.
    """
    finished = experiments([entry for entry in entries if entry.status == FINISHED])
    begun = experiments([entry for entry in entries if entry.status != FINISHED and entry.config])
    sets, detailed = by_test_set(finished), _best(finished)
    known, galleries = studied(entries), Galleries(root, trust=trust, wanted=images is None or bool(images))
    losses = curves.losses([*detailed, *begun[:MOST_DETAILED]])
    against = two_runs.compared(*two_runs.chosen(known, compare), galleries) if compare else []
    possible = [
        Section("Results", [*_results(sets, finished), *_left_to_the_tables(finished, begun)]),
        Section("Two runs against each other", against),
        Section("Not finished", tables.unfinished(entries)),
        Section("What each step added", _of_each(sets, ablation)),
        Section("Training and validation loss (the paper's Figures 2-8)", losses),
        Section("Predictions (the paper's Figures 9-11)", side_by_side(detailed, images, galleries)),
        Section("IoU of every class", _of_each(sets, _classes)),
        Section("Confusion matrices", _confusions(detailed)),
        *_image_by_image(known, galleries),
        Section("Cost", [*([Text(ABOUT_COSTS)] if sets else []), *_of_each(sets, tables.costs)]),
        Section("What more images bring", _of_each(sets, curves.over_images)),
        Section("Training curves laid over each other", _of_each(sets, curves.overlaid)),
    ]
    return [section for section in possible if section.blocks]


def _of_each(sets: Mapping[str, Sequence[Experiment]], make: Callable[[Sequence[Experiment]], Iterable[Block]]) -> list[Block]:
    """The blocks that `make` returns for the experiments on each test set."""
    return [block for group in sets.values() for block in make(group)]


def _best(group: Sequence[Experiment]) -> list[Experiment]:
    """The `MOST_DETAILED` experiments with the highest mIoU, in their order."""
    best = sorted(range(len(group)), key=lambda at: -group[at].miou)[:MOST_DETAILED]
    return [group[at] for at in sorted(best)]


def _left_to_the_tables(finished: Sequence[Experiment], begun: Sequence[Experiment]) -> list[Text]:
    if max(len(finished), len(begun)) <= MOST_DETAILED:
        return []
    which = f"the {MOST_DETAILED} finished experiments with the highest mIoU, and of {MOST_DETAILED} unfinished ones"
    text = f"Loss curves, predictions and confusion matrices are of {which} at most; the tables and results.csv have all runs."
    return [Text(text, warning=True)]


def studied(entries: Sequence[Entry]) -> list[Study]:
    """The finished runs with an images.npz, grouped by test set."""
    return studies(by_test_set(experiments([entry for entry in entries if entry.status == FINISHED])))


def _image_by_image(known: Sequence[Study], galleries: Galleries) -> list[Section]:
    """The sections that read images.npz; if there are many test sets, only those with the most runs."""
    chosen = sorted(known, key=lambda study: -len(study.runs))[:MOST_STUDIES]
    of_kinds = {
        "Images, worst first": lambda study: worst_images.worst_first(study, galleries),
        "Images on which the runs disagree": lambda study: worst_images.disputed(study, galleries),
        "Labels to look at again": lambda study: worst_images.labels_to_look_at(study, galleries),
        "Sure or not": mistakes.calibration,
        "Confusions with examples": lambda study: mistakes.confusions(study, galleries),
        "Boundaries": mistakes.boundaries,
    }
    return [Section(title, [b for study in chosen for b in made(study)]) for title, made in of_kinds.items()]


def summary(entries: Sequence[Entry]) -> str:
    """A sentence with the number of runs, and of runs of each status."""
    counts = Counter(entry.status for entry in entries)
    numbers = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    return f"{counted(len(entries), 'run')}: {numbers}"


def _results(sets: Mapping[str, Sequence[Experiment]], finished: Sequence[Experiment]) -> list[Block]:
    """The results by test set, and what differs between all experiments."""
    if not sets:
        return [Text("No run has finished yet: there is nothing to compare.", warning=True)]
    blocks: list[Block] = [Text(DEFINITIONS)]
    if len(sets) > 1:
        blocks.append(Text(f"{len(sets)} test sets: compare within a table, not across.", warning=True))
    for test_set, group in sets.items():
        if caveat := _caveat(group[0].first):
            blocks.append(Text(caveat, warning=True))
        blocks += [Text(f"Test set: {test_set}."), tables.results(group), *tables.differences_from_the_paper(group)]
    if differing := tables.differences_between(finished):
        blocks += [Text("What these runs do not have in common:"), *differing]
    # The result is complete, but another file in the folder may be damaged, such as metrics.csv.
    entries = [entry for experiment in finished for entry in experiment.entries]
    remarks = [f"{entry.name}: {remark}" for entry in entries for remark in entry.remarks]
    return blocks + [Text(remark, warning=True) for remark in remarks]


def _caveat(entry: Entry) -> str:
    """The reason why results on this run's test set cannot be compared with the paper's; empty if they can."""
    ours, theirs = entry.result["images"]["test"], paper.COUNTS["test"]
    if entry.choice("data") != paper.DATA:
        return f"Trained and tested on {entry.data_set}, not on VOC-2012: the paper's numbers are of another task."
    if ours != theirs:
        return f"{counted(ours, 'test image')}, not {theirs}: the paper's numbers and its floor are of another test set."
    return ""


def ablation(group: Sequence[Experiment]) -> list[Chart]:
    """The paper's experiments on one test set, each beside the experiment that it builds on; nothing for fewer than two."""
    if len(rows := _steps(group)) < 2:
        return []
    caption = (
        f"IoU by the paper's definition, and what each step added: each of the first four builds on the one above it, the "
        f"other networks build on the weighted loss. † not the paper's setting: see the results. {group[0].test_set}."
    )
    floor = group[0].first.result["floor"]["paper_iou"]
    numbers = Table(
        ("step", "ours", "±", "the paper's", "our gain", "the paper's gain"),
        [[row.adds, *(f"{value:.4f}" for value in (row.ours, row.deviation, row.paper)), *row.gains] for row in rows],
    )
    return [Chart("ablation", caption, partial(charts.ablation, rows, floor), numbers=numbers)]


def _steps(group: Sequence[Experiment]) -> list[charts.AblationRow]:
    """The rows of the paper's experiments in its order, in which each comes after the one that it builds on."""
    nearest: dict[str, Experiment] = {}  # the experiment of each name that is most like the paper's
    for experiment in sorted(group, key=lambda experiment: len(experiment.differences)):
        nearest.setdefault(experiment.first.choice("experiment"), experiment)
    rows: dict[str | None, charts.AblationRow] = {}
    for name, theirs in paper.EXPERIMENTS.items():
        if name in nearest and (iou := nearest[name].stat("metrics", "test/paper_iou")):
            backbone = nearest[name].first.config.get("model.backbone")
            adds = theirs.adds + (f" ({backbone})" if backbone else "") + (" †" if nearest[name].differences else "")
            rows[name] = charts.AblationRow(adds, iou.mean, iou.deviation or 0, theirs.paper_iou, rows.get(theirs.after))
    return [*rows.values()]


def _classes(group: Sequence[Experiment]) -> list[Block]:
    about = "IoU by VOC's definition, mean over seeds; - for a class in neither truth nor prediction."
    several = [group[start : start + MOST_COLUMNS] for start in range(0, len(group), MOST_COLUMNS)]
    return [Text(f"{about} {group[0].test_set}."), *map(heat_map, several)]


def heat_map(group: Sequence[Experiment]) -> Table:
    """The IoU of every class on one test set, beside the class's share of its pixels; the darkest is the best of an object."""
    classes = group[0].first.classes
    means = np.array([[stat.mean if (stat := each.stat("iou", name)) else np.nan for each in group] for name in classes.names])
    # All runs were tested on the same masks: every matrix has the same number of pixels of a class.
    pixels = _confusion(group[0].first).sum(1)
    shares = pixels / max(1, pixels.sum())
    rows = [[name, f"{share:.2%}", *map(as_text, row)] for name, share, row in zip(classes.names, shares, means, strict=True)]
    objects = [label for label in range(len(classes)) if label != classes.background]  # background is far above the others
    return Table(
        ("class", "share of the pixels", *(experiment.title for experiment in group)),
        [["mean of classes", "", *map(as_text, nanmean(means, axis=0))], *rows],
        rows_are="class",
        full=float(np.nanmax(means[objects], initial=0.1)),
    )


def _confusion(entry: Entry) -> Numbers:
    """The pixels by truth (rows) and prediction (columns), without the row of void."""
    return np.asarray(entry.result["confusion"], dtype=float)[:-1]


def _confusions(group: Sequence[Experiment]) -> list[Block]:
    about = "Percent of a class's pixels (row) taken for a class (column); void left out."
    tables = [
        mistakes.matrix(entry.classes.names, _confusion(entry), title=f"{experiment.title}, seed {entry.config.get('seed')}")
        for experiment in group
        for entry in experiment.entries
    ]
    return [Text(about), *tables] if tables else []
