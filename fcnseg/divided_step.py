"""A training step whose batch is divided: among the devices of a run, and into parts that go one after the other."""

from collections.abc import Iterable
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from fcnseg.data.batch import Batch
from fcnseg.losses import TINY, divisor
from fcnseg.machine.distributed import interleaved, total, world


class DividedStep(LightningModule):
    """The steps of a module whose batches are divided; losses, gradients and scores are those of the whole batch.

    Args:
        loss: The loss: logits and mask to a scalar.
        accumulate: The number of parts in which a device's share of a batch goes through the network, to save memory.
    """

    def __init__(self, loss: nn.Module, accumulate: int) -> None:
        super().__init__()
        self.loss, self.accumulate = loss, accumulate

    def train_on(self, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor, int]:
        """Train on this process's share of a batch.

        Lightning's own accumulation would count steps in parts, and weight the parts of a shorter last batch too much.

        Returns:
            The loss whose gradient is still to be computed; the loss of the whole batch; the number of its images.
        """
        if world() == self.accumulate == 1:
            loss: Tensor = self.loss(self(batch.image), batch.mask)
            return loss, loss, len(batch.mask)
        self.optimizers(use_pl_optimizer=False).zero_grad()  # type: ignore[union-attr]  # see `optimizer_zero_grad`
        whole = total(divisor(self.loss, batch.mask)).clamp_min(TINY)
        own, parts = torch.zeros((), device=whole.device), [*zip(*map(self.parts, batch[:2]), strict=True)]
        for number, (image, mask) in enumerate(parts, start=1):
            loss = self.loss(self(image), mask) * (divisor(self.loss, mask) / whole)
            own += loss.detach()
            loss = loss * world()  # DDP divides the sum of all gradients by the number of processes
            if number < len(parts):  # Lightning has the last part backward, in which DDP sends the sum of all parts
                with torch.autocast(self.device.type, enabled=False):
                    self.trainer.strategy.backward(loss, None)
        value = total(own)
        loader: Any = self.trainer.train_dataloader
        images = loader.sizes[batch_idx] if world() > 1 else len(batch.mask)
        # Lightning computes the gradient of the last part; the value that it logs is that of the whole batch.
        return loss + (value - loss).detach(), value, images

    def parts(self, share: Tensor) -> list[Tensor]:
        """A share of a batch, cut into at most `accumulate` parts."""
        return [part for part in share.tensor_split(self.accumulate) if len(part)]

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Lightning calls it after the step, in which the gradients of all parts but the last have been computed."""
        if world() == self.accumulate == 1:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def gather(self, stage: str, found: Iterable[list[Any]]) -> None:
        """Put what all processes have found, a list with an item for every batch, in the order of one process.

        Args:
            stage: The stage that has ended, "val" or "test".
            found: The lists, which are changed.
        """
        if world() == 1:
            return
        lists = [*found]
        on_cpu = [[each.cpu() if isinstance(each, Tensor) else each for each in one] for one in lists]
        loader: Any = getattr(self.trainer, f"{stage}_dataloaders")
        items = interleaved(zip(*on_cpu, strict=True))[: len(loader.sizes)]  # some batches are there twice
        for one, whole in zip(lists, zip(*items, strict=True), strict=True):
            one[:] = whole
