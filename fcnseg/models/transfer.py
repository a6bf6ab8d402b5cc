"""Transfer learning: a pretrained backbone, and a decoder on its last feature map (Table 3)."""

from itertools import pairwise

from torch import Tensor, nn

from fcnseg.models.backbones import STRIDE, OnBackbone
from fcnseg.models.layers import DeconvBlock, crop_to_size, pad_to_multiple, xavier_init


class Transfer(OnBackbone):
    """A pretrained encoder with five deconvolutions (Table 3): 22.9 M parameters with resnet34 and 21 classes.

    Args:
        num_classes: The number of channels of the logits.
        backbone, weights, freeze: The pretrained part: see `OnBackbone`. The paper fine-tunes: freeze is false.

    Shape:
        image (N, 3, H, W), normalised float, H and W from 32 up -> logits (N, num_classes, H, W).
    """

    def __init__(self, num_classes: int, *, backbone: str, weights: str | None, freeze: bool = False) -> None:
        super().__init__(backbone, weights, freeze)
        _, channels = self.pyramid[STRIDE]
        up = (channels, 256, 128, 64, 32, 16)
        self.decoder = nn.Sequential(*[DeconvBlock(i, o, stride=2) for i, o in pairwise(up)])
        self.classifier = nn.Conv2d(up[-1], num_classes, 1)
        xavier_init(nn.ModuleList([self.decoder, self.classifier]))

    def forward(self, image: Tensor) -> Tensor:
        x = self.backbone(pad_to_multiple(image, STRIDE))  # (N, 512, H/32, W/32) with resnet34
        x = self.decoder(x)  # (N, 16, H, W), padded
        return crop_to_size(self.classifier(x), image)
