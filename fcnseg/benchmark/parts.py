"""The parts of a training, measured by themselves, each beside another way to do it."""

import os
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassJaccardIndex

from fcnseg import build
from fcnseg.benchmark.arms import WARMUP, Clock, image_loader, train_as_a_run
from fcnseg.benchmark.step import bare_step, prepare, seconds
from fcnseg.benchmark.tables import Row
from fcnseg.data.batch import Batch
from fcnseg.data.dataset import VOID
from fcnseg.data.packed import pack
from fcnseg.learning.metrics import SegmentationMetrics

CPU = torch.device("cpu")
TOY_STEPS = 500


def beside(images: int, ours_s: float, theirs_s: float) -> Row:
    """The milliseconds that two ways to do the same take for so many images, and how many times as fast the first one is."""
    return {"images": images, "fcnseg_ms": 1e3 * ours_s, "other_ms": 1e3 * theirs_s, "times": theirs_s / ours_s}


def data_path(cfg: DictConfig) -> Row:
    """The time of an epoch's normalised batches on the device: from this package, and from a DataLoader."""
    data, _, fabric, _ = prepare(cfg)
    data.packs = {name: each.to(fabric.device) for name, each in data.packs.items()}
    workers = image_loader(data, fabric.device)  # their start is not counted

    def ours() -> None:
        for batch in data.train_dataloader():
            data.on_after_batch_transfer(fabric.to_device(batch), 0)

    def theirs() -> None:
        for batch in workers:
            fabric.to_device(batch)

    return beside(data.count("train"), *seconds(ours, theirs, device=fabric.device, repeats=cfg.repeats))


def packing(cfg: DictConfig) -> Row:
    """The time to build the pack of train, with nothing kept from before: on all cores, and on one."""
    data, cores = build.data(cfg), os.sched_getaffinity(0)
    data_set = data.source(data.root)

    def on(some: set[int]) -> None:
        os.sched_setaffinity(0, some)
        with TemporaryDirectory() as cache:
            pack(data_set, "train", data.size, cache=Path(cache))

    taken = seconds(partial(on, cores), partial(on, {min(cores)}), device=CPU, repeats=1)
    return beside(len(data_set.names("train")), *taken)


def metrics(cfg: DictConfig) -> Row:
    """The time to add a batch's predictions to all scores of a run, and to torchmetrics' IoU, which is one of them."""
    data, _, fabric, batch = prepare(cfg)
    ours = SegmentationMetrics(data.classes).to(fabric.device)
    stock = MulticlassJaccardIndex(len(data.classes), ignore_index=VOID).to(fabric.device)
    mask, labels = batch.mask, batch.mask.long()
    logits = torch.randn(len(mask), len(data.classes), *mask.shape[1:], device=fabric.device)
    jobs = partial(ours.update, logits.max(dim=1).indices, mask), partial(stock.update, logits, labels)
    return beside(len(mask), *seconds(*jobs, device=fabric.device, repeats=cfg.repeats))


def loop(cfg: DictConfig) -> Row:
    """The host's time for a step of a network with next to no work: in a run, and in a bare loop."""
    torch.set_num_threads(1)  # so little work is not worth sharing
    data, task, fabric, _ = prepare(cfg)
    task.net = nn.Conv2d(3, len(data.classes), 1)
    # The images are so small that a step is hardly more than the loop.
    tiny = Batch(torch.randn(4, 3, 8, 8), torch.zeros(4, 8, 8, dtype=torch.uint8), torch.arange(4))
    batch = fabric.to_device(tiny)
    copies: Any = [batch] * TOY_STEPS
    clock = Clock(CPU, TOY_STEPS)  # the host's time: it does not wait for a GPU
    train_as_a_run(cfg, DataLoader(copies, batch_size=None), task, clock, DataLoader(copies[:1], batch_size=None))
    step = bare_step(task.to(fabric.device), batch, fabric)
    return beside(4, clock.timed_s / (TOY_STEPS - WARMUP), *seconds(step, device=CPU, repeats=TOY_STEPS))


PARTS = {  # every part by its name, which says what it is compared with
    "batches of an epoch, and a DataLoader's": data_path,
    "packing, and on one core": packing,
    "scores of a batch, and torchmetrics'": metrics,
    "the loop's share of a step, and a bare loop's": loop,
}
