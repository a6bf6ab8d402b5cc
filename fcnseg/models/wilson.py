"""Wilson's model: a deeper encoder with max pooling, undone in the decoder by unpooling and additive skips (Table 2)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fcnseg.models.layers import ConvBlock, DeconvBlock, check_widths, crop_to_size, pad_to_multiple, xavier_init


def max_unpool(pooled: Tensor, indices: Tensor) -> Tensor:
    """Undo `max_pool2d(x, 2, return_indices=True)`: every maximum returns to its place, with zeros elsewhere.

    It computes `nn.MaxUnpool2d(2)`, which works neither in deterministic mode nor with the exporters. A scatter works with
    both: the windows do not overlap, so that no place is written twice. Scattering whole pixels keeps channels_last.

    Shape:
        pooled, indices (N, C, H, W) -> (N, C, 2H, 2W), in channels_last memory.
    """
    n, c, h, w = pooled.shape
    if torch.compiler.is_exporting():  # where h and w are unknown, whole pixels would need to know whether they are 1
        flat = pooled.new_zeros(n, c, 4 * h * w).scatter(2, indices.flatten(2), pooled.flatten(2))  # (N, C, 4*H*W)
        return flat.view(n, c, 2 * h, 2 * w)  # (N, C, 2H, 2W)
    values = pooled.permute(0, 2, 3, 1).reshape(n, h * w, c)  # (N, H*W, C)
    places = indices.permute(0, 2, 3, 1).reshape(n, h * w, c)  # (N, H*W, C), each in 0..2H*2W-1
    unpooled = values.new_zeros(n, 4 * h * w, c).scatter_(1, places, values)  # (N, 4*H*W, C)
    return unpooled.view(n, 2 * h, 2 * w, c).permute(0, 3, 1, 2)  # (N, C, 2H, 2W)


class Wilson(nn.Module):
    """Wilson's model (Table 2): 12.6 M parameters with 21 classes.

    Every convolution has stride 1, and a pool follows each from the second to the sixth: the printed strides of 2 would
    leave nothing to pool. Table 2 has no channels for a concatenation, so a skip is added: each deconvolution gives its sum
    with the encoder's stage of its size.

    Args:
        num_classes: The number of channels of the logits.
        widths: The channels of each stage of the encoder; all but the first end in a 2x2 max pool.

    Shape:
        image (N, 3, H, W), normalised float, H and W from 32 up -> logits (N, num_classes, H, W).
    """

    def __init__(self, num_classes: int, *, widths: Sequence[int] = (32, 64, 128, 256, 512, 1024)) -> None:
        super().__init__()
        check_widths(widths)
        self.stride = 2 ** (len(widths) - 1)
        self.stem = ConvBlock(3, widths[0], stride=1)
        self.encoder = nn.ModuleList([ConvBlock(i, o, stride=1) for i, o in pairwise(widths)])
        self.decoder = nn.ModuleList([DeconvBlock(i, o, stride=1) for i, o in pairwise(reversed(widths))])
        self.head = DeconvBlock(widths[0], widths[0], stride=1)
        self.classifier = nn.Conv2d(widths[0], num_classes, 1)
        xavier_init(self)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(pad_to_multiple(image, self.stride))  # (N, 32, H, W), padded
        undo: list[tuple[Tensor, Tensor]] = []
        for stage in self.encoder:
            skip = x
            x, indices = F.max_pool2d(stage(x), 2, return_indices=True)  # (N, 2C, H/2, W/2)
            undo.append((skip, indices))
        for stage, (skip, indices) in zip(self.decoder, reversed(undo), strict=True):
            x = stage(max_unpool(x, indices)) + skip  # (N, C/2, 2H, 2W)
        return crop_to_size(self.classifier(self.head(x)), image)
