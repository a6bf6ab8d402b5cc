"""The usual code: torchvision's VOCSegmentation, transforms of each sample, a DataLoader, a stock Lightning module."""

from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassJaccardIndex
from torchvision.datasets import VOCSegmentation
from torchvision.transforms import InterpolationMode, v2

from fcnseg.data import sides
from fcnseg.data.dataset import MEAN, STD, VOID
from fcnseg.data.module import VOCDataModule
from fcnseg.data.voc import NUM_CLASSES
from fcnseg.machine.limits import cores
from fcnseg.task import SegmentationTask


def image_loader(data: VOCDataModule, device: torch.device) -> DataLoader[Any]:
    """A loader of `data`'s train split in the order of its first epoch, with a worker that decodes on every core.

    Its images are (N, 3, S, S) float32 and normalised, its masks (N, S, S) int64.

    Raises:
        ValueError: The images are not where torchvision looks for VOC.
    """
    found = data.source(data.root)
    folder, place = found.path, {name: index for index, name in enumerate(found.ids("train"))}
    if folder.parts[-2:] != ("VOCdevkit", "VOC2012"):
        raise ValueError(f"data.root={data.root} has VOC in {folder}; torchvision wants it in VOCdevkit/VOC2012")
    size, to_float = sides(data.size), v2.ToDtype(torch.float32, scale=True)
    image = v2.Compose([v2.Resize(size), v2.ToImage(), to_float, v2.Normalize(MEAN, STD)])
    mask = v2.Compose([v2.Resize(size, InterpolationMode.NEAREST), v2.PILToTensor(), lambda mask: mask[0].long()])
    return DataLoader(
        VOCSegmentation(folder.parent.parent, image_set="train", transform=image, target_transform=mask),
        data.batch_size,
        sampler=[place[name] for name in data.names("train", data.train_dataloader().order(0))],
        num_workers=cores(),
        pin_memory=device.type == "cuda",
        persistent_workers=True,
        multiprocessing_context="fork",  # Linux's default, but not that of a process of the fork server
    )


def of_stock_layers(net: nn.Module) -> nn.Module:
    """The same network with torch's own transposed convolutions in place of this package's."""
    for module in net.modules():
        if isinstance(module, nn.ConvTranspose2d):
            module.__class__ = nn.ConvTranspose2d
    return net.to(memory_format=torch.contiguous_format)


class StockModule(LightningModule):
    """A Lightning module as in tutorials.

    Args:
        task: The network, which is changed; the loss and the optimiser, which torch's own replace.
    """

    def __init__(self, task: SegmentationTask) -> None:
        super().__init__()
        loss: Any = task.loss
        self.net = of_stock_layers(task.net)
        self.criterion = nn.CrossEntropyLoss(loss.weight if loss.weighted else None, ignore_index=VOID)
        optimizer: Any = task.optimizer
        self.optimizer = optimizer.keywords["make"]  # it is a partial of one of torch's classes
        self.train_iou = MulticlassJaccardIndex(NUM_CLASSES, ignore_index=VOID)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Compute the loss, and log it beside the IoU."""
        image, mask = batch
        logits = self.net(image)
        loss: Tensor = self.criterion(logits, mask)
        self.train_iou(logits, mask)
        self.log("train_loss", loss, prog_bar=True)
        self.log("train_iou", self.train_iou, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Optimizer:
        """Make the optimiser, with torch's defaults except for the learning rate."""
        optimizer: Optimizer = self.optimizer.func(self.net.parameters(), lr=self.optimizer.keywords["lr"])
        return optimizer
