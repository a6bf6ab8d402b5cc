"""The findings of the runs on one test set, image by image."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fcnseg.report.collect import Entry
from fcnseg.report.experiments import Experiment
from fcnseg.report.statistics import iou, nanmean
from fcnseg.results.per_image import Numbers, PerImage

MOST_RUNS = 12  # the runs of a table with a column for each


@dataclass(frozen=True)
class TestedRun:
    """A finished run and the findings of its test in every image.

    Attributes:
        title: A title that no other run on the same test set has.
        entry: The content of the run's folder.
        per_image: The content of its images.npz, for N images and C classes.
    """

    title: str
    entry: Entry
    per_image: PerImage

    @cached_property
    def counts(self) -> Numbers:
        """The labelled pixels of every class, (3, N, C): in truth and prediction, in the truth, in the prediction."""
        images, classes = self.per_image.boundary.shape[:2]
        cells = self.per_image.cells.astype(np.int64)  # (cells, 4)
        image, truth, predicted, pixels = cells[cells[:, 1] < classes].T  # void left out

        def sums(label: Numbers, weights: Numbers) -> Numbers:
            pixels_by_cell = np.bincount(image * classes + label, weights, minlength=images * classes)  # (N * C,)
            return pixels_by_cell.reshape(images, classes)

        return np.stack([sums(truth, pixels * (truth == predicted)), sums(truth, pixels), sums(predicted, pixels)])

    @cached_property
    def iou(self) -> Numbers:
        """The mean IoU, (N,), over the classes in the truth or prediction of each image; NaN if nothing is labelled."""
        return nanmean(iou(self.counts))

    @cached_property
    def wrong(self) -> Numbers:
        """The cells of wrong pixels, (M, 4), most pixels first: image, truth, prediction, pixels."""
        cells = self.per_image.cells.astype(np.int64)
        cells = cells[(cells[:, 1] != cells[:, 2]) & (cells[:, 1] < self.per_image.boundary.shape[1])]
        return np.asarray(cells[np.argsort(-cells[:, 3], kind="stable")])

    def confused(self, image: int) -> str:
        """The largest confusion in an image, in words; empty if nothing is wrong."""
        rows = self.wrong[self.wrong[:, 0] == image]
        if not len(rows):
            return ""
        _, truth, predicted, pixels = rows[0]
        names, share = self.entry.classes.names, pixels / max(1, self.counts[1, image].sum())
        return f"{names[truth]} taken for {names[predicted]}, {share:.0%} of its labelled pixels"


@dataclass(frozen=True)
class Study:
    """The runs on one test set that have an images.npz, the best first.

    Attributes:
        test_set: The test set in words.
        runs: At least one run; all were tested on the same images.
    """

    test_set: str
    runs: Sequence[TestedRun]

    @property
    def best(self) -> TestedRun:
        """The run with the highest mIoU."""
        return self.runs[0]

    @cached_property
    def names(self) -> list[str]:
        """The names of the N images."""
        return [str(name) for name in self.best.per_image.names]

    @cached_property
    def iou(self) -> Numbers:
        """The IoU of every run and image, (runs, N)."""
        return np.stack([run.iou for run in self.runs])

    @cached_property
    def mean(self) -> Numbers:
        """The mean of every image's IoU over the runs, (N,). All runs have NaN for the same images."""
        return np.asarray(self.iou.mean(0))

    @cached_property
    def ranked(self) -> list[int]:
        """The numbers of the images that have an IoU, worst first."""
        return [int(n) for n in np.argsort(self.mean, kind="stable") if not np.isnan(self.mean[n])]


def studies(sets: Mapping[str, Iterable[Experiment]]) -> list[Study]:
    """A study for every test set, of the runs that have an images.npz; runs of earlier versions have none."""
    made = []
    for test_set, in_set in sets.items():
        runs = [
            TestedRun(_title(experiment, entry), entry, entry.per_image)
            for experiment in in_set
            for entry in experiment.entries
            if entry.per_image is not None
        ]
        runs = sorted(runs, key=lambda run: -(run.entry.result["metrics"]["test/miou"] or 0))
        # The files may contradict each other if somebody has changed one of them.
        runs = [run for run in runs if np.array_equal(run.per_image.names, runs[0].per_image.names)]
        if runs and len(runs[0].per_image.names):
            made.append(Study(test_set, runs))
    return made


def _title(experiment: Experiment, entry: Entry) -> str:
    """The experiment's title, and what tells the run from the others of it: its seed, or its name if two have that seed."""
    seeds = [each.config.get("seed") for each in experiment.entries]
    seed = entry.config.get("seed")
    which = f"seed {seed}" if seeds.count(seed) == 1 else entry.name
    return experiment.title + (f", {which}" if len(seeds) > 1 else "")
