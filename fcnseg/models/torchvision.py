"""Torchvision's segmentation networks, such as DeepLabV3, which come with weights for VOC's 21 classes."""

from typing import cast

from torch import Tensor, nn
from torchvision.models import get_model, segmentation

from fcnseg.models.layers import accept_one_value
from fcnseg.models.weights import load, path_of, read, torchvision_network

AUXILIARY = ("aux_classifier",)  # a second head that torchvision trains, and that is left out here


class Torchvision(nn.Module):
    """A segmentation network of torchvision's; its logits are enlarged to the image's size by itself.

    Args:
        num_classes: The number of channels of the logits. If the weights have another, the last layer is new.
        arch: Torchvision's name of the network, such as "deeplabv3_resnet50".
        weights: Torchvision's name of weights ("COCO_WITH_VOC_LABELS_V1"), which are downloaded; or a file with the state
            dict of the whole network; or None for random weights.

    Shape:
        image (N, 3, H, W), normalised float, H and W from 32 up -> logits (N, num_classes, H, W).

    Raises:
        ValueError: The name or the weights are unknown, or the weights are of another network or cannot be downloaded.
    """

    def __init__(self, num_classes: int, *, arch: str, weights: str | None) -> None:
        super().__init__()
        path = path_of(weights)
        known = torchvision_network(arch, None if path else weights, segmentation)
        self.net = get_model(arch, weights_backbone=None, num_classes=num_classes)
        accept_one_value(self.net)
        if weights:
            state = read(path) if path else known.state_dict()
            load(self.net, state, weights, without=AUXILIARY, classes=num_classes)

    @property
    def backbone(self) -> nn.Module:
        """The part that has pretrained weights of its own."""
        return cast(nn.Module, self.net.backbone)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.net(image)["out"]
        return logits
