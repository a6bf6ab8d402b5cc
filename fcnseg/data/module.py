"""From a data set to batches on the device: `VOCDataModule`."""

from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import torch
from lightning import LightningDataModule
from torch import Tensor

from fcnseg.data import MIN_SIZE, SPLITS, voc
from fcnseg.data.augment import Augmentation, EpochDraws
from fcnseg.data.packed import Pack, pack

Source = Callable[[Path], voc.Folder]


class Batch(NamedTuple):
    """Some images of a split.

    Attributes:
        image: (N, 3, S, S) uint8 RGB from the loader; normalised float32 on the device.
        mask: (N, S, S) uint8, 0..20 and 255 for void.
        sample: (N,) int64 numbers of the images in their image set.
    """

    image: Tensor
    mask: Tensor
    sample: Tensor


class Loader:
    """Batches gathered from a pack, in an order that depends on (seed, epoch) alone.

    It starts where `step` says: a run resumed in mid-epoch is given the rest of that epoch, in the same order.

    Args:
        pack: Where the pixels are; batches come out on its device.
        samples: (n,) int64: which of its images this split has.
        batch_size: Images a batch; the last may have fewer, and in training an image left over joins the batch before it,
            since batch norm cannot train on one value.
        seed: Of the order; None keeps the split's own.
        step: Tells how many batches the run has trained on.
    """

    def __init__(
        self, pack: Pack, samples: Tensor, *, batch_size: int, seed: int | None, step: Callable[[], int]
    ) -> None:
        self.pack, self.samples, self.batch_size = pack, samples, batch_size
        self.seed, self.step = seed, step

    def __len__(self) -> int:
        return len(self.batches(self.samples))

    def batches(self, samples: Tensor) -> list[Tensor]:
        """Cut (n,) samples into batches."""
        batches = list(samples.split(self.batch_size))
        if self.seed is not None and len(batches) > 1 and len(batches[-1]) == 1 < self.batch_size:
            batches[-2:] = [torch.cat(batches[-2:])]
        return batches

    def order(self, epoch: int) -> Tensor:
        """The (n,) samples in the order of `epoch`."""
        if self.seed is None:
            return self.samples
        generator = torch.Generator().manual_seed(int(sha256(f"{self.seed}/{epoch}".encode()).hexdigest()[:12], 16))
        return self.samples[torch.randperm(len(self.samples), generator=generator)]

    def __iter__(self) -> Iterator[Batch]:
        epoch, done = divmod(self.step(), len(self))
        samples = self.order(epoch).to(self.pack.images.device)
        for sample in self.batches(samples)[done:]:
            image, mask = (pixels.index_select(0, sample) for pixels in (self.pack.images, self.pack.masks))
            yield Batch(image.permute(0, 3, 1, 2), mask, sample)  # (N, 3, S, S), channels_last


