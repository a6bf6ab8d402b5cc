"""What the models make of some test images: Figures 9-11."""

from collections.abc import Callable, Sequence
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
SEEN = 0.01  # share of an image that a class must have to be in it


class Model(NamedTuple):
    """A trained network and the data it was tested on."""

    title: str
    task: SegmentationTask
    data: VOCDataModule


def load(experiment: Experiment, root: str | None) -> Model:
    """The first run's best weights, and its data, from `root` if that is where the data set is now.

    Raises:
        ValueError: no checkpoint, or no data set; nothing is downloaded for a picture.
    """
    cfg, task = rebuild.load(experiment.first.path)
    if root is not None:
        cfg.data.root = root
    if "urls" in cfg.data.source:
        cfg.data.source.urls = []
    data = build.data(cfg)
    data.prepare_data()
    return Model(experiment.title, task, data)


@torch.inference_mode()
def predict(task: SegmentationTask, images: Tensor) -> Tensor:
    """Images (N, 3, H, W) uint8 to labels (N, H, W) uint8."""
    logits: Tensor = task(normalize(images))
    return logits.argmax(dim=1).to(torch.uint8)


def galleries(models: Sequence[Model], names: Sequence[str]) -> list[Gallery]:
    """What every model makes of the test images `names`, predicted at the size it was trained for, shown at the largest."""
    largest = max((model.data for model in models), key=lambda data: data.size)
    images, truths = pixels(largest, names)
    views = {}
    for model in models:
        labels = predict(model.task, pixels(model.data, names)[0])
        views[model.title] = F.interpolate(labels[:, None], largest.size, mode="nearest-exact")[:, 0]
    return [
        Gallery(name, images[at], truths[at], {title: labels[at] for title, labels in views.items()})
        for at, name in enumerate(names)
    ]


def pixels(data: VOCDataModule, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Images (n, 3, S, S) and masks (n, S, S), uint8, of test images by name."""
    pack = data.packs[data.parts["test"][0]]
    at = torch.tensor([pack.ids.index(name) for name in names], dtype=torch.int64)
    return pack.images[at].permute(0, 3, 1, 2), pack.masks[at]


def test_names(models: Sequence[Model]) -> list[str]:
    """The test images that all models share, in the order of their image set."""
    named = [model.data.names("test", model.data.parts["test"][1]) for model in models]
    return [name for name in named[0] if all(name in others for others in named[1:])]


def pick(data: VOCDataModule, names: Sequence[str], count: int = PICKED) -> list[str]:
    """Those of `names` that show most: classes not shown yet, then a large part of the image that is no background."""
    _, masks = pixels(data, names)
    shares = {name: _shares(mask) for name, mask in zip(names, masks, strict=True)}
    picked: list[str] = []
    shown: set[int] = set()
    for _ in range(min(count, len(names))):
        best = max((name for name in names if name not in picked), key=_shows_most(shares, shown))
        picked.append(best)
        shown |= shares[best].keys()
    return picked


def _shows_most(shares: dict[str, dict[int, float]], shown: set[int]) -> "Callable[[str], tuple[int, float]]":
    return lambda name: (len(shares[name].keys() - shown), sum(shares[name].values()))


def _shares(mask: Tensor) -> dict[int, float]:
    """Classes in a mask, but for background, to their share of it."""
    counts = torch.bincount(mask.flatten().long(), minlength=voc.NUM_CLASSES)[1 : voc.NUM_CLASSES]
    shares = counts / mask.numel()
    return {label: share for label, share in enumerate(shares.tolist(), start=1) if share >= SEEN}


def chosen(wanted: Sequence[object], names: Sequence[str]) -> list[str]:
    """Those of `names` that the user wants. Hydra reads 2007_000033 as a number, so that underscores do not count."""
    return [name for item in wanted for name in names if name.replace("_", "") == str(item).replace("_", "")]
