"""What is measured beside the arms: the parts of a training by themselves, each beside another way to do it."""

import os
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassJaccardIndex

from fcnseg import build
from fcnseg.benchmark.arms import WARMUP, Clock, fcnseg
from fcnseg.benchmark.conventional import image_loader
from fcnseg.benchmark.step import Job, bare_step, prepare, typical
from fcnseg.benchmark.tables import Figures
from fcnseg.data.augment import Augmentation, EpochDraws
from fcnseg.data.batch import Batch
from fcnseg.data.dataset import VOID
from fcnseg.data.packed import pack
from fcnseg.metrics import SegmentationMetrics

CPU = torch.device("cpu")
TOY_STEPS = 500


def compared(images: int, ours: Job, theirs: Job, *, device: torch.device, repeats: int) -> Figures:
    """The milliseconds of two ways to do the same for so many images."""
    return beside(images, *(typical(job, device, repeats) for job in (ours, theirs)))


def beside(images: int, ours_s: float, theirs_s: float) -> Figures:
    """The seconds of two ways in milliseconds, and how many times the first is as fast as the other."""
    return {"images": images, "fcnseg_ms": 1e3 * ours_s, "other_ms": 1e3 * theirs_s, "times": theirs_s / ours_s}


def augmentations(cfg: Any, choices: dict[str, Any]) -> list[Figures]:
    """The milliseconds of every choice of `aug`, each in a config, on a batch; their share of `cfg`'s training step."""
    data, task, fabric, batch = prepare(cfg)
    image, mask, sample = fabric.to_device(next(iter(data.train_dataloader())))
    draws = EpochDraws(cfg.seed, 0, data.count("train"), fabric.device)

    def augment(augmentation: Augmentation) -> None:
        augmentation(image, mask, draws.of(sample))

    jobs: dict[str, Job] = {"a training step": bare_step(task, batch, fabric)}
    jobs |= {name: partial(augment, build.data(choice).augment) for name, choice in choices.items()}
    turns = [{name: typical(job, fabric.device, 1) for name, job in jobs.items()} for _ in range(cfg.repeats)]
    ms = {name: 1e3 * median(turn[name] for turn in turns) for name in jobs}
    return [
        {"aug": name, "ms": own, "images_per_s": 1e3 * len(mask) / own, "share_of_step": own / ms["a training step"]}
        for name, own in ms.items()
    ]


def data_path(cfg: Any) -> Figures:
    """The normalised batches of an epoch, on the device, and those of a DataLoader."""
    data, _, fabric, _ = prepare(cfg)
    data.packs = {name: pack.to(fabric.device) for name, pack in data.packs.items()}
    workers = image_loader(data, fabric.device)  # whose start is not counted

    def ours() -> None:
        for batch in data.train_dataloader():
            data.on_after_batch_transfer(fabric.to_device(batch), 0)

    def theirs() -> None:
        for batch in workers:
            fabric.to_device(batch)

    return compared(data.count("train"), ours, theirs, device=fabric.device, repeats=cfg.repeats)


def packing(cfg: Any) -> Figures:
    """Building the pack of the train split from nothing on all cores, and on one."""
    data, cores = build.data(cfg), os.sched_getaffinity(0)
    data_set = data.source(data.root)

    def on(some: set[int]) -> None:
        os.sched_setaffinity(0, some)
        with TemporaryDirectory() as cache:
            pack(data_set, "train", data.size, cache=Path(cache))

    jobs = partial(on, cores), partial(on, {min(cores)})
    return compared(len(data_set.ids("train")), *jobs, device=CPU, repeats=1)


def metrics(cfg: Any) -> Figures:
    """The scores of a batch, and torchmetrics' IoU alone."""
    data, _, fabric, batch = prepare(cfg)
    ours = SegmentationMetrics(data.classes).to(fabric.device)
    stock = MulticlassJaccardIndex(len(data.classes), ignore_index=VOID).to(fabric.device)
    mask, labels = batch.mask, batch.mask.long()
    logits = torch.randn(len(mask), len(data.classes), *mask.shape[1:], device=fabric.device)
    prediction = logits.max(dim=1).indices
    jobs = partial(ours.update, prediction, mask), partial(stock.update, logits, labels)
    return compared(len(mask), *jobs, device=fabric.device, repeats=cfg.repeats)


def loop(cfg: Any) -> Figures:
    """What the host spends on a step of a network with next to no work: in a run, and in a bare loop."""
    torch.set_num_threads(1)  # work this small is not worth sharing
    data, task, fabric, _ = prepare(cfg)
    task.net = nn.Conv2d(3, len(data.classes), 1)
    # Images so small that what is left of a step is the loop.
    images, masks = torch.randn(4, 3, 8, 8), torch.zeros(4, 8, 8, dtype=torch.uint8)
    batch = fabric.to_device(Batch(images, masks, torch.arange(4)))
    copies: Any = [batch] * TOY_STEPS
    clock = Clock(CPU, TOY_STEPS)  # the host's time: it does not wait for a GPU
    fcnseg(cfg, DataLoader(copies, batch_size=None), task, clock, DataLoader(copies[:1], batch_size=None))
    in_a_run = clock.seconds["timed"] / (TOY_STEPS - WARMUP)
    return beside(len(images), in_a_run, typical(bare_step(task.to(fabric.device), batch, fabric), CPU, TOY_STEPS))


PARTS = {  # each beside another way
    "batches of an epoch, and a DataLoader's": data_path,
    "packing, and on one core": packing,
    "scores of a batch, and torchmetrics'": metrics,
    "the loop's share of a step, and a bare loop's": loop,
}
