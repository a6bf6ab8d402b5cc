"""Batches of a pack, in an order that depends only on the seed and the epoch."""

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from hashlib import sha256
from math import ceil

import torch
from torch import Tensor

from fcnseg.data.batch import Batch
from fcnseg.data.dataset import VOID
from fcnseg.data.packed import Pack
from fcnseg.machine.distributed import rank, world


@dataclass(eq=False)
class Loader:
    """Batches gathered from a pack, in an order that depends only on (seed, epoch).

    A run that is resumed within an epoch gets the rest of that epoch, in the same order. With several processes, each gets a
    part of every training batch. Batches of validation and test are distributed whole, so that their scores are those of one
    process.

    Args:
        pack: The images and masks; batches are made on their device.
        samples: (n,) int64, the indices in the pack of the images of this stage.
        batch_size: The number of images in a batch. The last batch may have fewer. In training, a single last image
            joins the batch before it, since a user's network may have a batch norm that refuses one value.
        seed: The seed of the order in training; None in validation and test, which keep the order of `samples`.
        step: A function that gives the number of batches that the run has trained on.
        partners: The number of extra samples, for an augmentation, that a process gets in front of its part of a batch: those
            just before it, where the last sample of the batch comes before the first. See `fcnseg.data.augment`. Of a batch
            0..5 in two processes with one partner, the first gets 5 and 0, 1, 2, and the second 2 and 3, 4, 5.
    """

    pack: Pack
    samples: Tensor
    _: KW_ONLY
    batch_size: int
    seed: int | None
    step: Callable[[], int]
    partners: int = 0

    @property
    def is_training(self) -> bool:
        """Whether the batches are trained on."""
        return self.seed is not None

    def __len__(self) -> int:
        return len(self.sizes) if self.is_training else ceil(len(self.sizes) / world())

    @cached_property
    def sizes(self) -> list[int]:
        """The number of images in every whole batch."""
        return [len(batch) for batch in self.batches(self.samples)]

    def batches(self, samples: Tensor) -> list[Tensor]:
        """(n,) samples, cut into batches."""
        batches = list(samples.split(self.batch_size))
        if self.is_training and len(batches) > 1 and len(batches[-1]) == 1 < self.batch_size:
            batches[-2:] = [torch.cat(batches[-2:])]
        return batches

    def order(self, epoch: int) -> Tensor:
        """The (n,) samples in the order of an epoch."""
        if not self.is_training:
            return self.samples
        # A hash of both: seed + epoch would give seed 1 the orders of seed 0, an epoch later. 12 digits fit into 64 bits.
        generator = torch.Generator().manual_seed(int(sha256(f"{self.seed}/{epoch}".encode()).hexdigest()[:12], 16))
        return self.samples[torch.randperm(len(self.samples), generator=generator)]

    def __iter__(self) -> Iterator[Batch]:
        epoch, done = divmod(self.step(), len(self))
        samples = self.order(epoch).to(self.pack.images.device)
        batches = self.batches(samples)
        for number in range(done, len(self)):
            if self.is_training:
                sample, is_borrowed = self._part(batches[number])
            else:  # in the last round, some processes get one of the first batches again
                sample, is_borrowed = batches[(number * world() + rank()) % len(batches)], False
            image, mask = (pixels.index_select(0, sample) for pixels in (self.pack.images, self.pack.masks))
            if is_borrowed:
                mask = torch.full_like(mask, VOID)  # so that it counts for nothing
            yield Batch(image.permute(0, 3, 1, 2), mask, sample)  # (N, 3, H, W), channels_last

    def _part(self, batch: Tensor) -> tuple[Tensor, bool]:
        """The samples of this process, its partners first; and whether the batch has none for it.

        A process without a sample borrows one of another process, and its mask becomes void.
        """
        if world() == 1:
            return batch, False
        first, end = (len(batch) * number // world() for number in (rank(), rank() + 1))
        places = torch.arange(first - self.partners, max(end, first + 1), device=batch.device)
        return batch[places % len(batch)], first == end
