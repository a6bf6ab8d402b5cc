"""U-Net with instance norm and padded convolutions (Table 4)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fcnseg.models.layers import Deconv, check_widths, crop_to_size, pad_to_multiple, xavier_init


class DoubleConv(nn.Sequential):
    """3x3 convolution, instance norm and ReLU, twice: (N, in, H, W) -> (N, out, H, W).

    The ReLU is not in place: instance norm returns a view, and autograd would copy it before it is written to.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.InstanceNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.InstanceNorm2d(out_channels),
            nn.ReLU(),
        )


class Up(nn.Module):
    """Doubles the size, halves the channels and joins the encoder's features: (N, C, H, W) -> (N, C/2, 2H, 2W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = Deconv(in_channels, out_channels, 2, stride=2)
        self.conv = DoubleConv(2 * out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        joined: Tensor = self.conv(torch.cat([skip, self.up(x)], dim=1))  # (N, C/2, 2H, 2W)
        return joined


class UNet(nn.Module):
    """U-Net (Table 4), every convolution with stride 1: 31.0 M parameters with 21 classes.

    Args:
        num_classes: The number of channels of the logits.
        widths: The channels of each stage of the encoder, which halve the size in turn; the decoder mirrors them.

    Shape:
        image (N, 3, H, W), normalised float, H and W from 32 up -> logits (N, num_classes, H, W).
    """

    def __init__(self, num_classes: int, *, widths: Sequence[int] = (64, 128, 256, 512, 1024)) -> None:
        super().__init__()
        check_widths(widths)
        self.stride = 2 ** (len(widths) - 1)
        self.stem = DoubleConv(3, widths[0])
        self.encoder = nn.ModuleList([DoubleConv(i, o) for i, o in pairwise(widths)])
        self.decoder = nn.ModuleList([Up(i, o) for i, o in pairwise(reversed(widths))])
        self.classifier = nn.Conv2d(widths[0], num_classes, 1)
        xavier_init(self)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(pad_to_multiple(image, self.stride))  # (N, 64, H, W), padded
        skips: list[Tensor] = []
        for stage in self.encoder:
            skips.append(x)
            x = stage(F.max_pool2d(x, 2))  # (N, 2C, H/2, W/2)
        for stage in self.decoder:
            x = stage(x, skips.pop())  # (N, C/2, 2H, 2W)
        return crop_to_size(self.classifier(x), image)
