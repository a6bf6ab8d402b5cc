"""A trained network as a function from photographs to masks: `load("runs/<name>")` gives a `Segmenter`."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor, nn
from torch.nn import functional as F

from fcnseg import pictures
from fcnseg.data import MIN_SIZE, SPLITS, Size, check_settings, check_whole_number, decode, sides
from fcnseg.data.batch import normalize
from fcnseg.data.dataset import Classes
from fcnseg.data.packed import cores
from fcnseg.files import replacing
from fcnseg.inference.tiles import Tile, tiles
from fcnseg.models import enlarge
from fcnseg.models.averaged import averaged
from fcnseg.models.layers import memory_format
from fcnseg.precision import bf16_wins
from fcnseg.runs import rebuild
from fcnseg.runs.folder import Run

Source = str | Path | Image.Image | npt.NDArray[np.uint8] | Tensor  # of a photograph
T = TypeVar("T")
U = TypeVar("U")
NOTE = "fcnseg"  # the key of the text that a mask keeps
MANY = 2**25  # pixels of masks that are kept while the network goes on


@dataclass
class Prediction:
    """What a network sees in a photograph of H x W pixels.

    Attributes:
        labels: (H, W) uint8, the label of each pixel's class.
        scores: (H, W) float32, the probability of this class, 1/C to 1; empty unless it was asked for.
        classes: The C classes.
        source: The photograph, as it was given.
        orientation: The EXIF orientation of its file, 1 to 8; the labels are upright.
    """

    labels: npt.NDArray[np.uint8]
    scores: npt.NDArray[np.float32]
    classes: Classes
    source: Source
    orientation: int

    def colour(self) -> pictures.Picture:
        """The mask in the colours of its classes, (H, W, 3)."""
        return pictures.colour(torch.from_numpy(self.labels), self.classes)

    def overlay(self) -> pictures.Picture:
        """The mask over the photograph, (H, W, 3); a file is read again."""
        photograph = torch.from_numpy(np.array(photograph_of(self.source)))
        return pictures.overlay(photograph.permute(2, 0, 1), torch.from_numpy(self.labels), self.classes)

    def picture(self, values: npt.NDArray[Any], *, oriented: bool) -> Image.Image:
        """The labels, or other values of the pixels, as a grey image: upright, or laid out as the photograph's file is."""
        upright = Image.fromarray(values)
        return upright if oriented else decode.laid_out_as_stored(upright, self.orientation)

    def save(self, path: str | Path, *, oriented: bool = True, note: str = "") -> None:
        """Write the mask as a palette PNG whose indices are the labels, whole or not at all.

        Args:
            path: The file.
            oriented: Whether it is upright, as people see the photograph; otherwise its pixels lie as those in the
                photograph's file do.
            note: A text that the file keeps under the key `NOTE`.
        """
        mask = self.picture(self.labels, oriented=oriented)
        mask.putpalette(self.classes.palette.tobytes())
        text = PngInfo()
        text.add_text(NOTE, note)
        with replacing(Path(path)) as file:
            mask.save(file, "PNG", pnginfo=text)


def photograph_of(source: Source) -> Image.Image:
    """The photograph as RGB; a file's is upright.

    Raises:
        ValueError: The file is missing or broken, or an array has another shape or type.
    """
    if isinstance(source, (str, Path)):
        return decode.read_image(Path(source))
    if isinstance(source, Image.Image):
        return decode.as_rgb(source, "from Pillow")
    pixels = source.permute(1, 2, 0).cpu().numpy() if isinstance(source, Tensor) and source.ndim == 3 else source
    is_uint8 = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8
    if not is_uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        found = f"{type(source).__name__} {tuple(getattr(source, 'shape', ()))} {getattr(source, 'dtype', '')}"
        raise ValueError(
            f"a photograph is a {found.strip()}: wanted a path, a Pillow image, or uint8 as an array (H, W, 3) or a tensor"
            " (3, H, W)"
        )
    return Image.fromarray(np.ascontiguousarray(pixels))


