"""What the host spends on a step beside the network: Lightning and this package's callbacks against a bare loop."""

import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from torch import nn
from torch.optim.lr_scheduler import ConstantLR
from torch.utils.data import DataLoader, Dataset

from fcnseg import build
from fcnseg.benchmark.arms import device_of
from fcnseg.benchmark.process import Link, Plan
from fcnseg.callbacks.checkpoints import Checkpoints
from fcnseg.callbacks.finite_loss import FiniteLoss
from fcnseg.callbacks.progress import Screen
from fcnseg.callbacks.run_log import RunLog
from fcnseg.data import voc
from fcnseg.data.batch import Batch
from fcnseg.losses import CrossEntropy
from fcnseg.signals import StopRequest
from fcnseg.task import SegmentationTask

TOY_STEPS = 150
TOY_SHAPE = (4, 3, 8, 8)  # so small that what is left of a step is the loop


class _Copies(Dataset[Batch]):
    """The same batch several times."""

    def __init__(self, batch: Batch, length: int) -> None:
        self.batch, self.length = batch, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Batch:
        return self.batch


class _Moments(Callback):
    """The time of every step's end."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.times.append(time.perf_counter())


def loop(link: Link, plan: Plan) -> None:
    """Answers milliseconds that the host spends on a step beyond a bare loop, with a network of next to no work."""
    torch.set_num_threads(1)
    precision = build.precision(plan.cfg.trainer.precision, plan.cfg.trainer.accelerator)
    device = device_of(plan.cfg.trainer.accelerator)
    image, mask = torch.randn(TOY_SHAPE), torch.zeros(TOY_SHAPE[0], *TOY_SHAPE[2:], dtype=torch.uint8)
    batch = Batch(*(part.to(device) for part in (image, mask, torch.arange(len(mask)))))
    ours, bare = [], []
    for _ in range(plan.repeats):  # in turns
        task = SegmentationTask(
            nn.Conv2d(3, voc.NUM_CLASSES, 1),
            loss=CrossEntropy(torch.ones(voc.NUM_CLASSES + 1), weighted=False),
            optimizer=partial(torch.optim.AdamW, fused=True),
            schedule=ConstantLR,
            num_classes=voc.NUM_CLASSES,
        )
        ours.append(_run_loop(plan, task, batch))
        bare.append(_bare_loop(task.to(device), [batch] * TOY_STEPS, precision))
    overhead = median(run - loop for run, loop in zip(ours, bare, strict=True))
    link.send({"bare_ms": median(bare) * 1e3, "trainer_ms": median(ours) * 1e3, "overhead_ms": overhead * 1e3})


def _run_loop(plan: Plan, task: SegmentationTask, batch: Batch) -> float:
    """Seconds of a step with the callbacks of a run, which log and save after each of two epochs."""
    with TemporaryDirectory() as folder:
        finite, moments, home = FiniteLoss(), _Moments(), Path(folder)
        log, screen = RunLog(home, {}), Console(quiet=True)
        checkpoints = Checkpoints(home, stop=StopRequest(), finite=finite)
        trainer = build.trainer(plan.cfg, callbacks=[finite, log, Screen(log, screen), checkpoints, moments])
        trainer.fit_loop.max_epochs = 2
        training, validation = (DataLoader(_Copies(batch, steps), batch_size=None) for steps in (TOY_STEPS, 1))
        trainer.fit(task, training, validation)
    return _step_seconds(moments.times[-TOY_STEPS:])


def _bare_loop(task: SegmentationTask, batches: list[Batch], precision: str) -> float:
    optimizer = torch.optim.AdamW(task.net.parameters(), fused=True)
    times = []
    for image, mask, _ in batches:
        optimizer.zero_grad()
        with torch.autocast(image.device.type, torch.bfloat16, enabled=precision != "32-true"):
            loss = task.loss(task.net(image), mask)
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter())
    return _step_seconds(times)


def _step_seconds(ends: list[float]) -> float:
    return median(end - before for before, end in pairwise(ends[10:]))  # the first ones are cold
