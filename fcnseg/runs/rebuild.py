"""A trained network, rebuilt from its run folder without running code that the folder names.

A folder may come from somebody else. What its config may name is written down here: networks of three packages, and the losses
and data sets of this one. Anything else is made only with `trust`. Arguments are plain values, and of a trainer nothing else is
taken; nothing is downloaded, and nothing is written in a place that only the config names.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from inspect import signature
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NoReturn, cast

import torch
from hydra.errors import InstantiationException
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from fcnseg import build, losses
from fcnseg.data import augment
from fcnseg.data.module import VOCDataModule
from fcnseg.errors import warn
from fcnseg.files import nothing_built
from fcnseg.models.weights import of_network
from fcnseg.runs.checkpoint import BEST, check_weights, read
from fcnseg.runs.folder import Run
from fcnseg.runs.provenance import code
from fcnseg.runs.result import classes_of
from fcnseg.runs.settings import flatten
from fcnseg.task import SegmentationTask


def _is_module_of(found: object, *packages: str) -> bool:
    """Whether something is a class of modules that is defined in one of these packages, and not only imported there."""
    return isinstance(found, type) and issubclass(found, nn.Module) and found.__module__.startswith(packages)


NETWORKS = ("fcnseg.models", "torchvision", "segmentation_models_pytorch")  # packages, all of whose networks are known
KNOWN = {  # by the group of the config
    "data": (
        "fcnseg.data.module.VOCDataModule",
        "fcnseg.data.download.voc2012",
        "fcnseg.data.formats.folder",
        "fcnseg.data.shapes.shapes",
    ),
    "loss": tuple(
        f"{losses.__name__}.{name}" for name, each in vars(losses).items() if _is_module_of(each, losses.__name__)
    ),
}
# Settings of a trainer that matter in a test.
TRAINER = ("accelerator", "devices", "precision", "deterministic", "benchmark", "inference_mode")
# Arguments that would download weights: the checkpoint has them.
NO_WEIGHTS = {"weights": None, "weights_backbone": None, "encoder_weights": None, "pretrained": False}


def load(folder: str | Path, checkpoint: str = "best", *, trust: bool = False) -> tuple[DictConfig, nn.Module]:
    """Rebuild a run's network, and nothing else, on the CPU.

    Args:
        folder: The folder of the run, such as runs/<name>.
        checkpoint: The name of the checkpoint whose weights are loaded: best, last or previous.
        trust: Whether the config may name any code; otherwise the network is one of `NETWORKS`, with plain values.

    Returns:
        The run's config, and its network in evaluation mode: normalised (N, 3, H, W) images to (N, num_classes, H, W) logits.

    Raises:
        ValueError: There is no run in this folder, no such checkpoint, this version cannot rebuild it, or `trust` is missing.
    """
    run = Run(Path(folder))
    cfg, path = run.config, run.checkpoints / f"{checkpoint}.ckpt"
    stored = read(path)
    weights, classes = of_network(stored["state_dict"]), classes_of(stored)
    with _made_by(run):
        if not trust:
            _check_size(cfg, len(classes), weights, path)
        net = network(cfg, len(classes), trust=trust)
        check_weights(weights, net, path)
    net.load_state_dict(weights)
    return cfg, net.eval()


def task(folder: str | Path, data: VOCDataModule, *, trust: bool = False) -> SegmentationTask:
    """Rebuild a run's network and loss, with the best weights, as a task to validate and test; it cannot train.

    Args:
        folder: The folder of the run.
        data: What it will be scored on.
        trust: Whether the config may name any code.

    Raises:
        ValueError: As `load`, or the data have other classes.
    """
    run = Run(Path(folder))
    cfg, path = run.config, run.checkpoints / BEST
    stored = read(path)
    state, classes = stored["state_dict"], classes_of(stored)
    classes.check_same(data.classes, str(run.path))
    with _made_by(run):
        net = network(cfg, len(classes), trust=trust)
        # One image set has no train set: any pixels will do, since the checkpoint has the loss's weights.
        pixels = torch.ones(len(classes)) if data.only else data.class_pixels
        loss = _make(_group(cfg, "loss"), KNOWN["loss"], trust, class_pixels=pixels)
        rebuilt = SegmentationTask(
            net,
            loss=loss,
            optimizer=_cannot_train,
            schedule=_cannot_train,
            classes=classes,
            memory_format=build.memory_format(net),
        )
        check_weights(state, rebuilt, path)
    rebuilt.load_state_dict(state)
    return rebuilt.eval()


def _cannot_train(_: object) -> NoReturn:
    raise ValueError("a rebuilt run cannot be trained: train its network in a task of your own")


def network(cfg: DictConfig, num_classes: int, *, trust: bool = False) -> nn.Module:
    """The network of `cfg.model`, with random weights.

    Raises:
        ValueError: It is not a network of `NETWORKS` with plain values, and `trust` is missing.
    """
    values = _group(cfg, "model")
    name = str(values.pop("_target_", None))
    if not trust:
        if not name.startswith(tuple(f"{package}." for package in NETWORKS)):
            raise _untrusted(name, f"a network of {', '.join(NETWORKS)}")
        for key, value in flatten(values).items():
            if "_target_" in key or ":" in str(value):  # a colon: timm reads hf-hub:name and local-dir:path from there
                raise _untrusted(f"{key}: {value}", "plain values as a network's arguments")
    found = _find(name)
    if not trust and not _is_module_of(found, *NETWORKS):
        raise _untrusted(name, f"the class of a network of {', '.join(NETWORKS)}")
    takes = {key: value for key, value in NO_WEIGHTS.items() if key in (values.keys() | signature(found).parameters)}
    made = _make({"_target_": name, **values, **takes}, (name,), trust, num_classes=num_classes)
    if not isinstance(made, nn.Module):
        raise ValueError(f"model._target_={name} is a {type(made).__name__}, wanted a torch.nn.Module")
    return made


def trainer(cfg: DictConfig, *, kept_precision: str | None) -> Trainer:
    """A trainer to test a run with, on the device that it was trained on, or on what this machine has in its place.

    Args:
        cfg: The config of the run. Those of its trainer's values that matter in a test are taken, and nothing else.
        kept_precision: The precision of the run's result; None for that of `cfg`.

    Raises:
        ValueError: One of the values names a class.
    """
    own = {key: cfg.trainer[key] for key in TRAINER if key in cfg.trainer}
    if "_target_" in f"{own} {kept_precision}":
        raise ValueError(
            f"the config or the result of the run names a class in its trainer, wanted plain values: {own}"
        )
    plain = OmegaConf.create({"trainer": {"_target_": "lightning.Trainer", **own}})
    try:
        return build.trainer(plain, kept_precision=kept_precision)
    except InstantiationException as error:
        if not isinstance(error.__cause__, MisconfigurationException):
            raise
        warn(
            f"this machine does not have trainer.accelerator={plain.trainer.accelerator}"
            f" trainer.devices={plain.trainer.devices} of the run ({error.__cause__}): it is tested on what there is"
        )
    plain.trainer.update(accelerator="auto", devices=1)
    return build.trainer(plain, kept_precision=kept_precision)


def data(cfg: DictConfig, *, root: str | None = None, only: str | None = None, trust: bool = False) -> VOCDataModule:
    """The data of `cfg.data`, ready to be scored on; nothing is downloaded.

    Args:
        cfg: The config of a run.
        root: The folder in which the data set is now, in which packs may be written; None: the one that the run was trained
            from, in which nothing is written.
        only: The one image set to score on; None: what the run was tested on.
        trust: Whether the config may name any code.

    Raises:
        ValueError: The data set is not there, or `cfg` names a data set that is not of this package and `trust` is missing.
    """
    node = _group(cfg, "data")
    if root is not None:
        node["root"] = root
        node.pop("cache", None)  # packs are beside the data, not in a place that only the config names
    if "download" in node:
        node["download"] = False
    if isinstance(source := node.get("source"), dict) and "urls" in source:
        source["urls"] = []
    made = cast(VOCDataModule, _make(node, KNOWN["data"], trust, augment=augment.none, seed=0, only=only))
    with nullcontext() if root else nothing_built():
        made.prepare_data()
    return made


def _group(cfg: DictConfig, name: str) -> dict[str, Any]:
    """A group of a config as plain values."""
    node = OmegaConf.to_container(cfg[name]) if name in cfg else None
    if not isinstance(node, dict):
        raise ValueError(f"the config of the run has no {name}: restore its .hydra/config.yaml")
    return cast(dict[str, Any], node)


def _make(node: Any, known: tuple[str, ...], trust: bool, **more: Any) -> Any:
    """What a config's values and `_target_` stand for; a `_target_` that is not one of `known` wants `trust`."""
    if isinstance(node, list):
        return [_make(value, known, trust) for value in node]
    if not isinstance(node, dict):
        return node
    values = {key: _make(value, known, trust) for key, value in node.items() if key not in ("_target_", "_partial_")}
    if "_target_" not in node:
        return values
    if (name := str(node["_target_"])) not in known and not trust:
        raise _untrusted(name, f"one of {', '.join(known)}")
    try:
        made = partial(_find(name), **values, **more)
        return made if node.get("_partial_") else made()
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error


def _find(name: str) -> Any:
    try:
        return resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"cannot find {name!r}, which the config of the run names: {error}") from error


def _untrusted(found: str, wanted: str) -> ValueError:
    return ValueError(
        f"the config of the run names {found!r}, wanted {wanted}: if you trust where the run comes from, trust=true runs it"
    )


def _check_size(cfg: DictConfig, num_classes: int, weights: Mapping[str, Tensor], path: Path) -> None:
    """Refuse a network of other shapes than its weights before it takes memory: no checkpoint has a terabyte of them."""
    # Some networks cannot be made without memory.
    with suppress(NotImplementedError, RuntimeError), torch.device("meta"):
        check_weights(weights, network(cfg, num_classes), path)


@contextmanager
def _made_by(run: Run) -> Iterator[None]:
    """Add to an error of the `with` block which commit can rebuild the run, if another one made it."""
    try:
        yield
    except ValueError as error:
        made_by, now = (run.result or {}).get("commit"), code()["commit"]
        if made_by is None or made_by == now:
            raise
        raise ValueError(f"{error}\nThe run was made by commit {made_by} of fcnseg, which can evaluate it.") from error
