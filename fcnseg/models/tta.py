"""Test-time augmentation: a network looks at an image several times, and its probabilities are averaged."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fcnseg.data import MIN_SIZE

VIEWS = ("none", "flip", "multiscale")
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # the scales of the public recipes on VOC


class Averaged(nn.Module):
    """A trained network, and the views of an image whose probabilities are averaged.

    Args:
        net: The network: (N, 3, H, W) images to (N, C, H, W) logits.
        tta: `flip`: the image and its mirror image, mirrored back; `multiscale`: both at six scales, 0.5 to 1.75.
    """

    def __init__(self, net: nn.Module, tta: str) -> None:
        super().__init__()
        self.net, self.scales = net, SCALES if tta == "multiscale" else (1.0,)

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
    if tta not in VIEWS:
        raise ValueError(f"tta={tta}: wanted one of {', '.join(VIEWS)}")
    return net if tta == "none" else Averaged(net, tta)
