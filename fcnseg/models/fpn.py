"""A feature pyramid network: a decoder on all feature maps of a pretrained backbone."""

from torch import Tensor, nn
from torch.nn import functional as F

from fcnseg.errors import check_whole_number
from fcnseg.models.backbones import STRIDE, OnBackbone, layers_of
from fcnseg.models.layers import ConvBlock, crop_to_size, pad_to_multiple, xavier_init

FINEST = 4  # the stride of the finest map that is decoded


class FPN(OnBackbone):
    """A feature pyramid network (Lin et al., arXiv 1612.03144): 22.0 M parameters with resnet34 and 21 classes.

    From the coarsest map to the finest, each is enlarged, added to the next, and convolved. The logits of the finest, at a
    quarter of the image's size, are enlarged to the image.

    Args:
        num_classes: The number of channels of the logits.
        backbone, weights, freeze: The pretrained part: see `OnBackbone`.
        width: The channels of every map of the decoder.
        input_scale: The images are enlarged by this factor for the network: pretrained weights know objects at the size
            that they have in photographs of 224 px, and see next to nothing in images of 96 px.

    Shape:
        image (N, 3, H, W), normalised float, H and W from 32 up -> logits (N, num_classes, H, W).
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str,
        weights: str | None,
        freeze: bool = False,
        width: int = 128,
        input_scale: int = 1,
    ) -> None:
        super().__init__(backbone, weights, freeze)
        check_whole_number("width", width, 1)
        check_whole_number("input_scale", input_scale, 1)
        self.input_scale = input_scale
        taken = [found for stride, found in self.pyramid.items() if stride >= FINEST]
        self.places = [place for place, _ in taken]
        self.laterals = nn.ModuleList([nn.Conv2d(channels, width, 1) for _, channels in reversed(taken)])
        self.blocks = nn.ModuleList([ConvBlock(width, width, stride=1) for _ in taken])
        self.classifier = nn.Conv2d(width, num_classes, 1)
        xavier_init(nn.ModuleList([self.laterals, self.blocks, self.classifier]))

    def forward(self, image: Tensor) -> Tensor:
        x = padded = pad_to_multiple(image, STRIDE)
        if self.input_scale > 1:
            x = F.interpolate(x, scale_factor=self.input_scale, mode="bilinear")  # (N, 3, sH, sW)
        maps: list[Tensor] = []
        for place, layer in enumerate(layers_of(self.backbone)):
            x = layer(x)
            if place in self.places:
                maps.append(x)  # (N, C, H/4, W/4), then 1/8, 1/16, 1/32
        x = self.blocks[0](self.laterals[0](maps.pop()))  # (N, width, H/32, W/32)
        for lateral, block in zip(self.laterals[1:], self.blocks[1:], strict=True):
            finer = lateral(maps.pop())  # (N, width, h, w)
            x = block(finer + F.interpolate(x, size=finer.shape[-2:]))  # (N, width, h, w)
        logits = F.interpolate(self.classifier(x), size=padded.shape[-2:], mode="bilinear")  # (N, C, H, W), padded
        return crop_to_size(logits, image)
