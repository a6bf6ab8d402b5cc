"""From a config to objects: the only place that instantiates."""

import logging
import warnings
from collections.abc import Sequence
from typing import cast

import torch
from hydra.utils import instantiate
from lightning import Callback, Trainer
from lightning.pytorch.plugins.io import CheckpointIO
from omegaconf import DictConfig
from torch import Tensor, nn

from fcnseg import limits
from fcnseg.data.module import VOCDataModule
from fcnseg.task import SegmentationTask


def data(cfg: DictConfig) -> VOCDataModule:
    """The data module of `cfg.data`, with `cfg.aug` and `cfg.seed`."""
    return cast(VOCDataModule, instantiate(cfg.data, augment=instantiate(cfg.aug), seed=cfg.seed))


def task(cfg: DictConfig, *, num_classes: int, class_pixels: Tensor) -> SegmentationTask:
    """The task of `cfg.model`, `cfg.loss`, `cfg.optimizer` and `cfg.schedule`.

    Args:
        cfg: The whole config.
        num_classes: Of the data.
        class_pixels: (num_classes + 1,) pixels of every class in train, then of void.
    """
    net = instantiate(cfg.model, num_classes=num_classes)
    return SegmentationTask(
        net,
        loss=instantiate(cfg.loss, class_pixels=class_pixels),
        optimizer=instantiate(cfg.optimizer),
        schedule=instantiate(cfg.schedule),
        num_classes=num_classes,
        memory_format=memory_format(net),
    )


def trainer(
    cfg: DictConfig, *, callbacks: Sequence[Callback] = (), checkpoint_io: CheckpointIO | None = None
) -> Trainer:
    """Lightning's Trainer of `cfg.trainer`, quiet: what a run has to say, our callbacks say."""
    quieten()
    limits.keep_freed_memory()
    return cast(
        Trainer,
        instantiate(
            cfg.trainer,
            precision=precision(cfg.trainer.precision, cfg.trainer.accelerator),
            callbacks=list(callbacks),
            plugins=[checkpoint_io] if checkpoint_io else None,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        ),
    )


def memory_format(net: nn.Module) -> torch.memory_format:
    """Channels last, which convolutions are fastest in, unless instance norm would undo it at every layer."""
    instance_norm = any(isinstance(module, nn.InstanceNorm2d) for module in net.modules())
    return torch.contiguous_format if instance_norm else torch.channels_last


def precision(wanted: str, accelerator: str) -> str:
    """Lightning's name of the precision: "auto" is bf16-mixed where the hardware multiplies bfloat16, else 32-true."""
    if wanted != "auto":
        return wanted
    if accelerator != "cpu" and torch.cuda.is_available():
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        has_bf16 = capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
    return "bf16-mixed" if has_bf16 else "32-true"


def quieten() -> None:
    """Silence Lightning's hints, which do not fit a loader without workers and a run folder of our own."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
