"""The test images one by one: the worst, the best, those on which runs disagree and those whose masks may be wrong."""

from collections.abc import Iterable

import numpy as np

from fcnseg.machine.files import csv_text
from fcnseg.report.blocks import Block, Table, Text
from fcnseg.report.galleries import Galleries
from fcnseg.report.study import MOST_RUNS, Study
from fcnseg.results.summary import beats_floor
from fcnseg.texts import counted

MOST_ROWS, MOST_DISPUTED, MOST_SUSPECTED = 1000, 10, 40  # images of a table
OF_A_KIND, SUSPECTED_PICTURED = 3, 8  # images whose pictures are shown


def worst_first(study: Study, galleries: Galleries) -> list[Block]:
    """The IoU of every image and run, and pictures of the worst, the median and the best images."""
    order, best = study.ranked, study.best
    if not order:
        return []
    runs = study.runs[:MOST_RUNS]
    rows = [
        [study.names[n], f"{study.mean[n]:.3f}", *(f"{run.iou[n]:.3f}" for run in runs), best.confused(n)]
        for n in order[:MOST_ROWS]
    ]
    columns = ("image", "mean", *(run.title for run in runs), "most confused by the best run")
    about = (
        f"The mean IoU of the classes that each image has in truth or prediction, void left out. {study.test_set}: "
        f"{len(rows)} of {counted(len(order), 'image')}, and {len(runs)} of {counted(len(study.runs), 'run')}; images.csv has "
        "all of them."
    )
    table = Table(columns, rows, words=(0, len(columns) - 1), rows_are="image")
    return [Text(about), table, *_of_kinds(study, galleries)]


def _of_kinds(study: Study, galleries: Galleries) -> list[Block]:
    """Pictures of the worst, the median and the best images."""
    # In a small test set, an image is of one kind alone.
    worst, others = study.ranked[:OF_A_KIND], study.ranked[OF_A_KIND:]
    between = others[:-OF_A_KIND]
    middle = max(0, (len(between) - OF_A_KIND) // 2)
    kinds = {"worst": worst, "median": between[middle : middle + OF_A_KIND], "best": others[-OF_A_KIND:]}
    blocks: list[Block] = []
    for kind, numbers in kinds.items():
        if numbers:
            blocks.append(Text(f"The {kind} images, as {study.best.title} sees them, which is the best run here:"))
            blocks += galleries.of_images([study.names[n] for n in numbers], [study.best])
    return blocks


def disputed(study: Study, galleries: Galleries) -> list[Block]:
    """The images on which the runs differ most in their IoU; nothing for a single run."""
    spread = np.ptp(study.iou, axis=0)  # (N,)
    order = sorted((n for n in study.ranked if spread[n] > 0), key=lambda n: -spread[n])[:MOST_DISPUTED]
    if not order:
        return []
    ends = {n: [study.runs[int(at)] for at in (study.iou[:, n].argmax(), study.iou[:, n].argmin())] for n in order}
    rows = [
        [study.names[n], f"{spread[n]:.3f}", *(cell for run in ends[n] for cell in (run.title, f"{run.iou[n]:.3f}"))]
        for n in order
    ]
    columns = ("image", "difference", "highest in", "IoU", "lowest in", "its IoU")
    about = f"The images whose IoU differs most between the {len(study.runs)} runs. {study.test_set}."
    pictures = [block for n in order[:OF_A_KIND] for block in galleries.of_images([study.names[n]], ends[n])]
    return [Text(about), Table(columns, rows, words=(0, 2, 4), rows_are="image"), *pictures]


def labels_to_look_at(study: Study, galleries: Galleries) -> list[Block]:
    """The images with the lowest soft minimum of the probability of their labels, and pictures of the first of them."""
    best = study.best
    softmin = best.per_image.softmin
    order = [int(n) for n in np.argsort(softmin, kind="stable") if not np.isnan(softmin[n])]
    if not order:
        return []
    shown = order[:MOST_SUSPECTED]
    rows = [[study.names[n], f"{softmin[n]:.4f}", f"{best.iou[n]:.3f}", best.confused(n)] for n in shown]
    about = (
        f"Suspected errors in the masks: the {len(rows)} of {counted(len(order), 'image')} whose labels {best.title} finds "
        f"least likely, by the soft minimum of the probability of each pixel's label; the network being wrong is as common. "
        f"{study.test_set}."
    )
    columns = ("image", "soft minimum", "IoU", "the mask's label and the network's")
    pictures = galleries.of_images([study.names[n] for n in order[:SUSPECTED_PICTURED]], [best])
    weak = f"{best.title} is not better than predicting {best.entry.floor_class} everywhere: its doubts say little."
    caveat = [] if beats_floor(best.entry.result) else [Text(weak, warning=True)]
    return [Text(about), *caveat, Table(columns, rows, words=(0, 3), rows_are="image"), *pictures]


def as_csv(studies: Iterable[Study]) -> str:
    """The IoU of every test image, worst first, in a column for every run's folder; empty for a run on another test set."""
    studies = list(studies)
    rows = [["test set", "image", "mean", *(run.entry.name for study in studies for run in study.runs)]]
    for study in studies:
        for n in study.ranked:
            cells = (f"{run.iou[n]:.4f}" if other is study else "" for other in studies for run in other.runs)
            rows.append([study.test_set, study.names[n], f"{study.mean[n]:.4f}", *cells])
    return csv_text(rows)
