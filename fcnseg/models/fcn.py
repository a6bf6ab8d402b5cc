"""The baseline: five strided convolutions down, five transposed convolutions up (Table 1)."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from fcnseg.models.layers import ConvBlock, DeconvBlock, check_widths, crop_to_size, pad_to_multiple, xavier_init


class FCN(nn.Module):
    """The paper's baseline FCN (Table 1): 5.50 M parameters with 21 classes.

    Args:
        num_classes: The number of channels of the logits.
        widths: The channels of each stage of the encoder, which halve the size in turn; the decoder mirrors them.

    Shape:
        image (N, 3, H, W), normalised float, H and W from 32 up -> logits (N, num_classes, H, W).
    """

    def __init__(self, num_classes: int, *, widths: Sequence[int] = (32, 64, 128, 256, 512)) -> None:
        super().__init__()
        check_widths(widths)
        self.stride = 2 ** len(widths)
        down = (3, *widths)
        up = (widths[-1], *reversed(widths))
        self.encoder = nn.Sequential(*[ConvBlock(i, o, stride=2) for i, o in pairwise(down)])
        self.decoder = nn.Sequential(*[DeconvBlock(i, o, stride=2) for i, o in pairwise(up)])
        self.classifier = nn.Conv2d(widths[0], num_classes, 1)
        xavier_init(self)

    def forward(self, image: Tensor) -> Tensor:
        x = self.encoder(pad_to_multiple(image, self.stride))  # (N, 512, H/32, W/32)
        x = self.decoder(x)  # (N, 32, H, W), still padded
        return crop_to_size(self.classifier(x), image)
