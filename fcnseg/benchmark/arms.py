"""The arms: four ways to train the same network on the same images, in the same order, which take turns."""

import resource
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning import Callback, Fabric, LightningModule, Trainer
from torch import Tensor, nn

from fcnseg import build
from fcnseg.benchmark.conventional import StockModule, image_loader, of_stock_layers
from fcnseg.benchmark.process import Figures, Show, call
from fcnseg.benchmark.roofline import now
from fcnseg.callbacks.finite_loss import FiniteLoss
from fcnseg.data.module import VOCDataModule
from fcnseg.data.voc import VOID
from fcnseg.errors import RunFailedError
from fcnseg.task import SegmentationTask

EPOCH = 1464  # images in VOC-2012's train split
FULL, REDUCED = 1e-4, 1e-2  # how far apart, relative, first losses may lie in float32, and with bfloat16
WARMUP = 2  # steps before the timed ones, in which memory is taken and kernels are made


class Clock(Callback):
    """Reads the time at the stages of a training: as a callback of Lightning's, or called from a loop.

    Args:
        device: The device whose work is waited for before the time is read.
        steps: The number of steps from the training's start to the end of its timed steps.
        count_syncs: Whether to count how often the host waits for the GPU in the timed steps. That itself takes time.
    """

    def __init__(self, device: torch.device, steps: int, *, count_syncs: bool = False) -> None:
        self.device, self.count_syncs = device, count_syncs
        self.stages = {1: "first step", WARMUP: "warm-up", steps: "timed"}  # by the step that ends them
        self.marks: dict[str, float] = {}
        self.ends: list[float] = []  # of every step, read without waiting for the device
        self.first_loss = 0.0
        self.warned: list[warnings.WarningMessage] = []
        self.mark("start")

    def mark(self, stage: str) -> None:
        """Read the time at the end of `stage`."""
        self.marks[stage] = now(self.device)

    def step(self, loss: Tensor) -> None:
        """Note the end of a step."""
        self.ends.append(time.perf_counter())
        stage = self.stages.get(len(self.ends))
        if self.count_syncs and stage == "timed":
            torch.cuda.set_sync_debug_mode("default")
        if stage:
            self.mark(stage)
        if stage == "first step":
            self.first_loss = loss.item()
        if self.count_syncs and stage == "warm-up":
            self.warned = warnings.catch_warnings(record=True, action="always").__enter__() or []
            torch.cuda.set_sync_debug_mode("warn")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that all is set up."""
        self.mark("set-up")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the end of a step."""
        self.step(outputs["loss"])


def precision_of(cfg: Any) -> str:
    """Lightning's name of the precision that `cfg` trains in."""
    return build.precision(cfg.trainer.precision, cfg.trainer.accelerator)


def fabric_of(cfg: Any) -> Fabric:
    """The device that `cfg` trains on and the precision that it trains in."""
    precision: Any = precision_of(cfg)
    return Fabric(accelerator=cfg.trainer.accelerator, devices=cfg.trainer.devices, precision=precision)


def task_of(cfg: Any, data: VOCDataModule) -> SegmentationTask:
    """The task, with weights drawn from the seed: the same ones in every process."""
    torch.manual_seed(cfg.seed)
    return build.task(cfg, num_classes=data.num_classes, class_pixels=data.class_pixels)


def train(cfg: Any, name: str, *, count_syncs: bool = False) -> Figures:
    """Train with the arm `name` for `cfg.steps` timed steps after those to warm up.

    With `count_syncs`, it is counted how often the host waits for the GPU in those steps, and their time means nothing.
    """
    device, steps = fabric_of(cfg).device, WARMUP + cfg.steps
    clock = Clock(device, steps, count_syncs=count_syncs)
    data = build.data(cfg)
    data.prepare_data()
    data.parts["train"] = ("train", torch.arange(steps * data.batch_size) % data.count("train"))
    clock.mark("pack")
    task = task_of(cfg, data)
    clock.mark("build")
    ARMS[name](cfg, data, task, clock)
    seconds = {stage: end - start for (_, start), (stage, end) in pairwise(clock.marks.items())}
    timed, _ = seconds.pop("timed"), seconds.pop("warm-up")
    return {
        "precision": precision_of(cfg) if name in OURS else "32-true",
        "first_loss": clock.first_loss,
        "cold": seconds,
        "images_per_s": cfg.steps * data.batch_size / timed,
        "host_mb": host_peak(),
        "gpu_mb": torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None,
        "syncs_per_step": sum("synchronizing" in str(warning.message) for warning in clock.warned) / cfg.steps,
    }


