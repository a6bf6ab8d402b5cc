"""Labels to look at again: test images whose given mask the best run finds least likely."""

import numpy as np

from fcnseg.report.document import Block, Table, Text
from fcnseg.report.predictions import Galleries
from fcnseg.report.study import Study
from fcnseg.runs.summary import beats_floor

LISTED, PICTURED = 40, 8


def labels_to_look_at(study: Study, galleries: Galleries) -> list[Block]:
    """The images with the lowest soft minimum of the probability of their labels, and pictures of the first of them."""
    best = study.best
    order = [int(n) for n in np.argsort(best.images.softmin, kind="stable") if not np.isnan(best.images.softmin[n])]
    if not order:
        return []
    rows = [
        [study.names[n], f"{best.images.softmin[n]:.4f}", f"{best.iou[n]:.3f}", best.confused(n)]
        for n in order[:LISTED]
    ]
    about = (
        f"Suspected errors in the masks: the {len(rows)} of {len(order)} images whose labels {best.title} finds least likely, "
        f"least likely first, by the soft minimum of the probability of each pixel's label. Where the prediction is the one "
        f"that is right, the mask is worth a second look; the network being wrong is as common. {study.test_set}."
    )
    columns = ("image", "soft minimum", "IoU", "the mask's label and the network's")
    pictures = [block for n in order[:PICTURED] for block in galleries.gallery(study.names[n], [best])]
    weak = f"{best.title} is not better than predicting {best.entry.floor_class} everywhere: its doubts say little."
    caveat = [] if beats_floor(best.entry.result) else [Text(weak, warning=True)]
    return [Text(about), *caveat, Table(columns, rows, words=(0, 3), rows_are="image"), *pictures]
