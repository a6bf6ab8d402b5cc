"""The arms: five ways to train the same network on the same images in the same order, two of them as people write them."""

import resource
from collections.abc import Callable, Iterator, Sequence
from math import prod
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassJaccardIndex
from torchvision.datasets import VOCSegmentation
from torchvision.transforms import InterpolationMode, v2

from fcnseg import build
from fcnseg.benchmark.step import fabric_of, task_of
from fcnseg.benchmark.tables import Row, Work, call, rows
from fcnseg.data.dataset import MEAN, STD, VOID
from fcnseg.data.module import DataModule
from fcnseg.data.settings import sides, spelled
from fcnseg.data.voc import NUM_CLASSES, PLACES
from fcnseg.errors import RunFailedError
from fcnseg.fit import Training
from fcnseg.learning.task import SegmentationTask
from fcnseg.machine.limits import cores
from fcnseg.machine.signals import StopRequest
from fcnseg.results.costs import now
from fcnseg.results.result import Code
from fcnseg.runs.folder import Run

FULL, REDUCED = 1e-4, 1e-2  # the largest relative difference of first losses: in float32, with bfloat16
PIXEL_BYTES = 4  # the bytes of a pixel in a pack: three of its colour, and its label
WARMUP = 2  # the number of steps before the timed ones, in which memory is taken and kernels are made


class Clock:
    """A stopwatch for a training of `steps` steps on `device`, of which those after the warm-up are timed.

    A loop calls `step` after each of its steps. Lightning's Trainer does so by `callback`.
    """

    def __init__(self, device: torch.device, steps: int) -> None:
        self.device = device
        self.steps = steps
        self.done = 0
        self.first_loss = 0.0
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


def train(cfg: DictConfig, arm: str, *, steps: int, images: int | None = None) -> Row:
    """Train with an arm: `steps` timed steps after the warm-up, on the first `images` images over and over (None: on all).

    The precision of `cfg` is not "auto".
    """
    how = ARMS[arm]
    if how.other_precision:
        cfg.trainer.precision = "bf16-mixed" if cfg.trainer.precision == "32-true" else "32-true"
    device, done, data = fabric_of(cfg).device, WARMUP + steps, build.data(cfg)
    data.prepare_data()
    # As many images as the steps need: the end of an epoch would be timed as well.
    data.stages["train"] = ("train", torch.arange(done * data.batch_size) % (images or data.count("train")))
    task = task_of(cfg, data)
    if how.compiled:
        task.net.compile()
    clock = Clock(device, done)
    how.train(cfg, data, task, clock)
    return {
        "precision": cfg.trainer.precision if how.train is train_as_a_run else "32-true",
        "first_loss": clock.first_loss,
        "first_step_s": clock.times[1] - clock.times[0],
        "images_per_s": data.batch_size * steps / clock.timed_s,
        "host_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,  # the peak of the process
        "gpu_mb": torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None,
    }


def image_loader(data: DataModule, device: torch.device) -> DataLoader[Any]:
    """A loader as people write it: torchvision's VOCSegmentation, and a worker that decodes on every core.

    It gives `data`'s train images in the order of the first epoch, (N, 3, S, S) float32 and normalised, and their masks,
    (N, S, S) int64.

    Raises:
        ValueError: The images are not where torchvision looks for VOC.
    """
    found = data.source(data.root)
    folder, place = found.path, {name: index for index, name in enumerate(found.names("train"))}
    if not folder.match(PLACES[0]):
        raise ValueError(f"data.root={data.root} has VOC in {folder}; torchvision wants it in {PLACES[0]}")
    size, to_float = sides(data.size), v2.ToDtype(torch.float32, scale=True)
    image = v2.Compose([v2.Resize(size), v2.ToImage(), to_float, v2.Normalize(MEAN, STD)])
    mask = v2.Compose([v2.Resize(size, InterpolationMode.NEAREST), v2.PILToTensor(), lambda mask: mask[0].long()])
    return DataLoader(
        VOCSegmentation(folder.parent.parent, image_set="train", transform=image, target_transform=mask),
        data.batch_size,
        sampler=[place[name] for name in data.names("train", data.train_dataloader().order(0))],
        num_workers=cores(),
        pin_memory=device.type == "cuda",
        persistent_workers=True,
        multiprocessing_context="fork",  # Linux's default, but not that of a process of the fork server
    )


def of_stock_layers(net: nn.Module) -> nn.Module:
    """The same network with torch's own transposed convolutions in place of this package's."""
    for module in net.modules():
        if isinstance(module, nn.ConvTranspose2d):
            module.__class__ = nn.ConvTranspose2d
    return net.to(memory_format=torch.contiguous_format)


