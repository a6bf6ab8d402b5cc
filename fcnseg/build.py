"""From the config of a run to its objects: what the command line names is instantiated here."""

import logging
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar, cast

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from fcnseg.data.augment import is_augmentation, partners
from fcnseg.data.dataset import Classes
from fcnseg.data.module import DataModule
from fcnseg.learning.divided_task import DividedTask
from fcnseg.learning.optimizers import optimizer
from fcnseg.learning.schedules import scheduled
from fcnseg.learning.task import SegmentationTask
from fcnseg.machine import limits
from fcnseg.machine.precision import bf16_wins
from fcnseg.machine.processes import devices_and_machines, environment
from fcnseg.models.layers import memory_format
from fcnseg.models.weights import load, path_of, read
from fcnseg.settings.lightning import FLOAT16, check_callback, long_name
from fcnseg.settings.table import setting

T = TypeVar("T")


def data(cfg: DictConfig) -> DataModule:
    """The data module of `cfg.data`, with `cfg.aug` and `cfg.seed`.

    Raises:
        ValueError: There is no augmentation, a step was added to one that is no chain, or a batch is too small for it.
    """
    try:
        augment = instantiate(cfg.aug)
    except InstantiationException as error:
        steps = [f"argument '{name}'" for name, node in cfg.aug.items() if isinstance(node, DictConfig)]
        if isinstance(error.__cause__, TypeError) and str(error.__cause__).endswith(tuple(steps)):
            first = f"aug=none +aug@aug.{cfg.choices.aug}={cfg.choices.aug}"
            raise ValueError(f"aug={cfg.choices.aug} is no chain of steps: {first}, then the steps that follow it") from error
        raise
    if not is_augmentation(augment):
        raise ValueError(f"aug={cfg.choices.aug} gives {augment}: wanted an augmentation; a class needs no _partial_")
    if partners(augment) and cfg.data.batch_size == 1:
        raise ValueError("data.batch_size=1: the augmentation mixes an image with the one before it in its batch; raise it")
    return cast(DataModule, instantiate(cfg.data, augment=augment, seed=cfg.seed))


def task(cfg: DictConfig, *, classes: Classes, class_pixels: Tensor) -> SegmentationTask:
    """The task of `cfg.model`, `cfg.loss`, `cfg.optimizer` and `cfg.schedule`.

    Args:
        cfg: The run's whole config.
        classes: The classes of the data.
        class_pixels: (C,), the pixels of every class in train; void counts as background if there is one.
    """
    accumulate = cfg.trainer.get("accumulate_grad_batches", 1)
    is_divided = (*devices_and_machines(cfg.trainer), accumulate) != (1, 1, 1)
    make = partial(DividedTask, accumulate=accumulate) if is_divided else SegmentationTask
    net = network(cfg, len(classes))
    return make(
        net,
        loss=instantiate(cfg.loss, class_pixels=class_pixels),
        optimizer=partial(
            optimizer,
            make=_made(cfg.optimizer, "optimizer"),
            backbone_lr=cfg.optimizer.get("backbone_lr"),
            decay_norms=cfg.optimizer.get("decay_norms"),
            clips=bool(cfg.trainer.get("gradient_clip_val")),
        ),
        schedule=partial(scheduled, make=_made(cfg.schedule, "schedule"), warmup=cfg.schedule.get("warmup")),
        classes=classes,
        memory_format=memory_format(net),
    )


def _made(node: DictConfig, key: str) -> Any:
    """The object that the node `key` of a config stands for, without those of its settings that fcnseg itself reads."""
    node = node.copy()  # it keeps the node's full name, for messages
    OmegaConf.set_struct(node, False)  # in struct mode, no setting could be removed
    for name in [name for name in node if setting(f"{key}.{name!s}").ours]:
        del node[name]
    return instantiate(node)


def network(cfg: DictConfig, num_classes: int) -> nn.Module:
    """The network of `cfg.model`; `model.weights` may be the folder of a run, whose whole network it then starts from.

    Raises:
        ValueError: It is no network, or the weights are of another one.
    """
    path = path_of(cfg.model.get("weights"))
    run = path if path and path.is_dir() else None
    # Without the weights that the network's class would take, such as a backbone's: those of the run replace them all.
    net = instantiate(cfg.model, num_classes=num_classes, **({"weights": None} if run else {}))
    if not isinstance(net, nn.Module):
        raise ValueError(f"model._target_={cfg.model._target_} is a {type(net).__name__}: wanted a torch.nn.Module")
    if run:
        load(net, read(run), run, classes=num_classes)
    return net


