"""A trained network as a function from photographs to masks: `load("runs/<name>")` gives a `Segmenter`."""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import TypeVar, overload

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
MOST_PIXELS = 2**25  # pixels of masks that are kept while the network goes on


@dataclass
class _Work:
    """A photograph on its way through the network.

    Attributes:
        prediction: The prediction so far, or the error that says why the photograph cannot be read.
        pixels: (h, w, 3) uint8: the photograph, squashed to the network's size unless the network sees tiles.
        tiles: The parts that the network sees, one at a time; without `Segmenter.tile`, one tile for the whole photograph.
        jobs: The threads' work on the tiles that the network has seen, a job per tile.
    """

    prediction: Prediction | ValueError
    pixels: Tensor
    tiles: list[Tile]
    jobs: list[Future[None]] = field(default_factory=list)

    @property
    def is_seen(self) -> bool:
        """Whether the network has seen all of it."""
        return len(self.jobs) == len(self.tiles)

    @property
    def size(self) -> int:
        """The pixels of its mask."""
        return self.prediction.labels.size if isinstance(self.prediction, Prediction) else 0

    def window(self, tile: Tile) -> Tensor:
        """The (h, w, 3) pixels of a tile that the network gets; a single tile may be squashed."""
        return self.pixels if len(self.tiles) == 1 else self.pixels[tile.seen]

    def place(self, tile: Tile, logits: Tensor) -> None:
        """Enlarge the logits of a tile, and keep their labels and scores."""
        assert isinstance(self.prediction, Prediction)
        self.prediction.labels[tile.kept] = enlarge.labels(logits, *tile.size)[tile.inner].numpy()
        if self.prediction.scores.size:
            self.prediction.scores[tile.kept] = enlarge.scores(logits, *tile.size)[tile.inner].numpy()

    def done(self) -> Prediction | ValueError:
        """The prediction, when all threads have done their work on it."""
        for job in self.jobs:
            job.result()
        return self.prediction


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
        waiting: deque[_Work] = deque()

        def windows() -> Iterator[tuple[_Work, Tile]]:
            most = 2 if self.tile else 2 * self.batch_size  # a photograph that is seen in tiles is kept whole
            for work in map_ahead(pool, partial(self._begin, scores=scores), images, most):
                waiting.append(work)
                yield from ((work, tile) for tile in work.tiles)

        with ThreadPoolExecutor(cores()) as pool:
            for batch in _batches(windows(), self.batch_size):
                self._see(batch, pool)
                # The first is complete when all its tiles have been seen, and results keep the order of the photographs. It
                # waits until many do, so that the threads can work on it while the network goes on.
                while waiting and waiting[0].is_seen and self._are_many(waiting):
                    yield waiting.popleft().done()
            yield from (work.done() for work in waiting)

    def _are_many(self, waiting: Collection[_Work]) -> bool:
        """Whether the photographs that wait are more than the memory should hold: in number, or in pixels."""
        return len(waiting) > 2 * self.batch_size or sum(work.size for work in waiting) > MOST_PIXELS

    def _begin(self, source: Photograph, *, scores: bool) -> _Work:
        """Read a photograph, in a thread."""
        try:
            photograph = photograph_of(source)
        except ValueError as error:
            return _Work(error, torch.empty(0), [])  # complete at once, and given out in its turn
        height, width, orientation = photograph.height, photograph.width, photograph.info.get("orientation", 1)
        pixels = squashed(photograph, self.size) if self.tile is None else np.array(photograph)
        seen = tiles(height, width, self.tile or max(height, width), self.overlap)
        labels = np.empty((height, width), np.uint8)  # what the threads fill, tile by tile
        found = np.empty(labels.shape if scores else (0, 0), np.float32)
        prediction = Prediction(labels, found, self.classes, source, orientation)
        return _Work(prediction, torch.from_numpy(pixels), seen)

    def _see(self, batch: Sequence[tuple[_Work, Tile]], pool: ThreadPoolExecutor) -> None:
        """Give the network a batch, and have threads place its logits."""
        windows = torch.stack([work.window(tile) for work, tile in batch])  # (N, h, w, 3)
        images = windows.permute(0, 3, 1, 2)  # (N, 3, h, w), channels last
        for (work, tile), logits in zip(batch, self.logits(images), strict=True):
            work.jobs.append(pool.submit(work.place, tile, logits))


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


def _batches(windows: Iterable[tuple[_Work, Tile]], most: int) -> Iterator[list[tuple[_Work, Tile]]]:
    """Batches of at most `most` consecutive windows of one shape, since a tensor has one."""
    for _, alike in groupby(windows, key=lambda window: window[0].window(window[1]).shape):
        while batch := [*islice(alike, most)]:
            yield batch
