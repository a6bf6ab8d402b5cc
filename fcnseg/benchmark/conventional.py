"""What people write: torchvision's VOCSegmentation, a transform a sample, a DataLoader, and a stock Lightning module."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from lightning import LightningModule
from PIL import Image
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Sampler
from torchmetrics.classification import MulticlassJaccardIndex
from torchvision.datasets import VOCSegmentation
from torchvision.transforms import InterpolationMode, v2

from fcnseg.data.augment import Flip
from fcnseg.data.module import VOCDataModule
from fcnseg.data.voc import MEAN, NUM_CLASSES, STD, VOID


class Sample:
    """One image and its mask, resized, flipped and normalised as tensors.

    Args:
        size: Height and width in pixels.
        flips: Probabilities of a horizontal and a vertical flip.
    """

    def __init__(self, size: int, flips: Sequence[float]) -> None:
        to_float = v2.ToDtype(torch.float32, scale=True)
        self.flip = v2.Compose([v2.RandomHorizontalFlip(flips[0]), v2.RandomVerticalFlip(flips[1])])
        self.image = v2.Compose([v2.Resize((size, size)), v2.ToImage(), to_float, v2.Normalize(MEAN, STD)])
        self.mask = v2.Compose([v2.Resize((size, size), InterpolationMode.NEAREST), v2.PILToTensor()])

    def __call__(self, image: Image.Image, mask: Image.Image) -> tuple[Tensor, Tensor]:
        """(3, S, S) float32 and (S, S) int64."""
        image, mask = self.flip(image, mask)
        return self.image(image), self.mask(mask)[0].long()


class SameOrder(Sampler[int]):
    """The samples in the order that this package's loader has them in, epoch after epoch.

    Args:
        data: Whose train split.
    """

    def __init__(self, data: VOCDataModule) -> None:
        self.loader, self.epoch = data.train_dataloader(), 0

    def __iter__(self) -> Iterator[int]:
        self.epoch += 1
        return iter(self.loader.order(self.epoch - 1).tolist())

    def __len__(self) -> int:
        return len(self.loader.samples)


def image_loader(data: VOCDataModule, device: torch.device, *, persistent: bool = False) -> DataLoader[Any]:
    """The images of `data`'s train split, decoded anew for every batch by a worker on every core.

    Raises:
        ValueError: they are not where torchvision looks for VOC.
    """
    folder = data.source(data.root).path
    if folder.parts[-2:] != ("VOCdevkit", "VOC2012"):
        raise ValueError(f"data.root={data.root} has VOC in {folder}; torchvision wants it in VOCdevkit/VOC2012")
    flips = [p for _, p in data.augment.flips] if isinstance(data.augment, Flip) else [0, 0]
    dataset = VOCSegmentation(folder.parent.parent, image_set="train", transforms=Sample(data.size, flips))
    return DataLoader(
        dataset,
        data.batch_size,
        sampler=SameOrder(data),
        num_workers=len(os.sched_getaffinity(0)),
        pin_memory=device.type == "cuda",
        persistent_workers=persistent,
        multiprocessing_context="fork",  # Linux's default, which a process of the fork server has lost
    )


def of_stock_layers(net: nn.Module) -> nn.Module:
    """The same network with torch's own transposed convolutions, whatever this package does about theirs."""
    for module in net.modules():
        if isinstance(module, nn.ConvTranspose2d):
            module.__class__ = nn.ConvTranspose2d
    return net.to(memory_format=torch.contiguous_format)


def cross_entropy(weight: Tensor | None) -> nn.Module:
    """torch's, of logits (N, C, H, W) and labels (N, H, W)."""
    return nn.CrossEntropyLoss(weight, ignore_index=VOID)


class StockModule(LightningModule):
    """A Lightning module as tutorials have it.

    Args:
        net: The network.
        criterion: The loss.
        optimizer: Makes the optimiser.
    """

    def __init__(self, net: nn.Module, criterion: nn.Module, optimizer: Callable[[Any], Optimizer]) -> None:
        super().__init__()
        self.net, self.criterion, self.make_optimizer = net, criterion, optimizer
        self.train_iou = MulticlassJaccardIndex(NUM_CLASSES, ignore_index=VOID)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss, logged beside the IoU."""
        image, mask = batch
        logits = self.net(image)
        loss: Tensor = self.criterion(logits, mask)
        self.train_iou(logits, mask)
        self.log("train_loss", loss, prog_bar=True)
        self.log("train_iou", self.train_iou, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Optimizer:
        """The optimiser."""
        return self.make_optimizer(self.net.parameters())