def loggers(cfg: DictConfig) -> list[Logger]:
    """The loggers of `cfg.logger`, which come after the run's own.

    Raises:
        ValueError: An entry is not a Lightning logger, or its package is not installed.
    """
    return _entries(cfg, "logger", Logger)  # type: ignore[type-abstract]


def callbacks(cfg: DictConfig) -> list[Callback]:
    """The callbacks of `cfg.callbacks`, which are added to the callbacks of every run.

    Raises:
        ValueError: An entry is not a Lightning callback, or one that a run cannot have.
    """
    found = _entries(cfg, "callbacks", Callback)
    for callback in found:
        check_callback(type(callback))
    return found


def _entries(cfg: DictConfig, group: str, kind: type[T]) -> list[T]:
    entries = []
    for name, node in cfg[group].items():
        try:
            entry = _made(node, f"{group}.{name!s}")
        except InstantiationException as error:
            if isinstance(error.__cause__, ModuleNotFoundError):
                raise ValueError(f"{group}.{name} needs a package that is not installed: {error.__cause__}") from error
            raise
        if not isinstance(entry, kind):
            raise ValueError(f"{group}.{name} is of the type {type(entry).__name__}: wanted a Lightning {kind.__name__}")
        entries.append(entry)
    return entries


def trainer(
    cfg: DictConfig,
    *,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
    checkpoint_io: CheckpointIO | None = None,
    kept_precision: str | None = None,
) -> Trainer:
    """Lightning's Trainer of `cfg.trainer`; what it prints by itself, a run's own callbacks print.

    Args:
        cfg: The run's whole config.
        callbacks: All callbacks of the trainer.
        loggers: All loggers of the trainer.
        checkpoint_io: Reads and writes checkpoints; None for a trainer that has none.
        kept_precision: The precision that the run was trained in before, by Lightning's name; None: from `cfg.trainer`.
    """
    silence_lightning()
    limits.keep_freed_memory()
    return cast(
        Trainer,
        instantiate(
            cfg.trainer,
            precision=kept_precision or precision(cfg.trainer.precision, cfg.trainer.accelerator),
            callbacks=list(callbacks),
            plugins=[checkpoint_io] if checkpoint_io else None,
            logger=list(loggers),
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # the loader divides the batches itself
            accumulate_grad_batches=1,  # which the task does
            **_processes(cfg.trainer),
        ),
    )


def _processes(trainer: DictConfig) -> dict[str, Any]:
    """The arguments of Lightning's Trainer for a run on several devices."""
    devices, nodes = devices_and_machines(trainer)
    if devices * nodes == 1:
        return {}
    is_cuda = _device(trainer.accelerator) == "cuda"
    # gloo for numbers on the CPU, which are exchanged without waiting for the GPU.
    backend = "cpu:gloo,cuda:nccl" if is_cuda else "gloo"
    ddp = DDPStrategy(cluster_environment=environment(devices, nodes), process_group_backend=backend)
    return {"strategy": ddp, "sync_batchnorm": is_cuda}  # torch has synchronised batch norms only for GPUs


def precision(wanted: str, accelerator: str) -> str:
    """Lightning's long name of the precision: "auto" is bf16-mixed where that is faster, else 32-true."""
    if wanted != "auto":
        return long_name(wanted)
    return "bf16-mixed" if bf16_wins(_device(accelerator)) else "32-true"


def check_device(trainer: DictConfig) -> None:
    """Refuse to train on a GPU that is not there, or in float16 on a CPU, where Lightning takes bfloat16 instead.

    Raises:
        ValueError: This machine cannot train as `trainer` asks.
    """
    device = _device(trainer.accelerator)
    if trainer.accelerator not in ("auto", "cpu", device) and (trainer.accelerator != "gpu" or device == "cpu"):
        here = "no GPU that PyTorch can use" if device == "cpu" else f"a GPU for trainer.accelerator={device}"
        raise ValueError(f"trainer.accelerator={trainer.accelerator}: this machine has {here}; auto takes what there is")
    if long_name(trainer.precision) == FLOAT16 and device == "cpu":
        raise ValueError(
            f"trainer.precision={trainer.precision}: a CPU has no float16 training; wanted bf16-mixed, 32-true or auto"
        )


def _device(accelerator: str) -> str:
    """The type of the devices of a run: the GPUs of NVIDIA or of Apple, if there are any and the run may use them."""
    if accelerator == "cpu":
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def silence_lightning() -> None:
    """Silence Lightning's hints, which do not fit a loader without workers and a run folder of our own."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
