"""Show what trained networks predict for test images, as Figures 9-11 do."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcnseg.data import voc
from fcnseg.data.batch import normalize
from fcnseg.data.module import VOCDataModule
from fcnseg.report.document import Gallery
from fcnseg.runs import rebuild

PICKED = 3
SEEN = 0.01  # the share of an image from which on a class counts as seen in it
Network = tuple[nn.Module, VOCDataModule]  # a trained network with the data that it was tested on


def load(path: Path, root: str | None, *, trust: bool = False) -> Network:
    """Load the best weights and the data of a finished run.

    Args:
        path: The run's folder, which holds its config and its best checkpoint.
        root: The folder in which the data set is now; None: the one that the run was trained from.
        trust: Whether the run's config may name any code.

    Raises:
        ValueError: there is no checkpoint, or no data set; nothing is downloaded for a picture.
    """
    cfg, net = rebuild.load(path, trust=trust)
    return net, rebuild.data(cfg, root=root, trust=trust)


@torch.inference_mode()
def gallery(networks: Mapping[str, Network], name: str) -> Gallery:
    """The test image `name`, its truth, and what every network predicts.

    Every network predicts at the size that it was trained for; all masks are shown at the largest of these sizes.

    Args:
        networks: The networks by the titles that they are shown under.
        name: The name of an image that all of them were tested on.
    """
    largest = max((data for _, data in networks.values()), key=lambda data: data.size)
    predictions = {}
    for title, (net, data) in networks.items():
        logits = net(normalize(_pixels(data, name)[0][None]))  # (1, C, S, S)
        labels = logits.argmax(dim=1, keepdim=True).to(torch.uint8)
        # Nearest: labels have no values in between.
        predictions[title] = F.interpolate(labels, largest.size, mode="nearest-exact")[0, 0]
    return Gallery(name, *_pixels(largest, name), predictions)


def _pixels(data: VOCDataModule, name: str) -> tuple[Tensor, Tensor]:
    """The image (3, S, S) and the mask (S, S), uint8, of a test image."""
    pack = data.packs[data.parts["test"][0]]
    at = pack.ids.index(name)
    return pack.images[at].permute(2, 0, 1), pack.masks[at]


def test_names(networks: Mapping[str, Network]) -> list[str]:
    """The names of the test images that all networks share, in the order of the first one's image set."""
    first, *others = [data.names("test", data.parts["test"][1]) for _, data in networks.values()]
    return [name for name in first if all(name in names for names in others)]


def pick(data: VOCDataModule, names: Sequence[str]) -> list[str]:
    """Choose the test images that show most: classes not shown yet first, then much of the image that is no background."""
    shares = {name: _shares(_pixels(data, name)[1]) for name in names}
    picked: list[str] = []
    shown: set[int] = set()

    def worth(name: str) -> tuple[int, float]:
        """How many classes an image would add, then how much of it they cover."""
        return len(shares[name].keys() - shown), sum(shares[name].values())

    while shares and len(picked) < PICKED:
        picked.append(max(shares, key=worth))
        shown |= shares.pop(picked[-1]).keys()
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
