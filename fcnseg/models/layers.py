"""The layers and blocks that several networks share."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that normalises by its running statistics where a channel has only one value.

    In training, torch's own refuses one image whose map has one pixel: the variance of one value is zero.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:  # by default, `F.batch_norm` takes the running statistics
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def accept_one_value(net: nn.Module) -> None:
    """Turn every batch norm of a library's network into a `BatchNorm`; its weights and their names stay."""
    for module in net.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = BatchNorm  # a new module would have to take over weights, statistics and hooks


class ConvBlock(nn.Sequential):
    """3x3 convolution, ReLU, batch norm, in the order of Table 1: (N, in, H, W) -> (N, out, H/stride, W/stride)."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, stride, padding=1),
            nn.ReLU(inplace=True),
            BatchNorm(out_channels),
        )


class Deconv(nn.ConvTranspose2d):
    """A transposed convolution whose bias is added apart: (N, in, H, W) -> (N, out, stride*H, stride*W).

    It computes `nn.ConvTranspose2d`; but on the CPU, oneDNN's gradient of the bias takes as long as the rest of the
    backward pass.
    """

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        assert self.bias is not None
        assert not isinstance(self.padding, str)  # only convolutions that are not transposed pad by name
        x = F.conv_transpose2d(x, self.weight, None, self.stride, self.padding, self.output_padding)
        return x.add_(self.bias.to(x.dtype)[:, None, None])


class DeconvBlock(nn.Sequential):
    """3x3 transposed convolution, ReLU, batch norm: (N, in, H, W) -> (N, out, stride*H, stride*W).

    The output padding, which Table 1 leaves out, is what makes stride 2 double the size exactly.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__(
            Deconv(in_channels, out_channels, 3, stride, padding=1, output_padding=stride - 1),
            nn.ReLU(inplace=True),
            BatchNorm(out_channels),
        )


def check_widths(widths: Sequence[int]) -> None:
    """Refuse `widths` that are no channels of stages.

    Raises:
        ValueError: There is no stage, or one has no channels.
    """
    if not widths or min(widths) < 1:
        raise ValueError(f"widths={list(widths)}: wanted the channels of every stage, whole numbers from 1 up")


def xavier_init(net: nn.Module) -> None:
    """Draw every (transposed) convolution of `net` from Xavier's uniform distribution, with zero biases (section 1)."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def pad_to_multiple(image: Tensor, stride: int) -> Tensor:
    """(N, C, H, W) with zeros below and to the right, so that `stride` divides both sides."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % stride, 0, -height % stride))


def crop_to_size(logits: Tensor, image: Tensor) -> Tensor:
    """The logits of a padded image, (N, C, H + pad, W + pad), at the size of the image itself: (N, C, H, W)."""
    return logits[..., : image.shape[-2], : image.shape[-1]]


def memory_format(net: nn.Module) -> torch.memory_format:
    """Channels last, which convolutions are fastest in, unless instance norm would undo it at every layer."""
    instance_norm = any(isinstance(module, nn.InstanceNorm2d) for module in net.modules())
    return torch.contiguous_format if instance_norm else torch.channels_last
