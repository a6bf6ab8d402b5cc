"""Transfer learning: a torchvision classification backbone, and Table 3's decoder on its last feature map."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from pickle import UnpicklingError
from typing import cast

import torch
from torch import Tensor, nn
from torchvision import models

from fcnseg.models.layers import DeconvBlock, pad_to_multiple, xavier_init

STRIDE = 32  # five deconvolutions of stride 2
HEADS = ("avgpool", "classifier", "fc", "head", "heads", "flatten")  # torchvision's names for what follows the features
WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # an environment variable that torch.load reads


def _load(backbone: nn.Module, path: Path) -> None:
    """Load a torchvision state dict (any float type) into `backbone`; only the classification head may differ.

    Raises:
        ValueError: no such file, not a state dict, or one of another network: with the keys that differ.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever its first wrong byte leads to
        raise ValueError(f"cannot read model.weights={path}: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(f"model.weights={path} holds a {type(state).__name__}, wanted a state dict of tensors by name")
    own = backbone.state_dict()
    missing = sorted(own.keys() - state.keys())
    shapes = [
        f"{k} {tuple(state[k].shape)} for {tuple(own[k].shape)}"
        for k in own.keys() & state.keys()
        if state[k].shape != own[k].shape
    ]
    unexpected = sorted(k for k in state.keys() - own.keys() if k.split(".")[0] not in HEADS)
    if missing or unexpected or shapes:
        found = {"missing": missing, "unexpected": unexpected, "of another shape": sorted(shapes)}
        told = "".join(
            f"\n  {len(keys)} {what}: {', '.join(keys[:8])}{', ...' if len(keys) > 8 else ''}"
            for what, keys in found.items()
            if keys
        )
        raise ValueError(f"model.weights={path} are not the weights of this model.backbone:{told}")
    backbone.load_state_dict({k: v for k, v in state.items() if k in own})


@contextmanager
def _no_code() -> Iterator[None]:
    """Let torch load weights alone in the `with` block: torchvision has it run whatever code the file holds."""
    before = os.environ.get(WEIGHTS_ONLY)
    os.environ[WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        del os.environ[WEIGHTS_ONLY]
        if before is not None:
            os.environ[WEIGHTS_ONLY] = before


def _is_file(weights: str | None) -> bool:
    return weights is not None and (Path(weights).suffix != "" or Path(weights).exists())


def _make(name: str, weights: str | None) -> nn.Module:
    """Make torchvision's `name`, with weights downloaded if `weights` is one of torchvision's names for them."""
    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"unknown model.backbone={name}: wanted one of torchvision's classifiers: {', '.join(known)}")
    choices = list(models.get_model_weights(name).__members__)
    if weights is not None and weights not in choices:
        raise ValueError(f"model.weights={weights}: wanted a file, null, or one of {', '.join(choices)} for {name}")
    if weights is None:
        return cast(nn.Module, models.get_model(name))
    url = models.get_model_weights(name)[weights].url
    try:
        with _no_code():
            return cast(nn.Module, models.get_model(name, weights=weights))
    except Exception as error:  # no answer, another hash, or whatever a damaged file's first wrong byte leads to
        cached = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
        why = f"{cached} is damaged or holds code: remove it" if isinstance(error, UnpicklingError) else error
        raise ValueError(
            f"cannot download model.weights={weights} ({why}): fetch {url} by hand and give model.weights=<the file>"
        ) from error


def make_backbone(name: str, weights: str | None) -> nn.Sequential:
    """Make torchvision's network `name` up to its last feature map, with keys named as torchvision names them.

    Args:
        name: Any of torchvision's classification models whose last feature map is 1/32 of the image.
        weights: One of torchvision's names for weights ("DEFAULT", "IMAGENET1K_V1", ...), which is downloaded; a file
            with its state dict (float32 or float16, the classification head ignored); or None for random weights.

    Raises:
        ValueError: unknown name or weights, no such feature map, weights of another network, no answer to a download.
    """
    net = _make(name, None if _is_file(weights) else weights)
    features = nn.Sequential()
    for child_name, child in net.named_children():
        if child_name in HEADS:
            break
        features.add_module(child_name, child)
    if weights is not None and _is_file(weights):
        _load(features, Path(weights))
    return features


def _channels(backbone: nn.Module, name: str) -> int:
    """Channels of the last feature map, by trying an image of 64 pixels."""
    mode = backbone.training
    try:
        with torch.no_grad():
            shape = backbone.eval()(torch.zeros(1, 3, 2 * STRIDE, 2 * STRIDE)).shape  # (1, C, 2, 2)
    except Exception as error:
        raise ValueError(
            f"model.backbone={name} has no feature map to decode ({error}): choose resnet34 or another CNN"
        ) from error
    finally:
        backbone.train(mode)
    if shape[2:] != (2, 2):
        raise ValueError(
            f"model.backbone={name} gives a map {tuple(shape[1:])} of 64x64, wanted (C, 2, 2), stride 32: choose resnet34"
        )
    return int(shape[1])


class Transfer(nn.Module):
    """A pretrained encoder with five deconvolutions (Table 3): 22.9 M parameters with resnet34 and 21 classes.

    Args:
        num_classes: Channels of the logits.
        backbone: Any torchvision classification model with a last feature map of stride 32.
        weights: Where its weights come from: see `make_backbone`.
        freeze: Whether the backbone keeps its weights, and its batch norms their statistics; the paper fine-tunes.

    Shape:
        image (N, 3, H, W), normalised float, H and W from 32 up -> logits (N, num_classes, H, W).
    """

    def __init__(self, num_classes: int, *, backbone: str, weights: str | None, freeze: bool = False) -> None:
        super().__init__()
        self.freeze = freeze
        self.backbone = make_backbone(backbone, weights)
        if weights is None:
            xavier_init(self.backbone)
        self.backbone.requires_grad_(not freeze)
        up = (_channels(self.backbone, backbone), 256, 128, 64, 32, 16)
        self.decoder = nn.Sequential(*[DeconvBlock(i, o, stride=2) for i, o in pairwise(up)])
        self.classifier = nn.Conv2d(up[-1], num_classes, 1)
        xavier_init(self.decoder)
        xavier_init(self.classifier)

    def train(self, mode: bool = True) -> "Transfer":
        """Training mode, in which a frozen backbone's batch norms stay as they are."""
        super().train(mode)
        if self.freeze:
            self.backbone.eval()
        return self

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        x = self.backbone(pad_to_multiple(image, STRIDE))  # (N, 512, H/32, W/32) with resnet34
        x = self.decoder(x)  # (N, 16, H, W), padded
        logits: Tensor = self.classifier(x)
        return logits[..., :height, :width]
