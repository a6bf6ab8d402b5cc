"""The confidence of networks, compared with how often they are right."""

from functools import partial

import numpy as np

from fcnseg.report import charts
from fcnseg.report.arrays import Numbers
from fcnseg.report.document import Block, Chart, Table, Text
from fcnseg.report.study import Measured, Study

MOST_RUNS = 6  # runs in one diagram: the lines of more would look alike


def reliability(study: Study) -> list[Block]:
    """The calibration error of every run, and a reliability diagram of the best ones with its numbers."""
    runs = [run for run in study.runs if run.images.pixels.sum()]
    if not runs:
        return []
    sums = [_sums(run) for run in runs]
    rows = []
    for run, (pixels, confidence, right) in zip(runs, sums, strict=True):
        total = pixels.sum()
        error = np.abs(confidence - right).sum() / total
        values = (error, confidence.sum() / total, right.sum() / total)
        rows.append([run.title, *(f"{value:.4f}" for value in values)])
    errors = Table(("run", "expected calibration error", "mean confidence", "share of pixels right"), rows)
    about = (
        "Confidence is the highest probability of a pixel, over all labelled pixels. The expected calibration error is the "
        "mean distance between confidence and the share of right pixels, over bins of confidence: 0 for a network that is "
        f"right as often as it is sure. {study.test_set}."
    )
    shown = {run.title: of_run for run, of_run in zip(runs[:MOST_RUNS], sums, strict=False)}
    caption = (
        f"Share of right pixels by confidence, {len(shown)} of {len(runs)} runs: below the dashed line a network is surer "
        f"than it is right. A dot grows with the share of the pixels. {study.test_set}."
    )
    return [
        Text(about),
        errors,
        Chart("reliability", caption, partial(charts.reliability, shown), numbers=_bins(shown)),
    ]


def _sums(run: Measured) -> tuple[Numbers, Numbers, Numbers]:
    """The pixels, the sums of their confidence, and the right pixels in every bin, (B,) each."""
    pixels, confidence, right = (
        each.astype(np.float64).sum(0) for each in (run.images.pixels, run.images.confidence, run.images.right)
    )
    return pixels, confidence, right


def _bins(shown: dict[str, tuple[Numbers, Numbers, Numbers]]) -> Table:
    """The numbers of the diagram: a row for every bin and run that has pixels in it."""
    rows = []
    for title, (pixels, confidence, right) in shown.items():
        for number in np.flatnonzero(pixels):
            bounds = f"{number / len(pixels):.2f} to {(number + 1) / len(pixels):.2f}"
            values = (each[number] / pixels[number] for each in (confidence, right))
            rows.append([title, bounds, f"{pixels[number] / pixels.sum():.2%}", *(f"{value:.4f}" for value in values)])
    return Table(("run", "confidence", "share of pixels", "mean confidence", "share right"), rows, words=(0, 1))
