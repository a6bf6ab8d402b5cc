"""Which class is taken for which, with the images that make it up."""

import numpy as np

from fcnseg.report.document import Block, Table, Text
from fcnseg.report.predictions import Shown
from fcnseg.report.study import Study

LISTED, EXAMPLES, PICTURED = 20, 5, 3


def examples(study: Study, shown: Shown) -> list[Block]:
    """The largest confusions of the best run, each with the images that have most of it; pictures of the first of them."""
    best = study.best
    names, count = best.entry.classes.names, len(best.entry.classes)
    _, truth, predicted, pixels = best.wrong.T
    totals = np.bincount(truth * count + predicted, pixels, minlength=count * count)
    largest = [int(cell) for cell in np.argsort(-totals, kind="stable")[:LISTED] if totals[cell]]
    if not largest:
        return []
    of_truth, rows, pictured = best.parts[1].sum(0), [], []
    for cell in largest:
        row, column = divmod(cell, count)
        found = best.wrong[(truth == row) & (predicted == column)]  # most pixels first
        pictured.append(study.names[found[0, 0]])
        listed = ", ".join(f"{study.names[image]} ({number:,})" for image, _, _, number in found[:EXAMPLES])
        share = totals[cell] / max(1, of_truth[row])
        rows.append([names[row], names[column], f"{totals[cell]:,.0f}", f"{share:.1%}", f"{len(found)}", listed])
    columns = ("truth", "taken for", "pixels", "share of the truth", "images", "most pixels in")
    about = (
        f"The largest confusions of {best.title}, the best run, with the images that make them up. {study.test_set}."
    )
    galleries = [block for name in dict.fromkeys(pictured[:PICTURED]) for block in shown.gallery(name, [best])]
    return [Text(about), Table(columns, rows, words=(0, 1, 5)), *galleries]
