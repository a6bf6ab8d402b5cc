"""Predict masks of test images with trained networks, for Figures 9-11."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fcnseg import build
from fcnseg.data import voc
from fcnseg.data.batch import normalize
from fcnseg.data.module import VOCDataModule
from fcnseg.report.compare import Experiment
from fcnseg.report.document import Gallery
from fcnseg.runs import rebuild
from fcnseg.task import SegmentationTask

PICKED = 3
SEEN = 0.01  # the share of an image from which on a class counts as seen in it


class Model(NamedTuple):
    """A trained network and the data that it was tested on, under the title of its experiment."""

    title: str
    task: SegmentationTask
    data: VOCDataModule


def load(experiment: Experiment, root: str | None) -> Model:
    """Load the best weights and the data of an experiment's first run.

    Args:
        experiment: The experiment, which is finished.
        root: The folder in which the data set is now; None: the one that the run was trained from.

    Raises:
        ValueError: there is no checkpoint, or no data set; nothing is downloaded for a picture.
    """
    cfg, task = rebuild.load(experiment.first.path)
    cfg.data.root = root or cfg.data.root
    # Without addresses, a missing data set is an error that names its folder, not a download of 2 GB.
    if "urls" in cfg.data.source:
        cfg.data.source.urls = []
    data = build.data(cfg)
    data.prepare_data()
    return Model(experiment.title, task, data)


@torch.inference_mode()
def predict(task: SegmentationTask, images: Tensor) -> Tensor:
    """Predict the labels (N, H, W) uint8 of images (N, 3, H, W) uint8."""
    logits: Tensor = task(normalize(images))
    return logits.argmax(dim=1).to(torch.uint8)


def galleries(models: Sequence[Model], names: Sequence[str]) -> list[Gallery]:
    """A gallery for each of the test images `names`.

    Every network predicts at the size that it was trained for; all masks are shown at the largest of these sizes.
    """
    largest = max((model.data for model in models), key=lambda data: data.size)
    images, truths = pixels(largest, names)
    views = {}
    for model in models:
        # Nearest: labels have no values in between.
        labels = predict(model.task, pixels(model.data, names)[0])
        views[model.title] = F.interpolate(labels[:, None], largest.size, mode="nearest-exact")[:, 0]
    return [
        Gallery(name, images[at], truths[at], {title: labels[at] for title, labels in views.items()})
        for at, name in enumerate(names)
    ]


def pixels(data: VOCDataModule, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The images (N, 3, S, S) and the masks (N, S, S), uint8, of the test images `names`."""
    pack = data.packs[data.parts["test"][0]]
    at = torch.tensor([pack.ids.index(name) for name in names], dtype=torch.int64)
    return pack.images[at].permute(0, 3, 1, 2), pack.masks[at]


def test_names(models: Sequence[Model]) -> list[str]:
    """The names of the test images that all models share, in the order of the first one's image set."""
    first, *others = [model.data.names("test", model.data.parts["test"][1]) for model in models]
    return [name for name in first if all(name in names for names in others)]


def pick(data: VOCDataModule, names: Sequence[str], count: int = PICKED) -> list[str]:
    """Choose the test images that show most: classes not shown yet first, then much of the image that is no background."""
    shares = {name: _shares(mask) for name, mask in zip(names, pixels(data, names)[1], strict=True)}
    picked: list[str] = []
    shown: set[int] = set()
    while len(picked) < min(count, len(names)):
        worth = {
            name: (len(seen.keys() - shown), sum(seen.values())) for name, seen in shares.items() if name not in picked
        }
        picked.append(max(worth, key=worth.__getitem__))
        shown |= shares[picked[-1]].keys()
    return picked


def _shares(mask: Tensor) -> dict[int, float]:
    """The share of the mask that each class seen in it has, background left out."""
    counts = torch.bincount(mask.flatten().long(), minlength=voc.NUM_CLASSES)[1 : voc.NUM_CLASSES]
    shares = counts / mask.numel()
    return {label: share for label, share in enumerate(shares.tolist(), start=1) if share >= SEEN}


def chosen(wanted: Sequence[object], names: Sequence[str]) -> list[str]:
    """Those of `names` that the user wants.

    Underscores do not count, since Hydra reads 2007_000033 as a number.
    """
    return [name for item in wanted for name in names if name.replace("_", "") == str(item).replace("_", "")]
