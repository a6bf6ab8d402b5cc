"""Samples of a test set: the choice of those shown, their pixels, and the predictions of networks."""

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fcnseg.data import sides
from fcnseg.data.dataset import Classes
from fcnseg.data.module import VOCDataModule
from fcnseg.inference import Segmenter
from fcnseg.report.document import Gallery
from fcnseg.runs import reopen
from fcnseg.runs.folder import Run
from fcnseg.runs.read_files import classes_of

PICKED = 3  # test images that are shown of a data set
SEEN = 0.01  # the least share of an image at which a class counts as seen in it


def load_data(path: Path, root: str | None, *, trust: bool = False) -> VOCDataModule:
    """Open the test data of a run.

    Args:
        path: The folder of the run that was tested.
        root: The folder in which the data set is now; None: the one that the run was trained from.
        trust: Whether the run's config may name any code.

    Raises:
        ValueError: There is no data set, or it has other classes; nothing is downloaded for a picture.
    """
    run = Run(path)
    data = reopen.data(run.config, root=root, trust=trust)
    classes_of(run.result or {}).check_same(data.classes, str(path))
    return data


def predict(segmenter: Segmenter, data: VOCDataModule, names: Sequence[str]) -> dict[str, Tensor]:
    """The predicted labels (H, W) of test images by name, at the size that the network was trained for."""
    return {name: segmenter.logits(pixels(data, name)[0][None]).argmax(1)[0].byte() for name in names}


def gallery(
    name: str,
    data: Mapping[str, VOCDataModule],
    predictions: Mapping[str, Mapping[str, Tensor]],
    *,
    with_errors: bool = False,
) -> Gallery:
    """The test image `name`, its truth, and every network's prediction, at the largest size of these.

    Args:
        name: The name of an image that all networks were tested on.
        data: The data of each network, by the title under which it is shown.
        predictions: The results of `predict`, by the same titles.
        with_errors: Whether the errors of every prediction are shown as well.
    """
    largest = max((data[title] for title in predictions), key=lambda data: prod(sides(data.size)))
    # Nearest: labels have no intermediate values.
    shown = {
        title: F.interpolate(masks[name][None, None], sides(largest.size), mode="nearest-exact")[0, 0]  # (H, W)
        for title, masks in predictions.items()
    }
    return Gallery(name, *pixels(largest, name), shown, largest.classes, with_errors)


def pixels(data: VOCDataModule, name: str) -> tuple[Tensor, Tensor]:
    """The image (3, H, W) and the mask (H, W), uint8, of a test image, on the CPU; a run may have its pack on the GPU.

    Raises:
        ValueError: There is no such image.
    """
    pack = data.packs[data.stages["test"][0]]
    if name not in pack.names:
        raise ValueError(f"{name} is not among the {len(pack.names)} images of {data.root}: data.root=<where they are now>")
    at = pack.names.index(name)
    return pack.images[at].permute(2, 0, 1).cpu(), pack.masks[at].cpu()  # (H, W, 3) -> (3, H, W)


def shared_test_names(data: Sequence[VOCDataModule]) -> list[str]:
    """The names of the test images that all of the data share, in the order of the first one's image set."""
    first, *others = [each.test_names() for each in data]
    return [name for name in first if all(name in names for names in others)]


def pick(data: VOCDataModule, names: Sequence[str]) -> list[str]:
    """Choose the test images that show most: first, many classes not shown yet; then, little background."""
    shares = {name: _shares(pixels(data, name)[1], data.classes) for name in names}
    picked: list[str] = []
    shown: set[int] = set()

    def worth(name: str) -> tuple[int, float]:
        """The number of classes that an image would add, and the share of the image that its classes cover."""
        return len(shares[name].keys() - shown), sum(shares[name].values())

    while shares and len(picked) < PICKED:
        picked.append(max(shares, key=worth))
        shown |= shares.pop(picked[-1]).keys()
    return picked


def _shares(mask: Tensor, classes: Classes) -> dict[int, float]:
    """The share of the mask that each class seen in it covers, without background."""
    shares = torch.bincount(mask.flatten().long(), minlength=len(classes))[: len(classes)] / mask.numel()
    seen = {label: share for label, share in enumerate(shares.tolist()) if share >= SEEN}
    return {label: share for label, share in seen.items() if label != classes.background}


def chosen(wanted: Sequence[object], names: Sequence[str]) -> list[str]:
    """The `names` that the user wants.

    Underscores do not count, since Hydra reads 2007_000033 as a number.
    """
    return [name for item in wanted for name in names if name.replace("_", "") == str(item).replace("_", "")]
