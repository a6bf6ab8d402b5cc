"""A trained network as a function from photographs to masks: `load("runs/<name>")` gives a `Segmenter`."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path
from typing import NamedTuple, TypeVar, overload

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fcnseg.data.batch import normalize
from fcnseg.data.dataset import Classes
from fcnseg.data.decode import squashed
from fcnseg.data.settings import MIN_SIZE, Size, check_size, sides
from fcnseg.errors import check_whole_number
from fcnseg.inference.prediction import Photograph, Prediction, photograph_of
from fcnseg.inference.tiles import Tile, tiles
from fcnseg.machine.limits import cores
from fcnseg.machine.precision import bf16_wins
from fcnseg.models import enlarge
from fcnseg.models.layers import memory_format
from fcnseg.models.tta import averaged
from fcnseg.runs import stored_network
from fcnseg.runs.folder import Run

T = TypeVar("T")
U = TypeVar("U")


class _Window(NamedTuple):
    """A part of a photograph that the network sees at once.

    Attributes:
        prediction: The prediction for the photograph, or the error that says why it cannot be read.
        pixels: (h, w, 3) uint8, a tile of the photograph, or all of it, squashed to the network's size; (0,) with an error.
        tile: The place of the window in the photograph; None with an error.
        is_last: Whether the prediction is complete with this window.
    """

    prediction: Prediction | ValueError
    pixels: Tensor
    tile: Tile | None
    is_last: bool


class Segmenter:
    """A trained network as a function from photographs to masks; `load` makes it from a run.

    A photograph is squashed to the size that the network was trained at, and the logits are enlarged to the photograph's own
    size before the arg max: this suits networks that were trained on whole images. With `tile`, the network sees overlapping
    tiles at the photograph's own resolution: this suits networks that were trained on crops, and large photographs.

    Args:
        net: A network in evaluation mode: normalised (N, 3, H, W) images to (N, C, H, W) logits.
        classes: The classes that the C channels of the logits stand for.
        size: The size that photographs are squashed to: the side in pixels of a square, or [height, width].
        tta: none, flip or multiscale: see `models.tta`.
        tile: The side of a tile in pixels; None to squash.
        overlap: The pixels that neighbouring tiles share, of which each keeps the half next to it; None: a quarter of a tile.
        batch_size: The number of photographs, or tiles, that the network is given at once.
        bf16: Whether the network multiplies in bfloat16 on devices where that is faster.

    Raises:
        ValueError: A setting is out of its range.
    """

    def __init__(
        self,
        net: nn.Module,
        classes: Classes,
        size: Size,
        *,
        tta: str = "none",
        tile: int | None = None,
        overlap: int | None = None,
        batch_size: int = 8,
        bf16: bool = False,
    ) -> None:
        check_whole_number("batch_size", batch_size, 1)
        self.classes, self.size, self.tta = classes, sides(size), tta
        self.tile, self.overlap = tile, _overlap(tile, overlap)
        self.batch_size, self.bf16, self.device = batch_size, bf16, torch.device("cpu")
        self.memory_format = memory_format(net)
        self.net = averaged(net, tta).to(memory_format=self.memory_format)

    def to(self, device: str | torch.device | None) -> "Segmenter":
        """This object, which computes on a device from now on; None: on the GPU if there is one.

        Raises:
            ValueError: There is no such device.
        """
        try:
            self.device = torch.device(device or torch.accelerator.current_accelerator(check_available=True) or "cpu")
            self.net.to(self.device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"device={device} cannot be used ({str(error).splitlines()[0]}): wanted cpu, cuda, cuda:1, ... or null"
            ) from error
        return self

    @overload
    def __call__(self, images: Photograph, *, scores: bool = True) -> Prediction: ...
    @overload
    def __call__(self, images: list[Photograph], *, scores: bool = True) -> list[Prediction]: ...

    def __call__(self, images: Photograph | list[Photograph], *, scores: bool = True) -> Prediction | list[Prediction]:
        """The prediction for a photograph, or for each of a list of photographs, of any sizes.

        Args:
            images: A path, a Pillow image, an array (H, W, 3) uint8 or a tensor (3, H, W) uint8; or a list of such.
            scores: Whether the predictions have scores, which take longer than the labels.

        Raises:
            ValueError: A file is missing or broken, or an array has another shape or type.
        """
        if not isinstance(images, list):
            return self([images], scores=scores)[0]
        found = []
        for prediction in self.stream(images, scores=scores):
            if isinstance(prediction, ValueError):
                raise prediction
            found.append(prediction)
        return found

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 RGB to (N, C, H, W) float32 logits on the CPU."""
        height, width = images.shape[-2:]
        # With zeros after the normalisation, as networks pad to their stride: that is the mean colour.
        batch = F.pad(normalize(images.to(self.device)), (0, max(MIN_SIZE - width, 0), 0, max(MIN_SIZE - height, 0)))
        batch = batch.contiguous(memory_format=self.memory_format)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16 and bf16_wins(self.device.type)):
            logits: Tensor = self.net(batch)
        return logits[..., :height, :width].float().cpu()

    def stream(self, images: Iterable[Photograph], *, scores: bool = False) -> Iterator[Prediction | ValueError]:
        """The predictions for one photograph after the other, in their order and in bounded memory.

        Threads read the files, and enlarge the logits, while the network works.

        Args:
            images: As `__call__` takes them.
            scores: Whether the predictions have scores.

        Yields:
            For each photograph its prediction, or the error that says why it cannot be read.
        """
        most = 2 if self.tile else 2 * self.batch_size  # a photograph that is seen in tiles is kept whole
        with ThreadPoolExecutor(cores()) as pool:
            windows = chain.from_iterable(map_ahead(pool, partial(self._windows, scores=scores), images, most))
            # All that is placed ahead are the windows of a batch: they are placed while the network sees the next one.
            for window in map_ahead(pool, _place, self._seen(windows), self.batch_size):
                if window.is_last:
                    yield window.prediction

    def _windows(self, source: Photograph, *, scores: bool) -> list[_Window]:
        """Read a photograph, in a thread, and cut it into its windows."""
        try:
            photograph = photograph_of(source)
        except ValueError as error:
            return [_Window(error, torch.empty(0), None, is_last=True)]
        height, width, orientation = photograph.height, photograph.width, photograph.info.get("orientation", 1)
        labels = np.empty((height, width), np.uint8)  # what the threads fill, window by window
        found = np.empty(labels.shape if scores else (0, 0), np.float32)
        prediction = Prediction(labels, found, self.classes, source, orientation)
        if self.tile is None:
            (whole,) = tiles(height, width, max(height, width), 0)
            return [_Window(prediction, torch.from_numpy(squashed(photograph, self.size)), whole, is_last=True)]
        pixels, seen = torch.from_numpy(np.array(photograph)), tiles(height, width, self.tile, self.overlap)
        return [_Window(prediction, pixels[tile.seen], tile, is_last=tile is seen[-1]) for tile in seen]

    def _seen(self, windows: Iterable[_Window]) -> Iterator[tuple[_Window, Tensor]]:
        """The windows in their order, each with its logits; the network sees neighbours of one shape at once."""
        for _, alike in groupby(windows, key=lambda window: window.pixels.shape):
            while batch := [*islice(alike, self.batch_size)]:
                pixels = torch.stack([window.pixels for window in batch])  # (N, h, w, 3), or (N, 0) with errors
                logits = self.logits(pixels.permute(0, 3, 1, 2)) if pixels.numel() else pixels
                yield from zip(batch, logits, strict=True)


