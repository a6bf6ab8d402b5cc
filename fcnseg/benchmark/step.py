"""A training step by itself: its preparation, the step, and its timing."""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from timeit import timeit
from typing import Any

import torch
from lightning import Fabric
from torch import Tensor

from fcnseg import build
from fcnseg.data.module import VOCDataModule
from fcnseg.machine.limits import keep_freed_memory
from fcnseg.runs.costs import now
from fcnseg.task import SegmentationTask

Job = Callable[[], object]


def fabric_of(cfg: Any) -> Fabric:
    """The device that `cfg` trains on and the precision that it trains in."""
    return Fabric(**{key: cfg.trainer[key] for key in ("accelerator", "devices", "precision")})


def task_of(cfg: Any, data: VOCDataModule) -> SegmentationTask:
    """The task, with weights drawn from the seed: the same ones in every process."""
    torch.manual_seed(cfg.seed)
    return build.task(cfg, classes=data.classes, class_pixels=data.class_pixels)


def prepare(cfg: Any) -> tuple[VOCDataModule, SegmentationTask, Fabric, Any]:
    """The data, the task on its device, the device and the precision, and the first batch on the device, normalised."""
    keep_freed_memory()  # as a run does
    data, fabric = build.data(cfg), fabric_of(cfg)
    data.prepare_data()
    batch = data.on_after_batch_transfer(fabric.to_device(next(iter(data.train_dataloader()))), 0)
    return data, task_of(cfg, data).to(fabric.device).train(), fabric, batch


def bare_step(task: SegmentationTask, batch: Any, fabric: Fabric) -> Callable[[], Tensor]:
    """A training step on one batch, without Lightning's Trainer; it returns the loss."""
    optimizer = task.optimizer(task.net)

    def step() -> Tensor:
        optimizer.zero_grad()
        with fabric.autocast():
            loss: Tensor = task.loss(task(batch.image), batch.mask)
        loss.backward()
        optimizer.step()
        return loss

    return step


def seconds(
    *jobs: Job, device: torch.device, repeats: int = 10, of: Callable[[Sequence[float]], float] = median
) -> list[float]:
    """The median seconds of each job, or their minimum (`of=min`); the jobs take turns, and their first calls do not count."""
    turns = [[timeit(job, timer=partial(now, device), number=1) for job in jobs] for _ in range(1 + repeats)]
    return [of(taken) for taken in zip(*turns[1:], strict=True)]
