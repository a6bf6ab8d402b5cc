"""The comparison of an exported file with its network, on photographs at several sizes."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from timeit import repeat
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from rich.table import Table
from torch import Tensor

from fcnseg.cli.messages import console
from fcnseg.data.decode import read_image, squashed
from fcnseg.data.shapes import shapes
from fcnseg.export.formats import Graph, Opened
from fcnseg.models import Wilson
from fcnseg.runs import reopen
from fcnseg.runs.folder import Run

COMPARED = 4  # the number of photographs that are compared
ODD = (97, 131)  # a size that no stride divides
TOLERANCE = 1e-4  # a share of the largest logit: rounding changes a hundredth of it, another normalisation ten times it
# The share of the pixels that may differ by more in Wilson's model: where two pixels of a pool are equal but for rounding,
# either may be the maximum, and unpooling puts it into another place.
JUMPS = 1e-2
ENOUGH = 0.3  # the seconds of calls of which the fastest gives the speed


class DifferentError(Exception):
    """An exported file gives other results than its network."""


class Row(NamedTuple):
    """The result of the comparison at one size.

    Attributes:
        height: The height of the images in pixels.
        width: The width of the images in pixels.
        images: The number of images.
        difference: The largest difference of the logits if the graph gives them, else of the scores.
        tolerance: The difference that is allowed.
        same: The share of the pixels that have the same label.
        ties: The share of the pixels whose two best logits differ by less than twice the tolerance.
        beyond: The share of the pixels that differ by more than the tolerance, or have another label and are no ties.
        torch_speed: Images a second in PyTorch.
        file_speed: Images a second with the file.
    """

    height: int
    width: int
    images: int
    difference: float
    tolerance: float
    same: float
    ties: float
    beyond: float
    torch_speed: float
    file_speed: float


def photographs(run: Run, *, root: str | None, trust: bool) -> tuple[list[Image.Image], str]:
    """Some test images of a run, or generated images without its data set; and where they are from, in words.

    Args:
        run: The run that was exported.
        root: The folder in which the data set is now; None: the folder that the run was trained from.
        trust: Whether the config may name any code.

    Raises:
        ValueError: There is no data set in `root`.
    """
    with TemporaryDirectory() as folder:
        try:
            data = reopen.data(run.config, root=root, trust=trust)
            data_set, names, source = data.data_set, tuple(data.names("test")), f"test images of {data.root}"
        except (ValueError, OSError) as error:
            if root is not None:  # the user has named this folder, and wants these images
                raise
            data_set = shapes(Path(folder), train=1, val=COMPARED, seed=0)
            names, source = data_set.names("val"), f"generated images, since the run's data set cannot be read ({error})"
        return [read_image(data_set.image(name)) for name in names[:COMPARED]], source


def compare(graph: Graph, reopened: Callable[[], Opened], images: Sequence[Image.Image], size: tuple[int, int]) -> list[Row]:
    """Compare a file with its graph at three sizes: the training size, an odd one, and one twice as large as the first.

    Args:
        graph: The graph that was exported.
        reopened: Opens the file: see `formats.Opened`.
        images: The value of `photographs`.
        size: The height and the width that the network was trained at.

    Raises:
        DifferentError: The file cannot be opened.
    """
    try:
        opened = reopened()
    except Exception as error:  # any that a library raises for a graph that it cannot run
        raise DifferentError(f"it cannot be opened again ({error})") from error
    # The larger the images, the fewer of them: each comparison takes about the same time.
    sizes = ((COMPARED, size), (2, ODD), (1, (2 * size[0], 2 * size[1])))
    return [compared_at(graph, opened, images[:number], each) for number, each in sizes]


@torch.inference_mode()
def compared_at(graph: Graph, opened: Opened, images: Sequence[Image.Image], size: tuple[int, int]) -> Row:
    """Measure how much an opened file differs from its graph on images that are resized to `size`, height and width."""
    resized = torch.from_numpy(np.stack([squashed(image, size) for image in images]))  # (N, H, W, 3)
    batch = resized.permute(0, 3, 1, 2).contiguous()  # (N, 3, H, W)
    _, torch_speed = _timed(graph, batch)
    found, file_speed = _timed(opened, batch)
    logits = graph.logits(batch)
    wanted = logits if graph.raw else logits.softmax(1).amax(1)
    difference, labels = (found[-1] - wanted).abs(), found[0]
    if graph.raw:  # of (N, C, H, W) both, that becomes (N, H, W)
        difference, labels = difference.amax(1), labels.argmax(1)
    tolerance = TOLERANCE * logits.abs().max().item()
    best, second = logits.topk(2, dim=1).values.unbind(1)  # (N, H, W) both
    ties = best - second < 2 * tolerance  # either may be off by it
    same = labels == logits.argmax(1)
    beyond = ~(difference <= tolerance) | ~same & ~ties  # not `>`, by which NaN would be within the tolerance
    most, shares = difference.max().item(), (_share(same), _share(ties), _share(beyond))
    return Row(*size, len(batch), most, tolerance, *shares, torch_speed, file_speed)


def _share(pixels: Tensor) -> float:
    return pixels.float().mean().item()


def _timed(run: Opened, batch: Tensor) -> tuple[tuple[Tensor, ...], float]:
    """The result of `run`, and the images a second of its fastest call; the first call, which prepares much, is left out."""
    found, seconds = run(batch), list[float]()
    while not seconds or sum(seconds) < ENOUGH:
        seconds += repeat(partial(run, batch), number=1, repeat=1)
    return found, len(batch) / min(seconds)


def check(rows: Sequence[Row], graph: Graph) -> None:
    """Refuse a file that differs from its graph.

    Raises:
        DifferentError: Logits or scores differ by more than the tolerance, or labels that are no ties differ.
    """
    most = JUMPS if isinstance(graph.net, Wilson) else 0.0
    for row in rows:
        if row.beyond > most:
            raise DifferentError(
                f"at {row.height} x {row.width} pixels, a share of {row.beyond:.2g} has another label or differs by more than"
                f" {row.tolerance:.2g} (the largest difference is {row.difference:.2g}); wanted a share of at most {most:.2g}"
            )


def show(rows: Sequence[Row], source: str, *, raw: bool) -> None:
    """Print the results of the comparison, a row a size, on images from `source`; of logits if `raw`, else of scores."""
    compared = "logits" if raw else "scores"
    columns = ("size", "images", f"difference of {compared}", "allowed", "same label", "ties", "beyond", "PyTorch", "the file")
    title = f"The file beside PyTorch, on {source}"
    table = Table(*columns, title=title, title_justify="left", caption="speeds in images/s", caption_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        largest = (f"{value:.1e}" for value in (row.difference, row.tolerance))
        shares = (f"{share:.6f}" for share in (row.same, row.ties, row.beyond))
        speeds = (f"{speed:.3g}" for speed in (row.torch_speed, row.file_speed))
        table.add_row(f"{row.height} x {row.width}", str(row.images), *largest, *shares, *speeds)
    console().print(table)
