"""The mistakes of networks: which classes are confused, how many pixels near boundaries are wrong, how sure a network is."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from fcnseg.learning.formulas import NEAR, calibration_error
from fcnseg.report import charts
from fcnseg.report.blocks import Block, Chart, Links, Table, Text, address
from fcnseg.report.galleries import Galleries
from fcnseg.report.statistics import iou, with_mean
from fcnseg.report.study import MOST_RUNS, Study, TestedRun
from fcnseg.results.per_image import Numbers
from fcnseg.results.summary import as_text
from fcnseg.texts import counted

LISTED, EXAMPLES, PICTURED = 100, 8, 3  # confusions in the table, images named in its rows, images shown
MOST_CLASSES = 30  # rows, and columns, of a matrix of numbers
MOST_LINES = 6  # runs in one diagram: the lines of more would look alike


def matrix(names: Sequence[str], pixels: Numbers, *, rows_of: str = "", title: str = "") -> Table:
    """The share of each class (row) that is predicted as each class (column), in percent of the row's pixels.

    Args:
        names: The names of the C classes; if there are many, only those with the most wrong pixels are shown.
        pixels: (C, C) counts of pixels by truth and prediction.
        rows_of: The kind of the rows of `confusions`, to which the numbers link; empty for no links.
        title: The words that unfold the table.
    """
    wrong = pixels * (1 - np.eye(len(names)))
    most = np.argsort(-(wrong.sum(0) + wrong.sum(1)), kind="stable")[:MOST_CLASSES]
    shown = sorted(int(label) for label in most if pixels[label].sum() + pixels[:, label].sum())
    rows = []
    for truth in shown:
        shares = 100 * pixels[truth] / max(1, pixels[truth].sum())
        cells = [(address(rows_of, taken(names[truth], names[label])), shares[label]) for label in shown]
        rows.append([names[truth], *(Links([(to, f"{share:.1f}")]) if share else "" for to, share in cells)])
    return Table(("truth", *(names[label] for label in shown)), rows, full=100, title=title)


def taken(truth: str, predicted: str) -> str:
    """A confusion in words."""
    return f"{truth} taken for {predicted}"


def confusions(study: Study, galleries: Galleries) -> list[Block]:
    """The confusion matrix of the best run, and its largest confusions with the images that have most of their pixels."""
    best = study.best
    names, count = best.entry.classes.names, len(best.entry.classes)
    _, truth, predicted, pixels = best.wrong.T
    totals = np.bincount(truth * count + predicted, pixels, minlength=count * count)
    largest = [int(cell) for cell in np.argsort(-totals, kind="stable")[:LISTED] if totals[cell]]
    if not largest:
        return []
    both, of_truth, _ = best.counts.sum(1)
    rows: list[list[str | Links]] = []
    pictured, rows_of = [], f"confusion-{best.entry.name}"
    for cell in largest:
        row, column = divmod(cell, count)
        images = best.wrong[(truth == row) & (predicted == column)]  # (images, 4) most pixels first
        pictured.append(study.names[images[0, 0]])
        numbers = f"{totals[cell]:,.0f}", f"{totals[cell] / max(1, of_truth[row]):.1%}", f"{len(images)}"
        rows.append([taken(names[row], names[column]), *numbers, _examples(study, images)])
    about = (
        f"What {best.title}, the best run, takes every class (row) for, in percent of its pixels. A number leads to the images "
        f"that make it up, most pixels first. {study.test_set}."
    )
    columns = ("confusion", "pixels", "share of the truth", "images", "most pixels in")
    counts = totals.reshape(count, count) + np.diag(both)  # (C, C)
    of_all = counted(int(np.count_nonzero(totals)), "confusion")
    below = f"The {len(rows)} largest of {of_all}, and the images with most of their pixels:"
    return [
        *(Text(about), matrix(names, counts, rows_of=rows_of), Text(below)),
        Table(columns, rows, words=(0, 4), rows_are=rows_of),
        *galleries.of_images(dict.fromkeys(pictured[:PICTURED]), [best]),
    ]


def _examples(study: Study, cells: Numbers) -> Links:
    """Links to the images of the first cells, (M, 4), with their numbers of pixels."""
    listed = [(study.names[image], pixels) for image, _, _, pixels in cells[:EXAMPLES]]
    return Links([(address("image", name), f"{name} ({pixels:,})") for name, pixels in listed])


def boundaries(study: Study) -> list[Block]:
    """The share of errors near boundaries for every run, and the boundary IoU of every class."""
    sums = [run.per_image.boundary.astype(np.int64).sum(0) for run in study.runs]  # (C, 3) each
    boundary_ious = [with_mean(iou(of_run.T)) for of_run in sums]  # (C + 1,) each
    rows = [[run.title, *_near(run), as_text(values[0])] for run, values in zip(study.runs, boundary_ious, strict=True)]
    about = (
        f"Near is within {100 * NEAR:.0f} % of the image's diagonal from another label in the truth. Boundary IoU is that of"
        " those pixels of a class that are near its boundary, in the truth or in the prediction; void pixels are left out."
        f" {study.test_set}."
    )
    columns = ("run", "pixels near boundaries", "errors near boundaries", "wrong there", "wrong elsewhere", "mean boundary IoU")
    titles = [run.title for run in study.runs[:MOST_RUNS]]
    of_classes = [map(as_text, values[1:]) for values in boundary_ious[:MOST_RUNS]]
    return [
        Text(about),
        Table(columns, rows),
        Text(f"Boundary IoU of every class, {len(titles)} of {counted(len(study.runs), 'run')}:"),
        Table(("class", *titles), [*zip(study.best.entry.classes.names, *of_classes, strict=True)]),
    ]


def _near(run: TestedRun) -> list[str]:
    """The shares of a run's pixels near boundaries, of its errors there, and of wrong pixels there and elsewhere."""
    near, wrong = run.per_image.near.astype(np.int64).sum(0)
    pixels, errors = run.counts[1].sum(), run.counts[1].sum() - run.counts[0].sum()
    shares = ((near, pixels), (wrong, errors), (wrong, near), (errors - wrong, pixels - near))
    return [f"{part / whole:.1%}" if whole else "-" for part, whole in shares]


