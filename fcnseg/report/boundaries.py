"""The share of the wrong pixels that is near the boundaries of objects."""

import numpy as np

from fcnseg.report.arrays import iou, nanmean
from fcnseg.report.document import Block, Table, Text
from fcnseg.report.study import Study
from fcnseg.runs.summary import as_text

MOST_RUNS = 12  # columns of the table of classes


def boundaries(study: Study) -> list[Block]:
    """The share of errors near boundaries for every run, and the boundary IoU of every class."""
    rows, of_classes = [], []
    for run in study.runs:
        near, wrong = run.images.near.astype(np.int64).sum(0)
        pixels, right = run.counts[1].sum(), run.counts[0].sum()
        values = iou(np.moveaxis(run.images.boundary.astype(np.int64).sum(0), -1, 0))  # (C,)
        of_classes.append(values)
        shares = ((near, pixels), (wrong, pixels - right), (wrong, near), (pixels - right - wrong, pixels - near))
        rows.append([run.title, *(f"{a / b:.1%}" if b else "-" for a, b in shares), as_text(float(nanmean(values)))])
    about = (
        "Near is within 2 % of the image's diagonal from another label in the truth. Boundary IoU is that of those pixels of "
        f"a class that are near its boundary, in the truth or in the prediction; void pixels are left out. {study.test_set}."
    )
    columns = ("run", "pixels near boundaries", "errors near boundaries", "wrong there", "wrong elsewhere")
    names = study.best.entry.classes.names
    cells = [[name, *map(as_text, values)] for name, values in zip(names, zip(*of_classes, strict=True), strict=True)]
    titles = [run.title for run in study.runs[:MOST_RUNS]]
    return [
        Text(about),
        Table((*columns, "mean boundary IoU"), rows),
        Text(f"Boundary IoU of every class, {len(titles)} of {len(study.runs)} runs:"),
        Table(("class", *titles), [row[: len(titles) + 1] for row in cells]),
    ]