def host_peak() -> float:
    """The most memory in MB that this process has had at a time."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _stock(task: SegmentationTask) -> tuple[nn.Module, nn.Module, Callable[[Any], Any]]:
    """Network, loss and optimiser of `task` as torch has them."""
    loss: Any = task.loss
    optimizer: Any = task.optimizer  # a partial of one of torch's
    criterion = nn.CrossEntropyLoss(loss.weight if loss.weighted else None, ignore_index=VOID)
    return of_stock_layers(task.net), criterion, partial(optimizer.func, lr=optimizer.keywords["lr"])


def plain(cfg: Any, data: VOCDataModule, task: SegmentationTask, clock: Clock) -> None:
    """Train in a loop of plain PyTorch, which reads the loss after every step."""
    net, criterion, make_optimizer = _stock(task)
    net, criterion = net.to(clock.device).train(), criterion.to(clock.device)
    optimizer = make_optimizer(net.parameters())
    loader = image_loader(data, clock.device)
    running = 0.0
    clock.mark("set-up")
    for image, mask in loader:
        image, mask = image.to(clock.device), mask.to(clock.device)
        optimizer.zero_grad()
        loss = criterion(net(image), mask)
        loss.backward()
        optimizer.step()
        running += loss.item()
        clock.step(loss)


def lightning(cfg: Any, data: VOCDataModule, task: SegmentationTask, clock: Clock) -> None:
    """Train a stock Lightning module with Lightning's defaults."""
    where = {"accelerator": cfg.trainer.accelerator, "devices": cfg.trainer.devices}
    with TemporaryDirectory() as folder:
        trainer = Trainer(max_epochs=1, default_root_dir=folder, callbacks=[clock], **where)
        trainer.fit(StockModule(*_stock(task)), image_loader(data, clock.device))


def fcnseg(cfg: Any, data: VOCDataModule, task: SegmentationTask, clock: Clock) -> None:
    """Train as `python -m fcnseg.train` does, without what it does between epochs: validation and saving."""
    trainer = build.trainer(cfg, callbacks=[FiniteLoss(), clock])
    trainer.limit_val_batches = 0
    trainer.fit_loop.max_epochs = 1
    trainer.fit(task, data)


def everything(cfg: Any, data: VOCDataModule, task: SegmentationTask, clock: Clock) -> None:
    """Train as the arm `fcnseg`, with the network compiled."""
    task.net.compile()
    fcnseg(cfg, data, task, clock)


ARMS = {"plain": plain, "lightning": lightning, "fcnseg": fcnseg, "everything": everything}
OURS = ("fcnseg", "everything")


def compare(cfg: Any, show: Show) -> dict[str, Figures]:
    """Train with every arm in turns, so that what else the machine does meets all of them.

    Raises:
        RunFailedError: The arms' first losses do not agree, so that they would not train the same.
    """
    blocks: dict[str, list[Figures]] = {name: [] for name in cfg.arms}
    for turn in range(cfg.repeats):
        for name in list(blocks)[:: -1 if turn % 2 else 1]:
            show(f"{name}, block {turn + 1} of {cfg.repeats}")
            blocks[name].append(call(train, cfg, name))
        check_first_losses({name: done[0] for name, done in blocks.items()})
    arms = {name: _summary(done) for name, done in blocks.items()}
    plain = arms.get("plain", {}).get("images_per_s")
    for name, figures in arms.items():
        if "failed" not in figures:
            figures["times_plain"] = figures["images_per_s"] / plain if plain else None
            on_gpu = figures["gpu_mb"] is not None
            counted = call(train, cfg, name, count_syncs=True) if on_gpu else {}
            figures["syncs_per_step"] = counted.get("syncs_per_step")
    return arms


def check_first_losses(arms: Mapping[str, Figures]) -> None:
    """Hold every arm's first loss against the first arm's.

    Raises:
        RunFailedError: Two of them lie too far apart.
    """
    trained = [(name, arm["first_loss"], arm["precision"]) for name, arm in arms.items() if "failed" not in arm]
    for name, loss, precision in trained:
        first, wanted, exact = trained[0]
        allowed = FULL if precision == exact == "32-true" else REDUCED
        if not abs(loss - wanted) <= allowed * abs(wanted):
            raise RunFailedError(
                f"the first losses of {first} ({wanted:.6f}) and {name} ({loss:.6f}) differ by more than {allowed:g}."
                " Random augmentation and dropout draw differently: set aug=none and a network without dropout"
            )


def _summary(blocks: Sequence[Figures]) -> Figures:
    """The figures of an arm from those of its blocks, or the first failure among them."""
    for block in blocks:
        if "failed" in block:
            return block
    speeds = [block["images_per_s"] for block in blocks]
    speed = median(speeds)
    summary = {"images_per_s": speed, "spread": speeds, "epoch_s": EPOCH / speed}
    return {**summary, **blocks[0], "images_per_s": speed}
