"""The arms: five ways to train the same network on the same images, in the same order, which take turns."""

import resource
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning import Callback, Fabric, LightningModule, Trainer
from rich.console import Console
from torch import Tensor

from fcnseg import build
from fcnseg.benchmark.conventional import StockModule, image_loader
from fcnseg.benchmark.process import Figures, Show, call
from fcnseg.benchmark.roofline import now
from fcnseg.data.module import VOCDataModule
from fcnseg.errors import RunFailedError
from fcnseg.fit import Training
from fcnseg.machine.signals import StopRequest
from fcnseg.runs.folder import Run
from fcnseg.task import SegmentationTask

FULL, REDUCED = 1e-4, 1e-2  # how far apart, relative, first losses may lie in float32, and with bfloat16
WARMUP = 2  # steps before the timed ones, in which memory is taken and kernels are made
OTHER = {"32-true": "bf16-mixed"}  # the precision of the arm `alternative`; for all others it is float32
COLD = ("pack", "build", "set-up", "first step")  # the stages until the first step is done


class Clock(Callback):
    """Takes the time of the stages of a training: as a callback of Lightning's, or called from a loop.

    Args:
        device: The device whose work is waited for before the time is read.
        steps: The number of steps from the training's start to the end of its timed steps.
    """

    def __init__(self, device: torch.device, steps: int) -> None:
        self.device, self.steps = device, steps
        self.done = 0
        self.first_loss = 0.0
        self.seconds: dict[str, float] = {}  # of each stage
        self.last = now(device)

    def mark(self, stage: str) -> None:
        """Note the end of `stage`, which began when the one before it ended."""
        before, self.last = self.last, now(self.device)
        self.seconds[stage] = self.last - before

    def step(self, loss: Tensor) -> None:
        """Note the end of a step."""
        self.done += 1
        if stage := {1: "first step", WARMUP: "warm-up", self.steps: "timed"}.get(self.done):
            self.mark(stage)
        if self.done == 1:  # after the mark: reading it on a GPU takes time
            self.first_loss = loss.item()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that all is set up."""
        self.mark("set-up")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the end of a step."""
        self.step(outputs["loss"])


def fabric_of(cfg: Any) -> Fabric:
    """The device that `cfg` trains on and the precision that it trains in."""
    trainer = cfg.trainer
    return Fabric(accelerator=trainer.accelerator, devices=trainer.devices, precision=trainer.precision)


def task_of(cfg: Any, data: VOCDataModule) -> SegmentationTask:
    """The task, with weights drawn from the seed: the same ones in every process."""
    torch.manual_seed(cfg.seed)
    return build.task(cfg, classes=data.classes, class_pixels=data.class_pixels)


def train(cfg: Any, name: str, images: int | None = None) -> Figures:
    """Train with an arm for `cfg.steps` timed steps after those to warm up.

    Args:
        cfg: What is trained, and for how many steps.
        name: The name of the arm.
        images: The number of images that are trained on, over and over; None stands for all.
    """
    if name == "alternative":
        cfg.trainer.precision = OTHER.get(cfg.trainer.precision, "32-true")
    device, steps = fabric_of(cfg).device, WARMUP + cfg.steps
    clock = Clock(device, steps)
    data = build.data(cfg)
    data.prepare_data()
    # As many images as there are steps: an epoch's end would be timed as well.
    data.parts["train"] = ("train", torch.arange(steps * data.batch_size) % (images or data.count("train")))
    clock.mark("pack")
    task = task_of(cfg, data)
    clock.mark("build")
    ARMS[name](cfg, data, task, clock)
    return {
        "precision": cfg.trainer.precision if name in OURS else "32-true",
        "first_loss": clock.first_loss,
        "cold": {stage: clock.seconds[stage] for stage in COLD},
        "images_per_s": data.batch_size * cfg.steps / clock.seconds["timed"],
        "host_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,  # the most at a time
        "gpu_mb": torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None,
    }


def plain(cfg: Any, data: VOCDataModule, task: SegmentationTask, clock: Clock) -> None:
    """Train in a loop of plain PyTorch, which reads the loss after every step."""
    module = StockModule(task).to(clock.device).train()
    optimizer = module.configure_optimizers()
    loader = image_loader(data, clock.device)
    running = 0.0  # what such loops print
    clock.mark("set-up")
    for image, mask in loader:
        image, mask = image.to(clock.device), mask.to(clock.device)
        optimizer.zero_grad()
        loss = module.criterion(module.net(image), mask)
        loss.backward()
        optimizer.step()
        running += loss.item()
        clock.step(loss)


