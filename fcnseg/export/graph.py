"""The graph that is exported: a network that takes photographs as other programs have them, and gives labels."""

import torch
from torch import Tensor, nn

from fcnseg.data.dataset import MEAN, STD


class Graph(nn.Module):
    """A network with the normalisation before it and the choice of the class behind it.

    Args:
        net: The network, in evaluation mode: normalised images to logits.
        raw: Whether the graph gives only the logits.

    Shape:
        image (N, 3, H, W), uint8 RGB, H and W from 32 up -> labels (N, H, W), uint8, and their scores (N, H, W), which are
        the softmax of the logits at the label; or, if raw, logits (N, C, H, W).
    """

    mean: Tensor  # (3, 1, 1), as `std`
    std: Tensor

    def __init__(self, net: nn.Module, *, raw: bool) -> None:
        super().__init__()
        self.net, self.raw = net, raw
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values).mul_(255)[:, None, None])
        self.eval()

    def logits(self, image: Tensor) -> Tensor:
        """The logits (N, C, H, W); the same as after `data.batch.normalize`, whose form is for images of one known width."""
        logits: Tensor = self.net((image.float() - self.mean) / self.std)
        return logits

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Labels and scores, or logits."""
        logits = self.logits(image)
        if self.raw:
            return logits
        return logits.argmax(1).to(torch.uint8), logits.softmax(1).amax(1)
