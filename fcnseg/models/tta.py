"""Test-time augmentation: a network looks at an image several times, and its probabilities are averaged."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fcnseg.data.settings import MIN_SIZE
from fcnseg.errors import check_choice

# The scales of the images that each choice of `tta` averages over; multiscale has those of the public recipes on VOC.
SCALES = {"none": (), "flip": (1.0,), "multiscale": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)}


class Averaged(nn.Module):
    """A trained network, and the views of an image whose probabilities are averaged.

    Args:
        net: The network: (N, 3, H, W) images to (N, C, H, W) logits.
        scales: The factors of the image's size; at each, the network sees the image, and its mirror image mirrored back.
    """

    def __init__(self, net: nn.Module, scales: Sequence[float]) -> None:
        super().__init__()
        self.net, self.scales = net, scales

    def forward(self, image: Tensor) -> Tensor:
        """The logarithm of the mean probabilities, which are logits again: their softmax is the mean."""
        height, width = image.shape[-2:]
        total = torch.zeros((), device=image.device)
        for scale in self.scales:
            sides = [max(MIN_SIZE, round(side * scale)) for side in (height, width)]
            scaled = image if scale == 1 else F.interpolate(image, sides, mode="bilinear", antialias=True)
            for view in (scaled, scaled.flip(-1)):  # (N, 3, h, w)
                logits = self.net(view) if view is scaled else self.net(view).flip(-1)  # (N, C, h, w)
                total = total + F.interpolate(logits.float(), (height, width), mode="bilinear").softmax(1)  # (N, C, H, W)
        mean = total / (2 * len(self.scales))
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).log()


def averaged(net: nn.Module, tta: str) -> nn.Module:
    """The network, averaged over the views of `tta`; the network itself if `tta` is `none`.

    Raises:
        ValueError: There are no such views.
    """
    check_choice("tta", tta, SCALES)
    return Averaged(net, SCALES[tta]) if SCALES[tta] else net
