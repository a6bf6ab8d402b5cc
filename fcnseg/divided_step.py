"""A training step whose batch is divided: among the devices of a run, and into parts that are processed one after the other."""

from collections.abc import Iterable
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from fcnseg.data.batch import Batch
from fcnseg.losses import TINY, divisor
from fcnseg.machine.distributed import interleaved, total, world


def is_whole(task: LightningModule) -> bool:
    """Whether a batch is one part on one device."""
    return bool(world() == task.accumulate == 1)


def train_on(task: Any, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor, int]:
    """Train a task on this process's share of a batch; the loss and the gradient are for the whole batch.

    Lightning's own accumulation would count steps in parts, and weight the parts of a shorter last batch too much.

    Args:
        task: The `SegmentationTask` whose network, loss and trainer are used.
        batch: This process's share of the batch.
        batch_idx: The number of the batch in the epoch.

    Returns:
        The loss whose gradient must still be computed; the loss of the whole batch; the number of images in the batch.
    """
    if is_whole(task):
        loss: Tensor = task.loss(task(batch.image), batch.mask)
        return loss, loss, len(batch.mask)
    task.optimizers(use_pl_optimizer=False).zero_grad()  # see the task's `optimizer_zero_grad`
    # A part's loss is a mean, a sum divided by the part's divisor. Weighted by the part's share of the divisor of the whole
    # batch, the losses of all parts in all processes add up to the loss of the whole batch.
    whole = total(divisor(task.loss, batch.mask)).clamp_min(TINY)
    own = torch.zeros((), device=whole.device)
    pairs = [*zip(*(parts(share, task.accumulate) for share in batch[:2]), strict=True)]
    for number, (image, mask) in enumerate(pairs, start=1):
        loss = task.loss(task(image), mask) * (divisor(task.loss, mask) / whole)
        own += loss.detach()
        # The gradients of the processes are to be added; DDP takes their mean, the sum divided by world().
        loss = loss * world()
        # Lightning always runs a backward pass on the loss that a step returns, and DDP sends the gradients in that pass.
        # So it gets the last part: the gradients of the parts before it are already there, and the sum is sent once.
        if number < len(pairs):
            # Lightning calls a step under autocast, which PyTorch advises against for a backward pass.
            with torch.autocast(task.device.type, enabled=False):
                task.trainer.strategy.backward(loss, None)
    value = total(own)
    # The loader knows the size of the whole batch: this process's share may have a borrowed image.
    images = task.trainer.train_dataloader.sizes[batch_idx] if world() > 1 else len(batch.mask)
    # Its gradient is that of the last part. Its value is the loss of the whole batch, which the callbacks get: the difference
    # that is added has no gradient.
    return loss + (value - loss).detach(), value, images


def parts(share: Tensor, number: int) -> list[Tensor]:
    """A share of a batch, cut into at most `number` parts."""
    return [part for part in share.tensor_split(number) if len(part)]


def gather(module: LightningModule, stage: str, found: Iterable[list[Any]]) -> None:
    """Bring the findings of all processes, lists with an item for every batch, into the order of one process.

    Args:
        module: The module whose trainer has gone through the batches.
        stage: The stage that has ended, "val" or "test".
        found: The lists, which are changed in place.
    """
    if world() == 1:
        return
    lists = [*found]
    on_cpu = [[item.cpu() if isinstance(item, Tensor) else item for item in items] for items in lists]
    loader: Any = getattr(module.trainer, f"{stage}_dataloaders")
    batches = interleaved(zip(*on_cpu, strict=True))[: len(loader.sizes)]  # some batches occur twice
    for items, whole in zip(lists, zip(*batches, strict=True), strict=True):
        items[:] = whole
