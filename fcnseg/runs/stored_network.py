"""A trained network, rebuilt from its run folder without running code that the folder names.

A folder may come from somebody else. Its config may name networks of three packages, with plain values as their arguments;
anything else is made only with `trust`. Nothing is downloaded. Lightning and Hydra are not imported: that takes seconds.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from inspect import signature
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from fcnseg.data.dataset import Classes
from fcnseg.models.weights import of_network
from fcnseg.names import BEST, CONFIG
from fcnseg.results.provenance import code
from fcnseg.runs.checkpoint_files import check_weights, read
from fcnseg.runs.folder import Run
from fcnseg.runs.older import classes_of, with_todays_form
from fcnseg.settings.table import flatten


def is_module_of(found: object, *packages: str) -> bool:
    """Whether an object is a class of modules that one of these packages defines, and does not only import."""
    return isinstance(found, type) and issubclass(found, nn.Module) and found.__module__.startswith(packages)


# The packages whose networks need no `trust`.
KNOWN_PACKAGES = ("fcnseg.models", "torchvision", "segmentation_models_pytorch")
# Arguments that would download weights, which the checkpoint already has.
WITHOUT_WEIGHTS = {"weights": None, "weights_backbone": None, "encoder_weights": None, "pretrained": False}


class Trained(NamedTuple):
    """The network of a run.

    Attributes:
        config: The config of the run.
        net: The network in evaluation mode: normalised (N, 3, H, W) images to (N, C, H, W) logits.
        classes: The C classes of the logits.
        state: The best weights of the run's task, of which the network's are a part.
    """

    config: DictConfig
    net: nn.Module
    classes: Classes
    state: Mapping[str, Tensor]


def load(folder: str | Path, *, trust: bool = False) -> Trained:
    """Rebuild a run's network with its best weights on the CPU, and nothing else.

    Args:
        folder: The folder of the run, such as runs/<name>.
        trust: Whether the config may name any code; otherwise the network is one of `KNOWN_PACKAGES`, with plain values.

    Raises:
        ValueError: There is no run in this folder, it has no checkpoint, this version cannot rebuild it, or `trust` is missing.
    """
    run = Run(Path(folder))
    cfg, path = run.config, run.checkpoints / BEST
    stored = read(path)
    weights, classes = of_network(stored["state_dict"]), classes_of(stored, path)
    with made_by(run):
        if not trust:
            _check_size(cfg, len(classes), weights, path)
        net = network(cfg, len(classes), trust=trust)
        check_weights(weights, net, path)
    net.load_state_dict(weights)
    return Trained(cfg, net.eval(), classes, stored["state_dict"])


def network(cfg: DictConfig, num_classes: int, *, trust: bool = False) -> nn.Module:
    """The network of `cfg.model`, with random weights.

    Raises:
        ValueError: It is not a network of `KNOWN_PACKAGES` with plain values, and `trust` is missing.
    """
    values = group(cfg, "model")
    name = str(values.pop("_target_", None))
    kind = _find(name) if trust else _known_network(name, values)
    named = [*signature(kind).parameters][len(values.get("_args_", ())) :]  # those that have no value by their position
    takes = {key: value for key, value in WITHOUT_WEIGHTS.items() if key in {*values, *named}}
    made = make({"_target_": name, **values, **takes}, (name,), trust, num_classes=num_classes)
    if not isinstance(made, nn.Module):
        raise ValueError(f"model._target_={name} is a {type(made).__name__}, wanted a torch.nn.Module")
    return made


def _known_network(name: str, values: dict[str, Any]) -> Any:
    """The class of this full name, if it is a network of `KNOWN_PACKAGES`, and its arguments `values` are plain.

    Raises:
        ValueError: It is not such a class, or they are not plain.
    """
    if not name.startswith(tuple(f"{package}." for package in KNOWN_PACKAGES)):
        raise untrusted(name, f"a network of {', '.join(KNOWN_PACKAGES)}")
    for key, value in flatten(values).items():
        # Weights are refused by name. A colon: timm reads hf-hub:name and local-dir:path from there.
        if "_target_" in key or "_args_" in key or ":" in str(value):
            raise untrusted(f"{key}: {value}", "plain values as a network's arguments")
    if not is_module_of(kind := _find(name), *KNOWN_PACKAGES):
        raise untrusted(name, f"the class of a network of {', '.join(KNOWN_PACKAGES)}")
    return kind


def group(cfg: DictConfig, name: str) -> dict[str, Any]:
    """A group of a config as plain values."""
    node = with_todays_form(cast(dict[str, Any], OmegaConf.to_container(cfg))).get(name)
    if not isinstance(node, dict):
        raise ValueError(f"the config of the run has no {name}: restore its {CONFIG}")
    return node


def make(node: Any, known: tuple[str, ...], trust: bool, **more: Any) -> Any:
    """Make the object that a config's values and `_target_` describe; a `_target_` outside `known` needs `trust`.

    Hydra's other keys mean what they mean in its `instantiate`; `_convert_` has no effect, since all values are plain.
    """
    if isinstance(node, list):
        return [make(value, known, trust) for value in node]
    if not isinstance(node, dict):
        return node
    if "_target_" not in node:
        return {key: make(value, known, trust) for key, value in node.items()}
    if (name := str(node["_target_"])) not in known and not trust:
        raise untrusted(name, f"one of {', '.join(known)}")
    values = {key: value for key, value in node.items() if key not in ("_target_", "_partial_", "_convert_", "_recursive_")}
    if node.get("_recursive_", True):
        values = make(values, known, trust)
    elif not trust and "_target_" in str(values):  # it would be made by the object itself
        raise untrusted("_recursive_: false", "nodes below that are made here")
    try:
        made = partial(_find(name), *values.pop("_args_", ()), **values, **more)
        return made if node.get("_partial_") else made()
    except TypeError as error:
        raise ValueError(f"{name}: {error}; restore {CONFIG}, or put the module on the path") from error


def _find(name: str) -> Any:
    """Import the class or function of this full name."""
    try:
        return resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"cannot find {name!r}, which the config of the run names: {error}; restore {CONFIG}, or put the module on the path"
        ) from error


def untrusted(found: str, wanted: str) -> ValueError:
    """The error that a run's config names unknown code."""
    return ValueError(
        f"the config of the run names {found!r}, wanted {wanted}: if you trust where the run comes from, trust=true runs it"
    )


def _check_size(cfg: DictConfig, num_classes: int, weights: Mapping[str, Tensor], path: Path) -> None:
    """Refuse a network whose shapes differ from its weights' before it takes memory, which could be a terabyte."""
    # Some networks cannot be made on the meta device, which takes no memory.
    with suppress(NotImplementedError, RuntimeError), torch.device("meta"):
        check_weights(weights, network(cfg, num_classes), path)


@contextmanager
def made_by(run: Run) -> Iterator[None]:
    """If another commit made the run, add to an error of the `with` block which commit can rebuild it."""
    try:
        yield
    except ValueError as error:
        then, now = (run.result or {}).get("commit"), code()["commit"]
        if then is None or then == now:
            raise
        raise ValueError(f"{error}\nThe run was made by commit {then} of fcnseg, which can evaluate it.") from error
