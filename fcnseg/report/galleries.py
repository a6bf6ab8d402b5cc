"""Galleries of test images with the predictions of networks: side by side, as in the paper's Figures 9-11, or image by image.

PyTorch is imported when the first network is loaded: a report on runs without weights does not wait for it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcnseg.data.dataset import Classes
from fcnseg.data.settings import sides
from fcnseg.names import BEST
from fcnseg.report.blocks import Block, Gallery, Text
from fcnseg.report.collect import Entry, line
from fcnseg.report.experiments import Experiment, grouped
from fcnseg.report.study import TestedRun
from fcnseg.runs.folder import Run

if TYPE_CHECKING:
    from torch import Tensor

    from fcnseg.data.module import DataModule
    from fcnseg.inference import Segmenter

    Predicted = tuple[DataModule, Mapping[str, Tensor]]  # the data of a network, and its labels by the name of an image

MOST_NETWORKS = 4  # networks in memory: all of them may not fit
PICKED = 3  # test images that are shown of a data set
SEEN = 0.01  # the least share of an image at which a class counts as seen in it


class Galleries:
    """Galleries of test images with the predictions of runs; a run is read when it is first needed.

    Args:
        root: The folder in which the data set is now; None: the one that each run was trained from.
        trust: Whether the configs of runs may name any code.
        wanted: Whether galleries are wanted; if not, no network is loaded.
    """

    def __init__(self, root: str | None, *, trust: bool = False, wanted: bool = True) -> None:
        self.wanted, self._root, self._trust = wanted, root, trust
        self.data = cache(self._data)  # the images are mapped into memory, not read
        self.network = lru_cache(maxsize=MOST_NETWORKS)(self._load)
        self._gone: set[Path] = set()  # the runs that are left out

    def _data(self, path: Path, classes: Classes) -> "DataModule":
        """The test data of the run in a folder, which was tested on these classes.

        Raises:
            ValueError: The data set is missing, or has other classes; nothing is downloaded for a picture.
        """
        from fcnseg.runs import reopen

        data = reopen.data(Run(path).config, root=self._root, trust=self._trust)
        classes.check_same(data.classes, str(path))
        return data

    def _load(self, path: Path) -> "Segmenter":
        from fcnseg import inference

        return inference.load(path, trust=self._trust)

    @contextmanager
    def left_out(self, title: str, entry: Entry, blocks: list[Any]) -> Iterator[None]:
        """If the `with` block raises, leave the run out from now on and add a warning to `blocks`: its files may be damaged."""
        try:
            yield
        except Exception as error:
            self._gone.add(entry.path)
            blocks.append(Text(f"No predictions of {title}: {line(error)}", warning=True))

    def predicted(self, runs: Mapping[str, Entry], names: Sequence[str], *, with_errors: bool = False) -> list[Block]:
        """Test images with the predictions of runs, which are named by title; one warning for each run that is left out."""
        blocks: list[Block] = []
        networks: dict[str, Predicted] = {}
        for title, entry in runs.items():
            if self.wanted and entry.path not in self._gone:
                with self.left_out(title, entry, blocks):
                    network, data = self.network(entry.path), self.data(entry.path, entry.classes)
                    networks[title] = data, predict(network, data, names)
        return blocks + [gallery(name, networks, with_errors=with_errors) for name in names if networks]

    def of_images(self, names: Iterable[str], runs: Sequence[TestedRun]) -> list[Block]:
        """Test images one after the other, with the predictions of runs and their errors."""
        return self.predicted({run.title: run.entry for run in runs}, [*names], with_errors=True)


def side_by_side(finished: Sequence[Experiment], wanted: Sequence[str] | None, galleries: Galleries) -> list[Block]:
    """A gallery for every image shown of every data set; runs of one data set may differ in their split and size.

    Raises:
        ValueError: No run was tested on one of the wanted images.
    """
    if not galleries.wanted:
        return []
    lost = [each.title for each in finished if not (Run(each.first.path).checkpoints / BEST).is_file()]
    blocks: list[Block] = []
    if lost:
        blocks.append(Text(f"No predictions of {', '.join(lost)}: no checkpoints/{BEST} in the folder", warning=True))
    known: list[str] = []
    for group in grouped((each for each in finished if each.title not in lost), lambda each: each.test_data):
        runs = {each.title: each.first for each in group}
        if data := _opened(runs, galleries, blocks):
            # A split may leave some of the images out of the test set: only images that all networks were tested on are shown.
            first, *others = [each.names("test") for each in data]
            names = [name for name in first if all(name in those for those in others)]
            known += names
            blocks += galleries.predicted(runs, pick(data[0], names) if wanted is None else [n for n in wanted if n in names])
    # A name may be missing from some data sets, but must be in one of them.
    if known and (missing := [item for item in wanted or () if item not in known]):
        raise ValueError(f"images={missing}: wanted names of test images, such as {', '.join(known[:3])}")
    return blocks


def _opened(runs: Mapping[str, Entry], galleries: Galleries, blocks: list[Block]) -> list["DataModule"]:
    """The data of the runs of one data set; a warning is added to `blocks` if they have changed since, or are missing."""
    opened = []
    for title, entry in runs.items():
        with galleries.left_out(title, entry, blocks):
            opened.append(data := galleries.data(entry.path, entry.classes))
            if changed := data.changed_since(entry.result["data_fingerprint"]):
                blocks.append(Text(f"Predictions of {title}: {changed}.", warning=True))
    return opened


def pick(data: "DataModule", names: Sequence[str]) -> list[str]:
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


def _shares(mask: "Tensor", classes: Classes) -> dict[int, float]:
    """The share of the mask that each class seen in it covers, without background."""
    shares = mask.flatten().long().bincount(minlength=len(classes))[: len(classes)] / mask.numel()
    return {n: share for n, share in enumerate(shares.tolist()) if share >= SEEN and n != classes.background}


def pixels(data: "DataModule", name: str) -> tuple["Tensor", "Tensor"]:
    """The image (3, H, W) and the mask (H, W), uint8, of a test image, on the CPU; a run may have its pack on the GPU.

    Raises:
        ValueError: There is no such image.
    """
    pack = data.packs[data.stages["test"][0]]
    if name not in pack.names:
        raise ValueError(f"{name} is not among the {len(pack.names)} images of {data.root}: data.root=<where they are now>")
    at = pack.names.index(name)
    return pack.images[at].permute(2, 0, 1).cpu(), pack.masks[at].cpu()  # (H, W, 3) -> (3, H, W)


def predict(segmenter: "Segmenter", data: "DataModule", names: Sequence[str]) -> "dict[str, Tensor]":
    """The predicted labels (H, W) of test images by name, at the size that the network was trained for."""
    # (1, 3, H, W) -> (1, C, H, W) -> (H, W)
    return {name: segmenter.logits(pixels(data, name)[0][None]).argmax(1)[0].byte() for name in names}


def gallery(name: str, networks: "Mapping[str, Predicted]", *, with_errors: bool = False) -> Gallery:
    """A test image, its truth, and every network's prediction, at the largest size of these.

    Args:
        name: The name of an image that all networks were tested on.
        networks: The data of each network and the results of `predict`, by the title under which it is shown.
        with_errors: Whether the errors of every prediction are shown as well.
    """
    from torch.nn.functional import interpolate

    largest = max((data for data, _ in networks.values()), key=lambda data: prod(sides(data.size)))
    # Nearest: labels have no intermediate values.
    shown = {
        title: interpolate(masks[name][None, None], sides(largest.size), mode="nearest-exact")[0, 0]  # (H, W)
        for title, (_, masks) in networks.items()
    }
    return Gallery(name, *pixels(largest, name), shown, largest.classes, with_errors)
