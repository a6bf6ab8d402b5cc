"""Pretrained backbones: torchvision's classification networks, cut off after their last feature map."""

from collections import OrderedDict
from collections.abc import Iterator
from itertools import takewhile

import torch
from torch import nn

from fcnseg.models.layers import accept_one_value, xavier_init
from fcnseg.models.weights import load, path_of, read, torchvision_network

STRIDE = 32  # of the last feature map
HEADS = ("avgpool", "classifier", "fc", "head", "heads", "flatten")  # torchvision's names for what follows the features


class OnBackbone(nn.Module):
    """A network on a backbone, which is its first part.

    Args:
        backbone: The name of a torchvision classification model with a last feature map of stride 32.
        weights: The weights of the backbone: torchvision's name for them, a file, or None (see `make_backbone`).
        freeze: Whether the backbone keeps its weights, and its batch norms their statistics.

    Attributes:
        pyramid: The feature maps of the backbone: see `pyramid`.
    """

    def __init__(self, backbone: str, weights: str | None, freeze: bool) -> None:
        super().__init__()
        self.freeze = freeze
        self.backbone = make_backbone(backbone, weights)
        if weights is None:
            xavier_init(self.backbone)
        self.pyramid = pyramid(self.backbone.eval(), backbone)
        self.backbone.requires_grad_(not freeze).train(not freeze)  # Lightning keeps the mode that it finds

    def train(self, mode: bool = True) -> "OnBackbone":
        """Set the training mode, in which the batch norms of a frozen backbone stay as they are."""
        super().train(mode)
        if self.freeze:
            self.backbone.eval()
        return self


def make_backbone(name: str, weights: str | None) -> nn.Sequential:
    """Make torchvision's network `name` up to its last feature map; its keys are named as torchvision names them.

    Args:
        name: The name of a torchvision classification model whose last feature map is 1/32 of the image.
        weights: One of torchvision's names for weights ("DEFAULT", "IMAGENET1K_V1", ...), which are downloaded; or a file
            with the state dict of the network, in any float type; or None for random weights.

    Raises:
        ValueError: The name or the weights are unknown, or the weights are of another network or cannot be downloaded.
    """
    path = path_of(weights)
    children = torchvision_network(name, None if path else weights).named_children()
    features = nn.Sequential(OrderedDict(takewhile(lambda child: child[0] not in HEADS, children)))
    if path:
        load(features, read(path), path, without=HEADS)
    accept_one_value(features)
    return features


def layers_of(backbone: nn.Module) -> Iterator[nn.Module]:
    """The layers of a backbone in their order; a sequence of layers inside it gives its own layers."""
    for child in backbone.children():
        if type(child).forward is nn.Sequential.forward:
            yield from layers_of(child)
        else:
            yield child


def pyramid(backbone: nn.Module, name: str) -> dict[int, tuple[int, int]]:
    """The feature maps of a backbone in evaluation mode, found by trying an image of 64 pixels.

    Returns:
        By stride, in rising order: the place among `layers_of` of the last layer that gives a map of this stride, and the
        channels of this map. The last layer of all has stride 32.

    Raises:
        ValueError: The backbone `name` has no last feature map of stride 32.
    """
    found = {}
    x = torch.zeros(1, 3, 2 * STRIDE, 2 * STRIDE)
    try:
        with torch.no_grad():
            for place, layer in enumerate(layers_of(backbone)):
                x = layer(x)  # (1, C, H, W)
                height, width = x.shape[2:]
                if height == width and 2 * STRIDE % height == 0:
                    found[2 * STRIDE // height] = (place, x.shape[1])
    except Exception as error:
        raise ValueError(
            f"model.backbone={name} has no feature map to decode ({error}): choose resnet34 or another CNN"
        ) from error
    if x.shape[2:] != (2, 2):
        wanted = "wanted (C, 2, 2), stride 32: choose resnet34"
        raise ValueError(f"model.backbone={name} gives a map {tuple(x.shape[1:])} of 64x64, {wanted}")
    return found
