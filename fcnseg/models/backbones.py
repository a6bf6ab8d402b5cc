"""Pretrained backbones: torchvision's classification networks, cut off after their last feature map."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import cast

import torch
from torch import Tensor, nn
from torchvision import models

STRIDE = 32  # of the last feature map
HEADS = ("avgpool", "classifier", "fc", "head", "heads", "flatten")  # torchvision's names for what follows the features
WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # an environment variable that torch.load reads
SHOWN = 8  # keys named in one message


def make_backbone(name: str, weights: str | None) -> nn.Sequential:
    """Make torchvision's network `name` up to its last feature map; its keys are named as torchvision names them.

    Args:
        name: The name of a torchvision classification model whose last feature map is 1/32 of the image.
        weights: One of torchvision's names for weights ("DEFAULT", "IMAGENET1K_V1", ...), which are downloaded; or a file
            with the state dict of the network, in any float type; or None for random weights.

    Raises:
        ValueError: The name or the weights are unknown, or the weights are of another network or cannot be downloaded.
    """
    path = Path(weights) if weights else None
    if path and not path.suffix and not path.exists():
        path = None  # the name of weights is no file
    features = nn.Sequential()
    for child_name, child in _make(name, None if path else weights).named_children():
        if child_name in HEADS:
            break
        features.add_module(child_name, child)
    if path:
        _load(features, path)
    return features


def channels(backbone: nn.Module, name: str) -> int:
    """The channels of a new backbone's last feature map, found by trying an image of 64 pixels.

    Raises:
        ValueError: The backbone `name` has no feature map of stride 32.
    """
    try:
        with torch.no_grad():
            shape = backbone.eval()(torch.zeros(1, 3, 2 * STRIDE, 2 * STRIDE)).shape  # (1, C, 2, 2)
    except Exception as error:
        raise ValueError(
            f"model.backbone={name} has no feature map to decode ({error}): choose resnet34 or another CNN"
        ) from error
    finally:
        backbone.train()
    if shape[2:] != (2, 2):
        wanted = "wanted (C, 2, 2), stride 32: choose resnet34"
        raise ValueError(f"model.backbone={name} gives a map {tuple(shape[1:])} of 64x64, {wanted}")
    return int(shape[1])


def _make(name: str, weights: str | None) -> nn.Module:
    """Make torchvision's network `name`, with random weights or those that torchvision downloads by this name."""
    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"unknown model.backbone={name}: wanted one of torchvision's classifiers: {', '.join(known)}")
    if weights is None:
        return cast(nn.Module, models.get_model(name))
    choices = models.get_model_weights(name).__members__
    if weights not in choices:
        raise ValueError(f"model.weights={weights}: wanted a file, null, or one of {', '.join(choices)} for {name}")
    url = choices[weights].url
    try:
        with _without_code():
            return cast(nn.Module, models.get_model(name, weights=weights))
    except Exception as error:  # no answer, another hash, or any error at all from a damaged file
        cached = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
        why = f"{cached} is damaged or holds code: remove it" if isinstance(error, UnpicklingError) else error
        raise ValueError(
            f"cannot download model.weights={weights} ({why}): fetch {url} by hand and give model.weights=<the file>"
        ) from error


@contextmanager
def _without_code() -> Iterator[None]:
    """Have torch load nothing but weights in the `with` block: torchvision would run any code that the file holds."""
    before = os.environ.get(WEIGHTS_ONLY)
    os.environ[WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        del os.environ[WEIGHTS_ONLY]
        if before is not None:
            os.environ[WEIGHTS_ONLY] = before


def _load(backbone: nn.Module, path: Path) -> None:
    """Load a state dict of torchvision's into `backbone`; nothing but the classification head may differ."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise any error
        raise ValueError(f"cannot read model.weights={path}: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(f"model.weights={path} holds a {type(state).__name__}, wanted a state dict of tensors by name")
    own, found = ({key: tuple(value.shape) for key, value in part.items()} for part in (backbone.state_dict(), state))
    keys = own.keys() | {key for key in found if key.split(".")[0] not in HEADS}
    if differing := sorted(key for key in keys if own.get(key) != found.get(key)):
        rows = [f"  {key}: found {found.get(key, 'none')}, wanted {own.get(key, 'none')}" for key in differing[:SHOWN]]
        more = [f"  ... and {len(differing) - SHOWN} more"] * (len(differing) > SHOWN)
        title = f"model.weights={path} are not the weights of this model.backbone:"
        raise ValueError("\n".join([title, *rows, *more]))
    backbone.load_state_dict({key: state[key] for key in own})
