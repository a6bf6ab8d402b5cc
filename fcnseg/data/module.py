"""The data module: it makes the batches for the training and the scores of a run."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor

from fcnseg.data import decode
from fcnseg.data.augment import Augmentation, EpochDraws, partners
from fcnseg.data.batch import Batch, normalize, resize
from fcnseg.data.dataset import Classes, DataSet, Source, find_data_set
from fcnseg.data.loader import Loader
from fcnseg.data.packed import Pack, default_packs_folder, pack
from fcnseg.data.settings import Size, check_data_settings, sides
from fcnseg.machine.distributed import world
from fcnseg.texts import first_of, warn

# The draws of an epoch are made once for all its batches. The cache of a method would also keep its data module in memory.
_epoch_draws = lru_cache(maxsize=1)(EpochDraws)


@dataclass(eq=False, repr=False)
class DataModule(LightningDataModule):
    """Batches of any data set: packed once, then augmented and normalised on the device.

    Args:
        root: The folder that holds the data set, or into which `source` puts it.
        source: A function that finds, downloads or generates the data set under `root`.
        split: "official" trains on train; val chooses the epoch and gives the result. "halves" (the paper's) cuts val in
            two: one half chooses the epoch, the other gives the result.
        size: The side in pixels of the square that images are resized to, or [height, width]; their shape does not matter.
        batch_size: The number of images in a batch.
        augment: Augments the training batches.
        seed: The seed of the order of samples and of the augmentation.
        limit: The number of train images that are used; None: all. Their names alone decide: the images of limit=50
            are among the images of limit=100.
        pack_size: The size that train's images are kept and augmented at, for crops that show details; None: `size`.
            Images of another size after augmentation are resized to `size`.
        cache: The folder for packs; None: `packs` in the data set, or the user's cache if the data set is read-only.
        download: Whether `source` may download the data set; None: as the source has it.
        only: The one image set that is used, for a test; None: train and val.

    Raises:
        ValueError: A setting is out of its range.

    Attributes:
        data_set: The data set, once `prepare_data` has found it.
        packs: The pack of every image set that is used, by its name: train and val, or the only one.
        stages: For "train", "val" and "test" the name of the image set that the stage's images come from, and their indices in
            its pack, (n,) int64. With `only`, there is only "test".
        classes: The classes that its masks label, in the order of the labels.
        floor_class: The class that the floor predicts everywhere: background, or else the most frequent class of train.
        trains: Whether a run trains on the data, and train must therefore have enough images. `reopen.data` sets it to False.
    """

    root: Path
    _: KW_ONLY
    source: Source
    split: str
    size: Size
    batch_size: int
    augment: Augmentation
    seed: int
    limit: int | None = None
    pack_size: Size | None = None
    cache: Path | None = None
    download: bool | None = None
    only: str | None = None
    data_set: DataSet = field(init=False)
    packs: dict[str, Pack] = field(init=False, default_factory=dict)
    stages: dict[str, tuple[str, Tensor]] = field(init=False, default_factory=dict)
    classes: Classes = field(init=False)
    floor_class: int = field(init=False)
    trains: bool = field(init=False, default=True)

    def __post_init__(self) -> None:
        super().__init__()
        check_data_settings(
            size=self.size, batch_size=self.batch_size, split=self.split, limit=self.limit, pack_size=self.pack_size
        )
        # From a config, paths are texts, and a height and a width are in a list of OmegaConf's.
        self.root = Path(os.path.expanduser(self.root))
        self.cache = self.cache and Path(os.path.expanduser(self.cache))
        self.size = self.size if isinstance(self.size, int) else list(self.size)
        self.pack_size = self.pack_size if isinstance(self.pack_size, int | None) else list(self.pack_size)

    def prepare_data(self) -> None:
        """Find, pack and check the data set, when it is called for the first time.

        Raises:
            ValueError: There is no data set, it is broken, an image is listed twice, or a batch is larger than train.
        """
        if self.packs:  # the commands call it before Lightning does, since the network needs the number of classes
            return
        self.data_set = find_data_set(self.source, self.root, self.download)
        self.classes = self.data_set.classes
        if self.data_set.alone:
            warn(f"left out, as python -m fcnseg.check shows: {first_of(self.data_set.alone, 1, in_line=True)}")
        if self.only is not None:
            self.packs = {self.only: pack(self.data_set, self.only, self.size, cache=self.cache)}
            self.stages = {"test": (self.only, torch.arange(len(self.packs[self.only].names)))}
        else:
            self._prepare_train_and_val()
        first, *_ = self.packs.values()  # train's, or the only one
        self.floor_class = self.classes.floor(first.label_pixels.tolist())

    def _train_names(self) -> list[str]:
        """The names of the train images that are used, in the order of their list."""
        # An image in both would be trained on and then tested; an image twice in one would count double.
        if repeated := [*self.data_set.repeated("train"), *self.data_set.repeated("val", "train")]:
            raise ValueError(f"images are listed more than once, wanted every image once:\n{first_of(repeated)}")
        names = self.data_set.names("train")
        # The first ones by hash, so that limit=100 contains limit=50.
        used = [names[i] for i in sorted(_by_hash(names)[: self.limit])]
        if not self.trains:  # a test, for which the settings of a training do not matter
            return used
        if self.limit is not None and self.limit > len(names):
            raise ValueError(f"data.limit={self.limit}: train has {len(names)} images; lower it, or null for all of them")
        if self.batch_size > len(used):
            raise ValueError(f"data.batch_size={self.batch_size} is larger than train's {len(used)} images: lower it")
        return used

    def _prepare_train_and_val(self) -> None:
        data_set = self.data_set
        names = {"train": self._train_names(), "val": data_set.names("val")}
        # A message says once where the packs are, but not if the user chose the place or if the images are generated.
        packs_folder = default_packs_folder(data_set)
        silent = self.cache or data_set.generated or packs_folder.exists()
        sizes = {"train": self.pack_size or self.size, "val": self.size}  # val is not augmented, and needs no larger images
        packs = {name: pack(data_set, name, sizes[name], names=names[name], cache=self.cache) for name in names}
        if not silent:  # after packing, which may have failed
            warn(f"the images are kept, decoded and resized, in {packs_folder}; data.cache=<folder> chooses another place")
        train, val = (torch.arange(len(each.names)) for each in packs.values())
        first, second = _halves(packs["val"].names) if self.split == "halves" else (val, val)
        self.stages = {"train": ("train", train), "val": ("val", first), "test": ("val", second)}
        self.packs = packs  # last, since `prepare_data` does nothing once they are there

    def setup(self, stage: str | None = None) -> None:
        """Move the packs to the GPU if they take less than a quarter of its free memory."""
        self.prepare_data()  # Lightning calls it in only one process of a machine, and `setup` in all
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if device.type == "cuda":
            # A quarter: the network's activations need most of the memory, and what they take is not known yet.
            free, _ = torch.cuda.mem_get_info(device)
            elsewhere = [each for each in self.packs.values() if each.images.device != device]
            if sum(each.images.nbytes + each.masks.nbytes for each in elsewhere) < free / 4:
                self.packs = {name: each.to(device) for name, each in self.packs.items()}

    @property
    def class_pixels(self) -> Tensor:
        """(C,) int64, the pixels of every class in train; void counts as background if there is one."""
        return torch.tensor(self.classes.void_as_background(self.packs["train"].label_pixels.tolist()))

    @property
    def fingerprint(self) -> str:
        """Hashes of the images and masks of train and of val, joined by a hyphen; or one hash of the only image set."""
        return "-".join(each.fingerprint for each in self.packs.values())

    def changed_since(self, fingerprint: str) -> str | None:
        """A sentence that the data differ from the data of this fingerprint; None if they are equal."""
        pairs = zip(("train", "val"), fingerprint.split("-"), self.fingerprint.split("-"), strict=False)
        changed = " and ".join(name for name, then, now in pairs if then != now)
        found = f"({fingerprint} then, {self.fingerprint} now)"
        return f"the images or masks of {changed} have changed since it was trained {found}" if changed else None

    def count(self, stage: str) -> int:
        """The number of images in "train", "val" or "test"."""
        return len(self.stages[stage][1])

    def names(self, stage: str, sample: Tensor | None = None) -> list[str]:
        """The names of a batch's images, from the indices in `Batch.sample`; of all of a stage, in its order, without them."""
        image_set, samples = self.stages[stage]
        return [self.packs[image_set].names[i] for i in (samples if sample is None else sample).tolist()]

    def shown(self, stage: str, count: int) -> list[int]:
        """The places, in a stage's order, of `count` images to show: chosen by their names, the same ones in every run."""
        return _by_hash(self.names(stage))[:count]

    def original_masks(self, sample: Tensor) -> Iterator[Tensor]:
        """The masks of a test batch's images at their own sizes, (1, H, W) uint8 each, read from their files.

        Args:
            sample: (N,) indices of the images in their image set, as in `Batch.sample`.

        Raises:
            ValueError: A file is gone or broken.
        """
        for name in self.names("test", sample):
            mask = self.data_set.read_mask(name, decode.read_image(self.data_set.image(name)))
            yield torch.from_numpy(np.array(mask))[None]

    def trained_on(self, step: int) -> list[str]:
        """The names of the images of training step `step`, counted from 0."""
        loader = self._loader("train")
        epoch, batch = divmod(step, len(loader))
        return self.names("train", loader.batches(loader.order(epoch))[batch])

    def _loader(self, stage: str) -> Loader:
        image_set, samples = self.stages[stage]
        training = stage == "train"
        return Loader(
            self.packs[image_set],
            samples,
            batch_size=self.batch_size,
            seed=self.seed if training else None,
            # A function: Lightning makes the loader once, and asks it for the batches of every epoch.
            step=lambda: self.trainer.global_step if training and self.trainer else 0,
            partners=partners(self.augment),
        )

    def train_dataloader(self) -> Loader:
        """The shuffled batches to train on, without the batches of this epoch that the run has trained on."""
        return self._loader("train")

    def val_dataloader(self) -> Loader:
        """The batches that epochs are chosen on."""
        return self._loader("val")

    def test_dataloader(self) -> Loader:
        """The batches that the result is measured on."""
        return self._loader("test")

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment (in training), normalise and bring to `size`, on the device."""
        image, mask, sample = batch
        if self.trainer and self.trainer.training:
            samples = len(self.packs["train"].names)
            drawn = _epoch_draws(self.seed, self.trainer.current_epoch, samples, sample.device)
            image, mask = self.augment(image, mask, drawn.of(sample))
            # Only a part of a batch comes with borrowed samples in front. One process has the whole batch, all its own.
            borrowed = partners(self.augment) if world() > 1 else 0
            image, mask, sample = image[borrowed:], mask[borrowed:], sample[borrowed:]
        return resize(Batch(normalize(image), mask, sample), sides(self.size))


def _by_hash(names: Sequence[str]) -> list[int]:
    """The indices of some names in an order that depends only on the names, and that no version of a library changes."""
    return sorted(range(len(names)), key=lambda i: sha256(names[i].encode()).hexdigest())


def _halves(names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Indices of two halves of some images, which depend only on their names: each as (n,) int64, ascending."""
    if len(names) < 2:
        raise ValueError(f"data.split=halves: val has {len(names)} image, wanted 2 or more; try data.split=official")
    shuffled = _by_hash(names)
    middle = (len(names) + 1) // 2
    return torch.tensor(sorted(shuffled[:middle])), torch.tensor(sorted(shuffled[middle:]))
