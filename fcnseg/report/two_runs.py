"""A comparison of two runs: where one is better, and whether the difference can be chance."""

from collections.abc import Sequence

import numpy as np

from fcnseg.report.blocks import Block, Table, Text
from fcnseg.report.galleries import Galleries
from fcnseg.report.statistics import DRAWS, iou, iou_differences, with_mean
from fcnseg.report.study import Study, TestedRun
from fcnseg.results.per_image import Numbers
from fcnseg.results.summary import as_text
from fcnseg.texts import counted

LISTED, PICTURED = 10, 2  # images gained, and images lost: in a table, as pictures


def chosen(studies: Sequence[Study], names: Sequence[str]) -> tuple[Study, TestedRun, TestedRun]:
    """The two runs of these names; the second is compared with the first.

    Raises:
        ValueError: There are not two names, no such run, or the runs were not tested on the same images.
    """
    if len(names) != 2 or names[0] == names[1]:
        raise ValueError(f"compare={','.join(names)}: wanted the names of two different runs, as in compare=[a,b]")
    for study in studies:
        by_name = {run.entry.name: run for run in study.runs}
        if all(name in by_name for name in names):
            return study, by_name[names[0]], by_name[names[1]]
    sets = {run.entry.name: study.test_set for study in studies for run in study.runs}
    if all(name in sets for name in names):
        found = f"their test sets differ: {' and '.join(f'{name} on {sets[name]}' for name in names)}"
        remedy = "Train one of them with the data settings of the other"
    else:
        found = f"there are {', '.join(sets) or 'none'}"
        remedy = "python -m fcnseg.evaluate run=<folder> writes an images.npz"
    wanted = "two finished runs with an images.npz, tested on the same images"
    raise ValueError(f"compare=[{','.join(names)}]: wanted {wanted}; {found}. {remedy}")


def compared(study: Study, one: TestedRun, other: TestedRun, galleries: Galleries) -> list[Block]:
    """Differences per class with their intervals, images gained and lost, and settings that differ."""
    titles = ["mean of classes", *one.entry.classes.names]
    pooled = (with_mean(iou(run.counts.sum(1))) for run in (one, other))  # (C + 1,) of all images together
    rows = [
        [title, as_text(first), as_text(second), *map(_signed, row), _verdict(row)]
        for title, first, second, row in zip(titles, *pooled, iou_differences(one.counts, other.counts), strict=True)
    ]
    columns = ("class", "first", "second", "difference", "from", "to", "beyond chance")
    about = (
        f"The first is {one.title}, the second {other.title}. The interval holds 95 % of {DRAWS} draws of the test images with "
        "replacement: if it does not hold 0, other test images of this kind would be expected to show a difference in the same "
        f"direction. It does not know what another seed would change. {study.test_set}."
    )
    table = Table(columns, rows, words=(0, 6))
    return [Text(about), table, *_settings(one, other), *_images(study, one, other, galleries)]


def _signed(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:+.4f}"


def _verdict(row: Numbers) -> str:
    return "" if np.isnan(row).any() or row[1] <= 0 <= row[2] else "better" if row[0] > 0 else "worse"


def _settings(one: TestedRun, other: TestedRun) -> list[Block]:
    first, second = one.entry.config, other.entry.config
    keys = [key for key in dict.fromkeys([*first, *second]) if first.get(key) != second.get(key)]
    rows = [[key, str(first.get(key, "-")), str(second.get(key, "-"))] for key in keys if key != "name"]
    if not rows:
        return [Text("Their settings are the same.")]
    return [Text("The settings that differ:"), Table(("setting", "first", "second"), rows, words=(0, 1, 2))]


def _images(study: Study, one: TestedRun, other: TestedRun, galleries: Galleries) -> list[Block]:
    """The images whose IoU rose most, and those whose IoU fell most."""
    gain = other.iou - one.iou
    order = np.argsort(-gain, kind="stable").tolist()
    gained, lost = [n for n in order if gain[n] > 0], [n for n in reversed(order) if gain[n] < 0]  # NaN is neither
    of_all = counted(len(gain), "image")
    blocks: list[Block] = [Text(f"The second is better in {len(gained)} of {of_all}, and worse in {len(lost)}.")]
    for title, numbers in (("gained", gained), ("lost", lost)):
        rows = [[study.names[n], *(f"{run.iou[n]:.3f}" for run in (one, other)), f"{gain[n]:+.3f}"] for n in numbers[:LISTED]]
        if rows:
            blocks.append(Table((f"most {title}", "first", "second", "difference"), rows))
            blocks += galleries.of_images([study.names[n] for n in numbers[:PICTURED]], [one, other])
    return blocks