def lightning(cfg: Any, data: VOCDataModule, task: SegmentationTask, clock: Clock) -> None:
    """Train a stock Lightning module with Lightning's defaults."""
    where = {"accelerator": cfg.trainer.accelerator, "devices": cfg.trainer.devices}
    with TemporaryDirectory() as folder:
        trainer = Trainer(max_epochs=1, default_root_dir=folder, callbacks=[clock], **where)
        trainer.fit(StockModule(task), image_loader(data, clock.device))


def fcnseg(cfg: Any, data: Any, task: SegmentationTask, clock: Clock, val: Any = None) -> None:
    """Train as `python -m fcnseg.train` does, with all callbacks of a run; a batch is validated when all is timed."""
    with TemporaryDirectory() as folder:
        trainer: Any = Training(cfg, run := Run(Path(folder)), StopRequest(), Console(quiet=True), {}).trainer
        run.start(cfg, "")
        trainer.callbacks.append(clock)
        trainer.fit_loop.max_epochs = trainer.limit_val_batches = 1
        trainer.fit(task, data, val)


def everything(cfg: Any, data: VOCDataModule, task: SegmentationTask, clock: Clock) -> None:
    """Train as the arm `fcnseg`, with the network compiled."""
    task.net.compile()
    fcnseg(cfg, data, task, clock)


ARMS = {"plain": plain, "lightning": lightning, "fcnseg": fcnseg, "alternative": fcnseg, "everything": everything}
OURS = ("fcnseg", "alternative", "everything")


def compare(cfg: Any, show: Show) -> dict[str, Figures]:
    """Train with every arm in turns, so that what else the machine does meets all of them; give the figures by arm.

    Args:
        cfg: What every arm trains; `cfg.arms` are trained `cfg.repeats` times each.
        show: Shows which arm trains.

    Raises:
        RunFailedError: The arms' first losses do not agree, so that they would not train the same.
    """
    turns: dict[str, list[Figures]] = {name: [] for name in cfg.arms}
    for number in range(cfg.repeats):
        for name in list(turns)[:: -1 if number % 2 else 1]:  # a machine that slows down meets no arm more than another
            show(f"{name}, turn {number + 1} of {cfg.repeats}")
            turns[name].append(call(train, cfg, name))
        check_first_losses({name: done[0] for name, done in turns.items()})
    arms = {}
    for name, done in turns.items():
        failed = [turn for turn in done if "failed" in turn]
        speeds = [turn.get("images_per_s", 0) for turn in done]
        arms[name] = failed[0] if failed else {**done[0], "images_per_s": median(speeds), "spread": speeds}
    return arms


def table(arms: Mapping[str, Figures], limits: Figures) -> list[Figures]:
    """A row for each arm.

    Args:
        arms: The figures of each arm, by its name.
        limits: The images/s that this machine could train at the most, by precision.
    """
    rows, plain = [], arms.get("plain", {}).get("images_per_s")
    for name, arm in arms.items():
        row = {"arm": name, **{key: value for key, value in arm.items() if key != "cold"}}
        if "failed" not in arm:
            limit = limits.get(arm["precision"])
            row["times_plain"] = arm["images_per_s"] / plain if plain else None
            row["roofline"] = arm["images_per_s"] / limit if limit else None
        rows.append(row)
    return rows


def check_first_losses(arms: Mapping[str, Figures]) -> None:
    """Hold every arm's first loss against the first arm's.

    Raises:
        RunFailedError: Two of them lie too far apart.
    """
    trained = {name: arm for name, arm in arms.items() if "failed" not in arm}
    for name, arm in trained.items():
        first, reference = next(iter(trained.items()))
        wanted, loss = reference["first_loss"], arm["first_loss"]
        allowed = FULL if arm["precision"] == reference["precision"] == "32-true" else REDUCED
        if not abs(loss - wanted) <= allowed * abs(wanted):
            raise RunFailedError(
                f"the first losses of {first} ({wanted:.6f}) and {name} ({loss:.6f}) differ by more than {allowed:g}."
                " Random augmentation and dropout draw differently: set aug=none and a network without dropout"
            )
