"""A training step whose batch is divided: among the devices of a run, and there into parts, one after the other.

The loss of a batch is a sum over its pixels, divided by a divisor such as the number of labelled pixels. Of a part p, the
network gives L_p, a sum over the part's pixels divided by the part's divisor D_p. So the loss of the whole batch is
L = sum of L_p * D_p / D, over all parts of all devices, where D is the sum of the D_p.
"""

from collections.abc import Iterable
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from fcnseg.data.batch import Batch
from fcnseg.learning.losses import TINY, divisor
from fcnseg.machine.distributed import interleaved, total, world


def is_whole(task: LightningModule) -> bool:
    """Whether a batch is one part on one device."""
    return bool(world() == task.accumulate == 1)


def train_on(task: Any, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor, int]:
    """Train a task on this process's images of a batch; the loss and the gradient are for the whole batch.

    Lightning's own accumulation would count steps in parts, and weight the parts of a shorter last batch too much.

    Args:
        task: The `SegmentationTask` whose network, loss and trainer are used.
        batch: This process's images of the batch.
        batch_idx: The number of the batch in the epoch.

    Returns:
        The loss whose gradient must still be computed; the loss of the whole batch; the number of images in the batch.
    """
    if is_whole(task):
        loss: Tensor = task.loss(task(batch.image), batch.mask)
        return loss, loss, len(batch.mask)
    task.optimizers(use_pl_optimizer=False).zero_grad()  # see the task's `optimizer_zero_grad`
    divisor_of_batch = total(divisor(task.loss, batch.mask)).clamp_min(TINY)  # D
    of_this_process = torch.zeros((), device=divisor_of_batch.device)
    pairs = [*zip(*(parts(pixels, task.accumulate) for pixels in batch[:2]), strict=True)]
    for number, (image, mask) in enumerate(pairs, start=1):
        loss = task.loss(task(image), mask) * (divisor(task.loss, mask) / divisor_of_batch)  # L_p * D_p / D
        of_this_process += loss.detach()
        # The gradients of the processes are to be added; DDP takes their mean, the sum divided by world().
        loss = loss * world()
        # Lightning always runs a backward pass on the loss that a step returns, and DDP sends the gradients in that pass.
        # So it gets the last part: the gradients of the parts before it are already there, and the sum is sent once.
        if number < len(pairs):
            # Lightning calls a step under autocast, which PyTorch advises against for a backward pass.
            with torch.autocast(task.device.type, enabled=False):
                task.trainer.strategy.backward(loss, None)
    value = total(of_this_process)  # L
    # The loader knows the size of the whole batch: this process may have a borrowed image.
    images = task.trainer.train_dataloader.sizes[batch_idx] if world() > 1 else len(batch.mask)
    # Its gradient is that of the last part. Its value is the loss of the whole batch, which the callbacks get: the difference
    # that is added has no gradient.
    return loss + (value - loss).detach(), value, images


def parts(pixels: Tensor, number: int) -> list[Tensor]:
    """The images or masks of a batch, (N, ...), cut into at most `number` parts."""
    return [part for part in pixels.tensor_split(number) if len(part)]


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