class VOCDataModule(LightningDataModule):
    """Any data set in VOC's layout, packed once, augmented and normalised on the device.

    Args:
        root: Where the data set is, or where its source puts it.
        source: Finds, fetches or makes the data set under `root`.
        split: "official" trains on train and reports val, on which the epochs are chosen too; "halves" (the paper's) cuts
            val in two, chooses epochs on the one half and reports the other.
        size: Height and width in pixels that images are squashed to.
        batch_size: Images a batch.
        augment: Applied to training batches.
        seed: Of the order of samples and of the augmentation.

    Raises:
        ValueError: a setting out of its range.
    """

    num_classes = voc.NUM_CLASSES

    def __init__(
        self, root: str, *, source: Source, split: str, size: int, batch_size: int, augment: Augmentation, seed: int
    ) -> None:
        super().__init__()
        if split not in SPLITS:
            raise ValueError(f"data.split={split}: wanted one of {', '.join(SPLITS)}")
        if size < MIN_SIZE:
            raise ValueError(f"data.size={size}: wanted a whole number of pixels from {MIN_SIZE} up")
        if batch_size < 1:
            raise ValueError(f"data.batch_size={batch_size}: wanted a whole number from 1 up")
        self.root, self.source, self.split, self.size, self.batch_size = Path(root), source, split, size, batch_size
        self.augment, self.seed = augment, seed
        self.packs: dict[str, Pack] = {}
        self.parts: dict[str, tuple[str, Tensor]] = {}

    def prepare_data(self) -> None:
        """Fetch, pack and check the data set; nothing the second time.

        Raises:
            ValueError: no data set, a broken one, or a batch larger than the split.
        """
        if self.packs:
            return
        try:
            folder = self.source(self.root)
        except OSError as error:
            raise ValueError(
                f"data.root={self.root}: {error}; give a folder that can be read, or written to"
            ) from error
        packs = {name: pack(folder, name, self.size) for name in ("train", "val")}
        if self.batch_size > (n := len(packs["train"].ids)):
            raise ValueError(f"data.batch_size={self.batch_size} is larger than the train split's {n} images: lower it")
        self.parts = self._parts(packs)
        self.packs = packs

    def _parts(self, packs: dict[str, Pack]) -> dict[str, tuple[str, Tensor]]:
        """Which images of which image set every stage has."""
        train, val = (torch.arange(len(packs[name].ids)) for name in ("train", "val"))
        first = second = val
        if self.split == "halves":
            if len(val) < 2:
                raise ValueError(f"data.split=halves wants at least 2 images in val, found {len(val)}")
            names = packs["val"].ids
            # Ordering by hash is a fixed permutation that no library version changes.
            shuffled = sorted(range(len(names)), key=lambda i: sha256(names[i].encode()).hexdigest())
            middle = (len(names) + 1) // 2
            first, second = (torch.tensor(sorted(half)) for half in (shuffled[:middle], shuffled[middle:]))
        return {"train": ("train", train), "val": ("val", first), "test": ("val", second)}

    def setup(self, stage: str | None = None) -> None:
        """Keep the pixels on the GPU if they take no more than a quarter of what is free there."""
        self.prepare_data()
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if sum(pack.nbytes for pack in self.packs.values() if pack.images.device != device) < free / 4:
                self.packs = {name: pack.to(device) for name, pack in self.packs.items()}

    @property
    def class_pixels(self) -> Tensor:
        """(22,) int64 pixels of every class in train, then of void."""
        return self.packs["train"].class_pixels

    @property
    def fingerprint(self) -> str:
        """Hash of the images and masks of train and val."""
        return "-".join(self.packs[name].fingerprint for name in ("train", "val"))

    def count(self, stage: str) -> int:
        """Images of "train", "val" or "test"."""
        return len(self.parts[stage][1])

    def names(self, stage: str, sample: Tensor) -> list[str]:
        """The names of a batch's images, from its sample numbers."""
        ids = self.packs[self.parts[stage][0]].ids
        return [ids[i] for i in sample.tolist()]

    def trained_on(self, step: int) -> list[str]:
        """The names of the images of training step `step`, counted from 0."""
        loader = self._loader("train")
        epoch, batch = divmod(step, len(loader))
        return self.names("train", loader.batches(loader.order(epoch))[batch])

    def _loader(self, stage: str) -> Loader:
        image_set, samples = self.parts[stage]
        training = stage == "train"
        return Loader(
            self.packs[image_set],
            samples,
            batch_size=self.batch_size,
            seed=self.seed if training else None,
            step=lambda: self.trainer.global_step if training and self.trainer else 0,
        )

    def train_dataloader(self) -> Loader:
        """Shuffled, and where the run left off."""
        return self._loader("train")

    def val_dataloader(self) -> Loader:
        """What epochs are chosen on."""
        return self._loader("val")

    def test_dataloader(self) -> Loader:
        """What results are read on."""
        return self._loader("test")

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment (in training) and normalise, on the device."""
        image, mask, sample = batch
        if self.trainer and self.trainer.training:
            samples = len(self.packs["train"].ids)
            made = _epoch_draws(self.seed, self.trainer.current_epoch, samples, sample.device)
            image, mask = self.augment(image, mask, made.of(sample))
        return Batch(normalize(image), mask, sample)


_epoch_draws = lru_cache(maxsize=1)(EpochDraws)


@cache  # on a GPU, making a tensor waits for it
def _statistics(width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation of a row of `width` pixels: (width * 3,) each."""
    mean, std = (torch.tensor(values, device=device).mul_(255).repeat(width) for values in (voc.MEAN, voc.STD))
    return mean, std


def normalize(image: Tensor) -> Tensor:
    """(N, 3, H, W) uint8 RGB to float32 of mean 0 and deviation 1, as pretrained backbones expect, in channels_last.

    A row of pixels at a time: three numbers at a time, as their broadcast over H and W means, take ten times as long.
    """
    mean, std = _statistics(width := image.shape[-1], image.device)
    rows = image.permute(0, 2, 3, 1).flatten(2).float()  # (N, H, W * 3)
    pixels: Tensor = rows.sub_(mean).div_(std).unflatten(2, (width, 3))  # (N, H, W, 3)
    return pixels.permute(0, 3, 1, 2)


def denormalize(image: Tensor) -> Tensor:
    """The (N, 3, H, W) uint8 RGB that `normalize` was given."""
    mean, std = _statistics(width := image.shape[-1], image.device)
    rows = image.permute(0, 2, 3, 1).flatten(2) * std + mean  # (N, H, W * 3)
    pixels: Tensor = rows.round_().clamp_(0, 255).byte().unflatten(2, (width, 3))  # (N, H, W, 3)
    return pixels.permute(0, 3, 1, 2)
