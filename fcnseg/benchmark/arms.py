"""The arms: five ways to train the same network on the same images in the same order. They take turns."""

import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import LambdaCallback
from rich.console import Console
from torch import Tensor

from fcnseg import build
from fcnseg.benchmark.conventional import StockModule, image_loader
from fcnseg.benchmark.process import call
from fcnseg.benchmark.step import fabric_of, task_of
from fcnseg.benchmark.tables import Figures, rows
from fcnseg.data.module import VOCDataModule
from fcnseg.errors import RunFailedError
from fcnseg.fit import Training
from fcnseg.machine.signals import StopRequest
from fcnseg.runs.costs import now
from fcnseg.runs.folder import Run
from fcnseg.task import SegmentationTask

FULL, REDUCED = 1e-4, 1e-2  # the largest relative difference of first losses: in float32, with bfloat16
WARMUP = 2  # the number of steps before the timed ones, in which memory is taken and kernels are made


class Clock:
    """Takes the time of a training's steps: called from a loop, or by its callback for Lightning's Trainer.

    Args:
        device: The device whose work must end before the time is read.
        steps: The number of steps from the training's start to the end of its timed steps.
    """

    def __init__(self, device: torch.device, steps: int) -> None:
        self.device, self.steps, self.done, self.first_loss = device, steps, 0, 0.0
        self.times = {0: now(device)}  # the time by the number of steps done
        self.callback = LambdaCallback(on_train_batch_end=lambda _, task, outputs, *batch: self.step(outputs["loss"]))

    def step(self, loss: Tensor) -> None:
        """Note the end of a step."""
        self.done += 1
        if self.done in (1, WARMUP, self.steps):
            self.times[self.done] = now(self.device)
        if self.done == 1:  # after the time is read: reading a loss from a GPU takes time
            self.first_loss = loss.item()

    @property
    def timed_s(self) -> float:
        """The seconds of the timed steps, which follow the warm-up."""
        return self.times[self.steps] - self.times[WARMUP]


def train(cfg: Any, arm: str, *, steps: int, images: int | None = None) -> Figures:
    """Train with an arm: `steps` timed steps after the warm-up, on the first `images` images over and over.

    None stands for all images. The precision of `cfg` is not "auto".
    """
    if arm == "alternative":
        cfg.trainer.precision = "bf16-mixed" if cfg.trainer.precision == "32-true" else "32-true"
    device, done = fabric_of(cfg).device, WARMUP + steps
    data = build.data(cfg)
    data.prepare_data()
    # As many images as the steps need: the end of an epoch would be timed as well.
    data.stages["train"] = ("train", torch.arange(done * data.batch_size) % (images or data.count("train")))
    task = task_of(cfg, data)
    if arm == "everything":
        task.net.compile()
    clock = Clock(device, done)
    THEIRS.get(arm, train_as_a_run)(cfg, data, task, clock)
    return {
        "precision": "32-true" if arm in THEIRS else cfg.trainer.precision,
        "first_loss": clock.first_loss,
        "first_step_s": clock.times[1] - clock.times[0],
        "images_per_s": data.batch_size * steps / clock.timed_s,
        "host_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,  # the peak of the process
        "gpu_mb": torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None,
    }


def train_in_a_loop(cfg: Any, data: VOCDataModule, task: SegmentationTask, clock: Clock) -> None:
    """Train in a loop of plain PyTorch, which reads the loss after every step."""
    module = StockModule(task).to(clock.device).train()
    optimizer, loader = module.configure_optimizers(), image_loader(data, clock.device)
    running = 0.0  # such loops print this sum
    for image, mask in loader:
        image, mask = image.to(clock.device), mask.to(clock.device)
        optimizer.zero_grad()
        loss = module.criterion(module.net(image), mask)
        loss.backward()
        optimizer.step()
        running += loss.item()
        clock.step(loss)


def train_with_lightning(cfg: Any, data: VOCDataModule, task: SegmentationTask, clock: Clock) -> None:
    """Train a stock Lightning module with Lightning's defaults."""
    where = {"accelerator": cfg.trainer.accelerator, "devices": cfg.trainer.devices}
    with TemporaryDirectory() as folder:
        trainer = Trainer(max_epochs=1, default_root_dir=folder, callbacks=[clock.callback], **where)
        trainer.fit(StockModule(task), image_loader(data, clock.device))


def train_as_a_run(cfg: Any, data: Any, task: SegmentationTask, clock: Clock, val: Any = None) -> None:
    """Train as `python -m fcnseg.train` does, with all callbacks of a run; a batch is validated after the timed steps."""
    with TemporaryDirectory() as folder:
        trainer: Any = Training(cfg, run := Run(Path(folder)), StopRequest(), Console(quiet=True), {}).trainer
        run.start(cfg)
        trainer.callbacks.append(clock.callback)
        trainer.fit_loop.max_epochs = trainer.limit_val_batches = 1
        trainer.fit(task, data, val)


Train = Callable[[Any, Any, SegmentationTask, Clock], None]
THEIRS: dict[str, Train] = {"plain": train_in_a_loop, "lightning": train_with_lightning}  # the others train as a run


def take_turns(cfg: Any) -> Iterator[list[Figures]]:
    """Train with the arms `cfg.arms` in `cfg.repeats` turns each; after every turn, yield the medians of each arm so far.

    Because of the turns, other work on the machine slows all arms alike.

    Raises:
        RunFailedError: The arms' first losses do not agree: they would not train the same.
    """
    turns: dict[str, list[Figures]] = {}
    for number in range(cfg.repeats):
        # Every other round in reverse: a machine that slows down affects all arms alike.
        for arm in list(cfg.arms)[:: -1 if number % 2 else 1]:
            turns.setdefault(arm, []).extend(rows(partial(call, train, cfg, steps=cfg.steps), {"arm": arm}))
            check_first_losses([done[0] for done in turns.values()])
            yield [_median(done) for done in turns.values()]


def _median(turns: Sequence[Figures]) -> Figures:
    """The figures of an arm's first failed turn; without one, those of its first turn, with the median of all speeds."""
    if failed := [turn for turn in turns if "failed" in turn]:
        return failed[0]
    speeds = [turn["images_per_s"] for turn in turns]
    return {**turns[0], "images_per_s": median(speeds), "spread": speeds}


def table(arms: Sequence[Figures], limits: Mapping[str, Any]) -> list[Figures]:
    """A row for each arm, with its speed beside that of `plain` and beside the machine's `limits`, images/s by precision."""
    plain = next((arm.get("images_per_s") for arm in arms if arm["arm"] == "plain"), None)
    found = []
    for arm in arms:
        speed, limit = arm.get("images_per_s"), limits.get(arm.get("precision", ""))
        shares = {"times_plain": plain and speed / plain, "roofline": limit and speed / limit} if speed else {}
        found.append({**arm, **shares})
    return found


def check_first_losses(arms: Sequence[Figures]) -> None:
    """Compare every arm's first loss with the first arm's.

    Raises:
        RunFailedError: Two of them differ too much.
    """
    trained = [arm for arm in arms if "failed" not in arm]
    for arm in trained:
        first, wanted, loss = trained[0], float(trained[0]["first_loss"]), float(arm["first_loss"])
        allowed = FULL if arm["precision"] == first["precision"] == "32-true" else REDUCED
        if not abs(loss - wanted) <= allowed * abs(wanted):
            raise RunFailedError(
                f"the first losses of {first['arm']} ({wanted:.6f}) and {arm['arm']} ({loss:.6f}) differ by more than"
                f" {allowed:g}. Random augmentation and dropout draw differently: set aug=none and a network without dropout"
            )