def load(
    folder: str | Path,
    *,
    tta: str = "none",
    tile: int | None = None,
    overlap: int | None = None,
    batch_size: int = 8,
    trust: bool = False,
) -> Segmenter:
    """The `Segmenter` of a run, with its best weights, on the CPU.

    It multiplies in bfloat16 if the run was tested so, on devices where that is faster.

    Args:
        folder: The folder of the run, such as runs/<name>; code that it names is not run.
        tta: Test-time augmentation: none, flip or multiscale.
        tile: The side in pixels of the tiles that the network sees; None: photographs squashed to the training size.
        overlap: The pixels that neighbouring tiles share; None: a quarter of a tile.
        batch_size: The number of photographs, or tiles, that the network is given at once.
        trust: Whether the run's config may name any network, whose code is then run.

    Raises:
        ValueError: There is no run in this folder, its network cannot be rebuilt, or a setting is out of its range.
    """
    trained, result = stored_network.load(folder, trust=trust), Run(Path(folder)).result or {}
    size = trained.config.data.get("size")
    check_size("size", size)
    bf16 = str(result.get("precision")).startswith("bf16")
    return Segmenter(trained.net, trained.classes, size, tta=tta, tile=tile, overlap=overlap, batch_size=batch_size, bf16=bf16)


def _overlap(tile: int | None, overlap: int | None) -> int:
    """The pixels that neighbouring tiles share; refuses tiles and overlaps that are out of their range."""
    if tile is None:
        if overlap is not None:
            raise ValueError(f"overlap={overlap} is that of tiles: give tile=, too")
        return 0
    check_whole_number("tile", tile, MIN_SIZE)
    overlap = tile // 4 if overlap is None else overlap
    check_whole_number("overlap", overlap, 0)
    if overlap > tile // 2:  # each tile would keep less than nothing between the halves that its neighbours keep
        raise ValueError(f"overlap={overlap}: wanted at most half of tile={tile}")
    return overlap


def map_ahead(pool: ThreadPoolExecutor, function: Callable[[T], U], items: Iterable[T], most: int) -> Iterator[U]:
    """The function's results in order; at most `most` of them are computed in advance."""
    waiting = iter(items)
    futures = deque(pool.submit(function, item) for item in islice(waiting, most))
    while futures:
        result = futures.popleft().result()
        futures += [pool.submit(function, item) for item in islice(waiting, 1)]
        yield result


def _place(seen: tuple[_Window, Tensor]) -> _Window:
    """Enlarge the logits of a window, and keep their labels and scores in the photograph's prediction."""
    window, logits = seen
    if window.tile and isinstance(window.prediction, Prediction):
        (_, kept, inner), size, prediction = window.tile, window.tile.size, window.prediction
        prediction.labels[kept] = enlarge.labels(logits, *size)[inner].numpy()
        if prediction.scores.size:
            prediction.scores[kept] = enlarge.scores(logits, *size)[inner].numpy()
    return window