@dataclass
class _Work:
    """A photograph on its way through the network.

    Attributes:
        prediction: What has been predicted so far.
        pixels: (h, w, 3) uint8: the photograph, squashed to the network's size unless the network sees tiles.
        parts: Where the network looks: at all of it, or at tiles.
        jobs: The threads' work on what the network has seen.
    """

    prediction: Prediction
    pixels: Tensor
    parts: list[Tile]
    jobs: list[Future[None]] = field(default_factory=list)

    def place(self, part: Tile, logits: Tensor) -> None:
        """Enlarge the logits of a part, and keep what they mean."""
        self.prediction.labels[part.kept] = enlarge.labels(logits, *part.size)[part.inner].numpy()
        if self.prediction.scores.size:
            self.prediction.scores[part.kept] = enlarge.scores(logits, *part.size)[part.inner].numpy()

    def done(self) -> Prediction:
        """The prediction, when all threads have done their work on it."""
        for job in self.jobs:
            job.result()
        return self.prediction


class _Window(NamedTuple):
    """What the network is given of a photograph: (h, w, 3) uint8 pixels of a part; none of one that could not be read."""

    pixels: Tensor
    work: _Work | ValueError
    part: Tile | None
    is_last: bool


class Segmenter:
    """A trained network as a function from photographs to masks; `load` makes it from a run.

    A photograph is squashed to the size that the network was trained at, and the logits are enlarged to the photograph's own
    size before the arg max: this suits networks that were trained on whole images. With `tile`, the network sees overlapping
    tiles at the photograph's own resolution: this suits networks that were trained on crops, and large photographs.

    Args:
        net: A network in evaluation mode: normalised (N, 3, H, W) images to (N, C, H, W) logits.
        classes: The C classes.
        size: The size that photographs are squashed to: the side in pixels of a square, or [height, width].
        tta: none, flip or multiscale: see `models.averaged`.
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
        if tile is None and overlap is not None:
            raise ValueError(f"overlap={overlap} is that of tiles: give tile=, too")
        if tile is not None:
            check_whole_number("tile", tile, MIN_SIZE)
            check_whole_number("overlap", overlap := tile // 4 if overlap is None else overlap, 0)
            if overlap > tile // 2:
                raise ValueError(f"overlap={overlap}: wanted at most half of tile={tile}")
        self.classes, self.size, self.tta, self.tile, self.overlap = classes, sides(size), tta, tile, overlap or 0
        self.batch_size, self.bf16, self.device = batch_size, bf16, torch.device("cpu")
        self.memory_format = memory_format(net)
        self.net = averaged(net, tta).to(memory_format=self.memory_format)

    def to(self, device: str | torch.device | None) -> "Segmenter":
        """This object, which computes on a device from now on; None: on the GPU if there is one.

        Raises:
            ValueError: There is no such device.
        """
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        try:
            self.device = torch.device(device or accelerator or "cpu")
            self.net.to(self.device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device={device}: {str(error).splitlines()[0]}") from error
        return self

    @overload
    def __call__(self, images: Source, *, scores: bool = True) -> Prediction: ...
    @overload
    def __call__(self, images: list[Source], *, scores: bool = True) -> list[Prediction]: ...

    def __call__(self, images: Source | list[Source], *, scores: bool = True) -> Prediction | list[Prediction]:
        """What the network sees in a photograph, or in each of a list of them, of any sizes.

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
        images = F.pad(images, (0, max(MIN_SIZE - width, 0), 0, max(MIN_SIZE - height, 0)))
        batch = normalize(images.to(self.device)).contiguous(memory_format=self.memory_format)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16 and bf16_wins(self.device.type)):
            logits: Tensor = self.net(batch)
        return logits[..., :height, :width].float().cpu()

    def stream(self, images: Iterable[Source], *, scores: bool = False) -> Iterator[Prediction | ValueError]:
        """What the network sees in one photograph after the other, in their order and in bounded memory.

        Threads read the files, and enlarge the logits, while the network works.

        Args:
            images: As `__call__` takes them.
            scores: Whether the predictions have scores.

        Yields:
            For each photograph its prediction, or the error that says why it cannot be read.
        """
        with ThreadPoolExecutor(cores()) as pool:
            most = 2 if self.tile else 2 * self.batch_size  # a photograph that is seen in tiles is kept whole
            works = ahead(pool, partial(self._begin, scores=scores), images, most)
            ready: deque[_Work | ValueError] = deque()
            for batch in _batches(works, self.batch_size):
                self._see(batch, pool)
                ready += [window.work for window in batch if window.is_last]
                while len(ready) > self.batch_size or _pixels(ready) > MANY:
                    yield _result(ready.popleft())
            yield from map(_result, ready)

    def _begin(self, source: Source, *, scores: bool) -> _Work | ValueError:
        """Read a photograph, in a thread."""
        try:
            photograph = photograph_of(source)
        except ValueError as error:
            return error
        height, width, orientation = photograph.height, photograph.width, photograph.info.get("orientation", 1)
        if self.tile is None:
            rows, columns = self.size
            photograph = photograph.resize((columns, rows), Image.Resampling.BILINEAR)
        parts = tiles(height, width, self.tile or max(height, width), self.overlap)
        labels = np.empty((height, width), np.uint8)
        found = np.empty(labels.shape if scores else (0, 0), np.float32)
        prediction = Prediction(labels, found, self.classes, source, orientation)
        return _Work(prediction, torch.from_numpy(np.array(photograph)), parts)

    def _see(self, batch: list["_Window"], pool: ThreadPoolExecutor) -> None:
        """Give the network a batch, and have threads place what it gives."""
        if not batch[0].pixels.numel():
            return
        images = torch.stack([window.pixels for window in batch]).permute(0, 3, 1, 2)
        for window, logits in zip(batch, self.logits(images), strict=True):
            assert isinstance(window.work, _Work)
            assert window.part is not None
            window.work.jobs.append(pool.submit(window.work.place, window.part, logits))


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
        folder: The folder of the run, such as runs/<name>; no code runs that it names.
        tta: Test-time augmentation: none, flip or multiscale.
        tile: The side in pixels of the tiles that the network sees; None: photographs squashed to the training size.
        overlap: The pixels that neighbouring tiles share; None: a quarter of a tile.
        batch_size: The number of photographs, or tiles, that the network is given at once.
        trust: Whether the run's config may name any network, whose code is then run.

    Raises:
        ValueError: There is no run in this folder, its network cannot be rebuilt, or a setting is out of its range.
    """
    trained, result = rebuild.load(folder, trust=trust), Run(Path(folder)).result or {}
    size = trained.config.data.get("size")
    check_settings(size=size, batch_size=batch_size, split=SPLITS[0], limit=None)
    return Segmenter(
        trained.net,
        trained.classes,
        size,
        tta=tta,
        tile=tile,
        overlap=overlap,
        batch_size=batch_size,
        bf16=str(result.get("precision")).startswith("bf16"),
    )


def ahead(pool: ThreadPoolExecutor, function: Callable[[T], U], items: Iterable[T], most: int) -> Iterator[U]:
    """The function's results in order, of which at most so many are computed before they are asked for."""
    waiting = iter(items)
    futures = deque(pool.submit(function, item) for item in islice(waiting, most))
    while futures:
        result = futures.popleft().result()
        futures += [pool.submit(function, item) for item in islice(waiting, 1)]
        yield result


def _windows(works: Iterable[_Work | ValueError]) -> Iterator[_Window]:
    for work in works:
        if isinstance(work, ValueError):
            yield _Window(torch.empty(0), work, None, is_last=True)
            continue
        for part in work.parts:
            pixels = work.pixels if len(work.parts) == 1 else work.pixels[part.seen]  # the only part may be squashed
            yield _Window(pixels, work, part, part is work.parts[-1])


def _batches(works: Iterable[_Work | ValueError], most: int) -> Iterator[list[_Window]]:
    """Windows of one shape that follow one another, at most so many."""
    batch: list[_Window] = []
    for window in _windows(works):
        if batch and (len(batch) == most or window.pixels.shape != batch[0].pixels.shape):
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _pixels(works: Iterable[_Work | ValueError]) -> int:
    return sum(0 if isinstance(work, ValueError) else work.prediction.labels.size for work in works)


def _result(work: _Work | ValueError) -> Prediction | ValueError:
    return work if isinstance(work, ValueError) else work.done()
