"""A training step whose batch is divided: among the devices of a run, and there into parts, one after the other.

The loss of a batch is a sum over its pixels, divided by a divisor such as the number of labelled pixels. Of a part p, the
network gives L_p, a sum over the part's pixels divided by the part's divisor D_p. So the loss of the whole batch is
L = sum of L_p * D_p / D, over all parts of all devices, where D is the sum of the D_p. A sum of losses has a divisor for each.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from fcnseg.data.batch import Batch
from fcnseg.learning.losses import TINY, divisor, summands
from fcnseg.machine.distributed import interleaved, total, world


def is_whole(accumulate: int) -> bool:
    """Whether a batch is not divided: there is one process, and `accumulate`, the parts on every device, is 1."""
    return world() == accumulate == 1


def train_on(
    batch: Batch, accumulate: int, *, net: nn.Module, loss: nn.Module, backward: Callable[[Tensor, None], object]
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


def images_of(batch: Batch, batch_idx: int, module: LightningModule) -> int:
    """The number of images in the whole batch, which the loader knows: a process may have only a borrowed one of them."""
    if world() == 1:
        return len(batch.mask)
    loader: Any = module.trainer.train_dataloader
    return int(loader.sizes[batch_idx])


def parts(pixels: Tensor, accumulate: int) -> list[Tensor]:
    """The images or masks of a batch, (N, ...), cut into at most `accumulate` parts."""
    return [part for part in pixels.tensor_split(accumulate) if len(part)]


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