class StockModule(LightningModule):
    """A Lightning module as in tutorials, with the network of `task`, which is changed, and torch's own loss and optimiser."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.net = of_stock_layers(task.net)
        self.criterion = nn.CrossEntropyLoss(task.loss.weight if task.loss.weighted else None, ignore_index=VOID)
        self.make = task.optimizer.keywords["make"]  # it is a partial of one of torch's classes
        self.train_iou = MulticlassJaccardIndex(NUM_CLASSES, ignore_index=VOID)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Compute the loss, and log it beside the IoU."""
        image, mask = batch
        logits = self.net(image)
        loss: Tensor = self.criterion(logits, mask)
        self.train_iou(logits, mask)
        self.log("train_loss", loss, prog_bar=True)
        self.log("train_iou", self.train_iou, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        """Make the optimiser, with torch's defaults except for the learning rate."""
        return self.make.func(self.net.parameters(), lr=self.make.keywords["lr"])


def train_in_a_loop(cfg: DictConfig, data: DataModule, task: SegmentationTask, clock: Clock) -> None:
    """Train in a loop of plain PyTorch, which reads the loss after every step."""
    module = StockModule(task).to(clock.device).train()
    optimizer, running = module.configure_optimizers(), 0.0  # such loops print the sum of the losses
    for image, mask in image_loader(data, clock.device):
        image, mask = image.to(clock.device), mask.to(clock.device)
        optimizer.zero_grad()
        loss = module.criterion(module.net(image), mask)
        loss.backward()
        optimizer.step()
        running += loss.item()
        clock.step(loss)


def train_with_lightning(cfg: DictConfig, data: DataModule, task: SegmentationTask, clock: Clock) -> None:
    """Train a stock Lightning module with Lightning's defaults."""
    where = {key: cfg.trainer[key] for key in ("accelerator", "devices")}
    with TemporaryDirectory() as folder:
        trainer = Trainer(max_epochs=1, default_root_dir=folder, callbacks=[clock.callback], **where)
        trainer.fit(StockModule(task), image_loader(data, clock.device))


def train_as_a_run(cfg: DictConfig, data: Any, task: SegmentationTask, clock: Clock, val: Any = None) -> None:
    """Train as `python -m fcnseg.train` does, with all callbacks of a run; a batch is validated after the timed steps."""
    with TemporaryDirectory() as folder:
        run, code = Run(Path(folder)), Code(commit=None, dirty=None)
        trainer: Any = Training(cfg, run, StopRequest(), Console(quiet=True), code).trainer
        run.start(cfg)
        trainer.callbacks.append(clock.callback)
        trainer.fit_loop.max_epochs = trainer.limit_val_batches = 1
        trainer.fit(task, data, val)


class Arm(NamedTuple):
    """A way to train; the config, the data, the task and the clock are given to `train`."""

    train: Callable[[DictConfig, Any, SegmentationTask, Clock], None] = train_as_a_run
    other_precision: bool = False
    compiled: bool = False


ARMS = {
    "plain": Arm(train_in_a_loop),
    "lightning": Arm(train_with_lightning),
    "fcnseg": Arm(),
    "alternative": Arm(other_precision=True),
    "everything": Arm(compiled=True),
}


def take_turns(arms: Sequence[str], work: Work, limits: Row, repeats: int = 1) -> Iterator[list[Row]]:
    """Train with each arm `repeats` times by `work`, in turns; after every turn, yield the rows `beside_plain` of all so far.

    Because of the turns, other work on the machine slows all arms alike.

    Raises:
        RunFailedError: The arms' first losses do not agree: they would not train the same.
    """
    turns: dict[str, list[Row]] = {}
    for number in range(repeats):
        # Every other round in reverse: a machine that slows down affects all arms alike.
        for arm in arms[:: -1 if number % 2 else 1]:
            turns.setdefault(arm, []).extend(rows(work, {"arm": arm}))
            yield beside_plain([_median(done) for done in turns.values()], limits)


def _median(turns: Sequence[Row]) -> Row:
    """The figures of an arm's first failed turn; without one, those of its first turn, with the median of all speeds."""
    if failed := [turn for turn in turns if "failed" in turn]:
        return failed[0]
    speeds = [turn["images_per_s"] for turn in turns]
    return {**turns[0], "images_per_s": median(speeds), "spread": speeds}


def beside_plain(arms: Sequence[Row], limits: Row) -> list[Row]:
    """A row for each arm, with its speed beside that of `plain` and beside the machine's `limits`, images/s by precision.

    Raises:
        RunFailedError: The first losses of two arms differ too much.
    """
    trained = [arm for arm in arms if "failed" not in arm]
    plain = next((arm["images_per_s"] for arm in trained if arm["arm"] == "plain"), None)
    for arm in trained:
        check_first_losses(trained[0], arm)
        speed, limit = arm["images_per_s"], limits.get(arm["precision"])
        arm.update(times_plain=plain and speed / plain, roofline=limit and speed / limit)
    return list(arms)


def check_first_losses(one: Row, other: Row) -> None:
    """Refuse two arms that do not train the same.

    Raises:
        RunFailedError: Their first losses differ by more than rounding.
    """
    wanted, loss = float(one["first_loss"]), float(other["first_loss"])
    allowed = FULL if one["precision"] == other["precision"] == "32-true" else REDUCED
    if not abs(loss - wanted) <= allowed * abs(wanted):  # not `>`, by which NaN would be the same
        raise RunFailedError(
            f"the first losses of {one['arm']} ({wanted:.6f}) and {other['arm']} ({loss:.6f}) differ by more than"
            f" {allowed:g}. Random augmentation and dropout draw differently: set aug=none and a network without dropout"
        )


def epoch(cfg: DictConfig) -> Row:
    """The seconds and the memory of an epoch of generated images.

    As many steps on two batches alone show what memory torch takes: the rest is the memory of the data.
    """
    source, size, batch_size = cfg.data.source, cfg.data.size, cfg.data.batch_size
    steps = max(1, source.train // batch_size - WARMUP)
    few, whole = (call(train, cfg, "fcnseg", steps=steps, images=images) for images in (2 * batch_size, source.train))
    return {
        "images": source.train,
        "size": spelled(size),
        "batch_size": batch_size,
        "epoch_s": source.train / whole["images_per_s"],
        "ms_per_image": 1e3 / whole["images_per_s"],
        "pack_mb": (source.train + source.val) * PIXEL_BYTES * prod(sides(size)) / 1e6,
        "peak_mb": whole["host_mb"],
        "data_mb": whole["host_mb"] - few["host_mb"],
    }
