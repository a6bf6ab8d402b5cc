"""The networks of segmentation_models_pytorch: twelve decoders on hundreds of encoders, an extra to install."""

from contextlib import suppress
from typing import cast

import torch
from torch import Tensor, nn

from fcnseg.models.backbones import HEADS, STRIDE
from fcnseg.models.layers import accept_one_value, crop_to_size, pad_to_multiple
from fcnseg.models.weights import load, path_of, read, without_code


class SMP(nn.Module):
    """A network of segmentation_models_pytorch.

    Args:
        num_classes: The number of channels of the logits. If the weights have another, the last layer is new.
        arch: The library's name of the network, such as "Unet".
        encoder: The library's name of the encoder: "mobilenet_v2", or "tu-" before one of timm's, such as "tu-convnext_tiny".
        weights: The library's name of weights for the encoder ("imagenet"), which are downloaded; or a file with the state
            dict of the encoder or of the whole network; or None for random weights.

    Shape:
        image (N, 3, H, W), normalised float, H and W from 32 up -> logits (N, num_classes, H, W).

    Raises:
        ValueError: The library is not installed or has no such network, or the weights cannot be loaded.
    """

    def __init__(self, num_classes: int, *, arch: str, encoder: str, weights: str | None) -> None:
        super().__init__()
        path = path_of(weights)
        more = {"dynamic_img_size": True} if arch.lower() == "dpt" else {}  # all others take any size anyway
        try:
            from segmentation_models_pytorch import create_model

            with without_code():
                self.net = create_model(arch, encoder, None if path else weights, classes=num_classes, **more)
            accept_one_value(self.net)
            self.multiple = self._least_side()  # most need 32, PAN 128
        except ModuleNotFoundError as error:
            raise ValueError(f'model=smp needs a package that is not installed ({error}): pip install ".[smp]"') from error
        except Exception as error:  # an unknown name or weights that cannot be downloaded: any error at all
            if torch.get_default_device().type == "meta":
                raise  # some encoders cannot be made without memory
            asked = f"model.arch={arch} model.encoder={encoder} model.weights={weights}"
            raise ValueError(f"segmentation_models_pytorch cannot make {asked}: {error}") from error
        if path:  # with the state dict of the whole network, or of the encoder
            state = read(path)
            part = self.net if any(key.startswith("encoder.") for key in state) else self.net.encoder
            load(part, state, path, without=HEADS, classes=num_classes)

    @property
    def backbone(self) -> nn.Module:
        """The part that has pretrained weights."""
        return cast(nn.Module, self.net.encoder)

    def _least_side(self) -> int:
        """The side of the smallest image that the network takes, found by trying; it also takes multiples of this side.

        Raises:
            ValueError: The network takes none of the tried sizes.
        """
        self.net.eval()
        for side in (STRIDE, 2 * STRIDE, 4 * STRIDE):
            with suppress(RuntimeError), torch.no_grad():
                self.net(torch.zeros(1, 3, side, side))
                self.net.train()
                return side
        raise ValueError(f"it takes no image of {STRIDE}, {2 * STRIDE} or {4 * STRIDE} pixels: choose another encoder")

    def forward(self, image: Tensor) -> Tensor:
        return crop_to_size(self.net(pad_to_multiple(image, self.multiple)), image)