def calibration(study: Study) -> list[Block]:
    """The calibration error of every run, and a reliability diagram of the best ones with its numbers."""
    # By run, for every bin: the pixels, the sum of their confidence, and the right pixels, (B,) each.
    stored = {run.title: (run.per_image.pixels, run.per_image.confidence, run.per_image.right) for run in study.runs}
    sums = {title: [each.astype(np.float64).sum(0) for each in bins] for title, bins in stored.items() if bins[0].sum()}
    if not sums:
        return []
    rows = []
    for title, (pixels, confidence, right) in sums.items():
        means = confidence.sum() / pixels.sum(), right.sum() / pixels.sum()
        rows.append([title, *(f"{value:.4f}" for value in (calibration_error(pixels, confidence, right), *means))])
    about = (
        "Confidence is the highest probability of a pixel, over all labelled pixels. The expected calibration error is the "
        "mean distance between confidence and the share of right pixels, over bins of confidence: 0 for a network that is "
        f"right as often as it is sure. {study.test_set}."
    )
    shown = dict([*sums.items()][:MOST_LINES])
    caption = (
        f"Share of right pixels by confidence, {len(shown)} of {counted(len(sums), 'run')}: below the dashed line a network is "
        f"surer than it is right. A dot grows with the share of the pixels. {study.test_set}."
    )
    return [
        Text(about),
        Table(("run", "expected calibration error", "mean confidence", "share of pixels right"), rows),
        Chart("reliability", caption, partial(charts.reliability, shown), numbers=_bins(shown)),
    ]


def _bins(shown: Mapping[str, Sequence[Numbers]]) -> Table:
    """The numbers of the diagram: a row for every bin and run that has pixels in it."""
    rows = []
    for title, (pixels, confidence, right) in shown.items():
        for number in np.flatnonzero(pixels):
            bounds = f"{number / len(pixels):.2f} to {(number + 1) / len(pixels):.2f}"
            values = (each[number] / pixels[number] for each in (confidence, right))
            rows.append([title, bounds, f"{pixels[number] / pixels.sum():.2%}", *(f"{value:.4f}" for value in values)])
    return Table(("run", "confidence", "share of pixels", "mean confidence", "share right"), rows, words=(0, 1))
