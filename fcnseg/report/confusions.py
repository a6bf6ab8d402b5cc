"""The confusions between classes, with the images that have most of their pixels."""

from collections.abc import Sequence

import numpy as np

from fcnseg.report.arrays import Numbers
from fcnseg.report.document import Block, Links, Table, Text, address
from fcnseg.report.galleries import Galleries
from fcnseg.report.study import Study

LISTED, EXAMPLES, PICTURED = 100, 8, 3  # confusions in the table, images named in its rows, images shown
MOST_CLASSES = 30  # rows, and columns, of a matrix of numbers


def matrix(names: Sequence[str], pixels: Numbers, rows_of: str = "") -> Table:
    """The share of each class (row) that is predicted as each class (column), in percent of the row's pixels.

    Args:
        names: The names of the C classes; if there are many, only those with the most wrong pixels are shown.
        pixels: (C, C) counts of pixels by truth and prediction.
        rows_of: The kind of the rows of `examples`, to which the numbers link; empty for no links.
    """
    wrong = pixels * (1 - np.eye(len(names)))
    most = np.argsort(-(wrong.sum(0) + wrong.sum(1)), kind="stable")[:MOST_CLASSES]
    shown = sorted(int(label) for label in most if pixels[label].sum() + pixels[:, label].sum())
    rows = []
    for truth in shown:
        shares = 100 * pixels[truth] / max(1, pixels[truth].sum())
        cells = [(address(rows_of, taken(names[truth], names[label])), shares[label]) for label in shown]
        rows.append([names[truth], *(Links([(to, f"{share:.1f}")]) if share else "" for to, share in cells)])
    return Table(("truth", *(names[label] for label in shown)), rows, shaded=True)


def taken(truth: str, predicted: str) -> str:
    """A confusion in words."""
    return f"{truth} taken for {predicted}"


def examples(study: Study, galleries: Galleries) -> list[Block]:
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
        listed = [(study.names[image], number) for image, _, _, number in images[:EXAMPLES]]
        links = Links([(address("image", name), f"{name} ({number:,})") for name, number in listed])
        numbers = f"{totals[cell]:,.0f}", f"{totals[cell] / max(1, of_truth[row]):.1%}", f"{len(images)}"
        rows.append([taken(names[row], names[column]), *numbers, links])
    about = (
        f"What {best.title}, the best run, takes every class (row) for, in percent of its pixels. A number leads to the images "
        f"that make it up, most pixels first. {study.test_set}."
    )
    columns = ("confusion", "pixels", "share of the truth", "images", "most pixels in")
    pictures = [block for name in dict.fromkeys(pictured[:PICTURED]) for block in galleries.gallery(name, [best])]
    counts = totals.reshape(count, count) + np.diag(both)
    below = f"The {len(rows)} largest of {np.count_nonzero(totals)} confusions, and the images with most of their pixels:"
    return [
        *(Text(about), matrix(names, counts, rows_of), Text(below)),
        *(Table(columns, rows, words=(0, 4), rows_are=rows_of), *pictures),
    ]
