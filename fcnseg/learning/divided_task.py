"""The training of a network whose batches are divided: among the devices of a run, and there into parts, one after the other.

The loss of a batch is a sum over its pixels, divided by a divisor such as the number of labelled pixels. Of a part p, the
network gives L_p, a sum over the part's pixels divided by the part's divisor D_p. So the loss of the whole batch is
L = sum of L_p * D_p / D, over all parts of all devices, where D is the sum of the D_p. A sum of losses has a divisor for each.
"""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.utilities.types import LRSchedulerConfigType
from torch import Tensor, nn
from torch.optim import Optimizer

from fcnseg.data.batch import Batch
from fcnseg.data.dataset import Classes
from fcnseg.learning.losses import TINY, divisor, summands
from fcnseg.learning.task import SegmentationTask
from fcnseg.machine.distributed import interleaved, same_buffers, total, world


class DividedTask(SegmentationTask):
    """A task with the numbers of whole batches, though no device computes one at once.

    Args:
        net: The network: (N, 3, H, W) images to (N, num_classes, H, W) logits.
        loss: The loss, and the next four arguments: as those of `SegmentationTask`.
        optimizer: A function that makes the optimiser of the network's parameters.
        schedule: A function that makes the schedule from the optimiser, the epochs of the run and the steps of an epoch.
        classes: The classes of the masks.
        memory_format: The memory format that the weights and the images are converted to.
        accumulate: The number of parts in which a device's images go through the network, to save memory.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        loss: nn.Module,
        optimizer: Callable[[nn.Module], Optimizer],
        schedule: Callable[[Optimizer, int, int], LRSchedulerConfigType],
        classes: Classes,
        memory_format: torch.memory_format,
        accumulate: int,
    ) -> None:
        super().__init__(net, loss=loss, optimizer=optimizer, schedule=schedule, classes=classes, memory_format=memory_format)
        self.accumulate = accumulate

    def forward(self, image: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) to logits (N, num_classes, H, W), one part after the other."""
        found = [*map(super().forward, parts(image, self.accumulate))]
        return torch.cat(found) if len(found) > 1 else found[0]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch, whose gradient is that of its last part: those of the others are added here."""
        self.trainer.optimizers[0].zero_grad()  # see `optimizer_zero_grad`
        backward = self.trainer.strategy.backward
        loss, value = train_on(batch, self.accumulate, net=super().forward, loss=self.loss, backward=backward)
        self.losses["train/loss"].add(value, self.images_of(batch, batch_idx))
        return loss

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Do nothing: the step has zeroed the gradients, and they hold those of the earlier parts."""

    def images_of(self, batch: Batch, batch_idx: int) -> int:
        """The number of images in the whole batch, which the loader knows: a process may have only a borrowed one of them."""
        if world() == 1:
            return len(batch.mask)
        loader: Any = self.trainer.train_dataloader
        return int(loader.sizes[batch_idx])

    def on_validation_start(self) -> None:
        """Start from nothing, and with the same network in all processes."""
        same_buffers(self.net)
        super().on_validation_start()

    def _log_scores(self, stage: str) -> None:
        """Bring the findings of all processes, lists with an item for every batch, into the order of one process."""
        if world() > 1:
            mean = self.losses[f"{stage}/loss"]
            lists: list[list[Any]] = [*self.metrics[stage].findings(), self.finite[stage], mean.values, mean.counts]
            on_cpu = [[item.cpu() if isinstance(item, Tensor) else item for item in items] for items in lists]
            loader: Any = getattr(self.trainer, f"{stage}_dataloaders")
            batches = interleaved(zip(*on_cpu, strict=True))[: len(loader.sizes)]  # some batches occur twice
            for items, whole in zip(lists, zip(*batches, strict=True), strict=True):
                items[:] = whole
        super()._log_scores(stage)


def train_on(
    batch: Batch,
    accumulate: int,
    *,
    net: Callable[[Tensor], Tensor],
    loss: nn.Module,
    backward: Callable[[Tensor, None], object],
) -> tuple[Tensor, Tensor]:
    """Train a network on this process's images of a batch; the loss and the gradient are for the whole batch.

    Lightning's own accumulation would count steps in parts, and weight the parts of a shorter last batch too much.

    Args:
        batch: This process's images of the batch.
        accumulate: The number of parts on this device.
        net: The network: images to logits.
        loss: The loss: logits and mask to a scalar.
        backward: Lightning's function that adds the gradient of a loss.

    Returns:
        The loss whose gradient must still be added, with the value of the loss of the whole batch; and that value.
    """
    losses = [(weight, each, total(divisor(each, batch.mask)).clamp_min(TINY)) for weight, each in summands(loss)]  # with D
    of_this_process = torch.zeros((), device=batch.mask.device)
    pairs = [*zip(*(parts(pixels, accumulate) for pixels in batch[:2]), strict=True)]
    for place, (image, mask) in enumerate(pairs, start=1):
        logits = net(image)
        # weight * L_p * D_p / D
        counted = [each(logits, mask) * (divisor(each, mask) / of_batch) * weight for weight, each, of_batch in losses]
        of_part = torch.stack(counted).sum()
        of_this_process += of_part.detach()
        # The gradients of the processes are to be added; DDP takes their mean, the sum divided by world().
        of_part = of_part * world()
        # Lightning always runs a backward pass on the loss that a step returns, and DDP sends the gradients in that pass.
        # So it gets the last part: the gradients of the parts before it are already there, and the sum is sent once.
        if place < len(pairs):
            # Lightning calls a step under autocast, which PyTorch advises against for a backward pass.
            with torch.autocast(of_part.device.type, enabled=False):
                backward(of_part, None)
    value = total(of_this_process)  # L
    # Its gradient is that of the last part. The callbacks get its value: the difference that is added has no gradient.
    return of_part + (value - of_part).detach(), value


def parts(pixels: Tensor, accumulate: int) -> list[Tensor]:
    """The images or masks of a batch, (N, ...), cut into at most `accumulate` parts."""
    return [part for part in pixels.tensor_split(accumulate) if len(part)]
