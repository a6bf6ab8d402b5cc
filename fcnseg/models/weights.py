"""The weights that a network starts from: torchvision's by name, from a file, or from an earlier run."""

import os
from collections.abc import Container, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import cast
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torchvision import models

from fcnseg.names import BEST, CHECKPOINTS
from fcnseg.texts import first_of, warn

WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # an environment variable that torch.load reads
METADATA = "metadata"  # a name in a file of `fcnseg.export`, beside those of its weights
NET = "net."  # the prefix of the network's weights in the state dict of a task, whose attribute `net` it is
SHOWN = 8  # names of weights in one message


def path_of(weights: str | None) -> Path | None:
    """The file or the folder that `model.weights` means; None for a name of weights, and without weights."""
    path = Path(weights) if weights else None
    return path if path and (path.suffix or path.exists()) else None


def torchvision_network(name: str, weights: str | None, module: ModuleType = models) -> nn.Module:
    """Make torchvision's network `name`, with random weights or those that torchvision downloads by this name.

    Args:
        name: One of torchvision's names of networks.
        weights: One of torchvision's names of weights for it, or None.
        module: The module whose networks may be named: torchvision.models (classifiers) or torchvision.models.segmentation.

    Raises:
        ValueError: The name or the weights are unknown, or the weights cannot be downloaded.
    """
    known = models.list_models(module=module)
    if name not in known:
        setting, kind = ("backbone", "classifiers") if module is models else ("arch", "segmentation networks")
        raise ValueError(f"unknown model.{setting}={name}: wanted one of torchvision's {kind}: {', '.join(known)}")
    no_more = {} if module is models else {"weights_backbone": None}  # which would also be downloaded
    if weights is None:
        return cast(nn.Module, models.get_model(name, **no_more))
    choices = models.get_model_weights(name).__members__
    if weights not in choices:
        raise ValueError(
            f"model.weights={weights}: wanted a file, a run's folder, null, or one of {', '.join(choices)} for {name}"
        )
    url = choices[weights].url
    try:
        with without_code():
            return cast(nn.Module, models.get_model(name, weights=weights, **no_more))
    except Exception as error:  # no answer, another hash, or any error at all from a damaged file
        cached = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
        why = f"{cached} is damaged or holds code: remove it" if isinstance(error, UnpicklingError) else error
        raise ValueError(
            f"cannot download model.weights={weights} ({why}): fetch {url} by hand and give model.weights=<the file>"
        ) from error


def without_code() -> AbstractContextManager[object]:
    """Have torch load nothing but weights in the `with` block: a library would run any code that the file holds."""
    return patch.dict(os.environ, {WEIGHTS_ONLY: "1"})


def read(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, or the best weights of a run's network; no code in the file is run.

    Raises:
        ValueError: There is no such file, or it holds something else.
    """
    is_run = path.is_dir()
    path = path / CHECKPOINTS / BEST if is_run else path
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if is_run:
            state = of_network(state["state_dict"])
    except Exception as error:  # a damaged file can raise any error
        raise ValueError(
            f"cannot read model.weights={path} ({error}): wanted a file that torch.save wrote, or a run's folder"
        ) from error
    if isinstance(state, dict) and METADATA in state:  # the weights by a library's own names are enough
        state = {name: value for name, value in state.items() if name != METADATA and not str(name).startswith(NET)}
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(f"model.weights={path} holds a {type(state).__name__}, wanted a state dict of tensors by name")
    return state


def of_network(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's part of a task's state dict, which has the loss and the metrics beside it."""
    return {name.removeprefix(NET): value for name, value in state.items() if name.startswith(NET)}


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in a state dict, by its name."""
    return {name: tuple(value.shape) for name, value in state.items()}


def refusal(title: str, names: Sequence[str], found: Mapping[str, object], wanted: Mapping[str, object]) -> ValueError:
    """The error that weights are of another network, with a table of the shapes that differ.

    Args:
        title: The first line of the message.
        names: The names of the weights that differ.
        found: The shapes of the weights, by name.
        wanted: The shapes of the network's own weights, by name.
    """
    rows = [f"  {name}: found {found.get(name, 'none')}, wanted {wanted.get(name, 'none')}" for name in names]
    return ValueError(f"{title}\n{first_of(rows, SHOWN)}")


def load(
    net: nn.Module,
    state: Mapping[str, Tensor],
    source: object,
    *,
    without: Container[str] = (),
    classes: int | None = None,
) -> None:
    """Load a state dict into `net`; a last layer for another number of classes stays new, and a warning says so.

    Args:
        net: The network, or its backbone.
        state: The weights by name, in any float type.
        source: Where they come from, for messages.
        without: The first parts of names that `state` may have and `net` not.
        classes: The number of channels of the network's last layer; None for a backbone, which has no such layer.

    Raises:
        ValueError: The weights are of another network; the message has a table of what differs.
    """
    own, found = shapes_of(net.state_dict()), shapes_of(state)
    keys = own.keys() | {key for key in found if key.split(".")[0] not in without}
    differing = sorted(key for key in keys if own.get(key) != found.get(key))
    new = [key for key in differing if key in own and key in found and own[key] == (classes, *found[key][1:])]
    if other := [key for key in differing if key not in new]:
        title = f"model.weights={source} are of another network: choose that one, other weights, or model.weights=null"
        raise refusal(title, other, found, own)
    if new:
        warn(f"model.weights={source} are for {found[new[0]][0]} classes, not {classes}: {', '.join(new)} are new")
    net.load_state_dict({key: state[key] for key in own if key not in new}, strict=False)
