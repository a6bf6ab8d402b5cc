"""All that a GPU must show, on a day on which there is one: `python -m fcnseg.benchmark gpu_day=true`, a few minutes.

The most important comes first, and the files are whole after every row: a command that is cut off leaves what it has measured.
On a CPU the same runs, with small images.
"""

import os
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from copy import copy
from inspect import signature
from itertools import product
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor
from torch.profiler import profile
from torch.utils._pytree import tree_leaves

from fcnseg.benchmark.arms import FULL, REDUCED, check_first_losses, fabric_of, table, train
from fcnseg.benchmark.parts import bare_step, limits, prepare
from fcnseg.benchmark.process import Figures, Show, call
from fcnseg.data import voc
from fcnseg.data.shapes import shapes
from fcnseg.machine.files import read_json

WITHOUT_WEIGHTS = ("model.weights=null",)  # pretrained ones cannot be downloaded everywhere
NETWORKS: dict[str, Sequence[str]] = {"fcn": (), "transfer": WITHOUT_WEIGHTS, "wilson": (), "unet": ()}
PAPER: dict[str, Sequence[str]] = {
    **dict.fromkeys(("baseline", "cosine", "flip", "weighted", "wilson", "unet"), ()),
    "transfer": WITHOUT_WEIGHTS,
}
VOC, LONG_SIDE = (1464, 1449), 500  # its images to train on and to validate on; their longer side in pixels
FEW = (32, 8)  # the numbers of images on a CPU
ON_CPU = ("data.size=32", "data.batch_size=4", "trainer.max_epochs=2")
STEPS = 5  # whose losses are compared
EXACT = ("trainer.deterministic=true", "trainer.max_epochs=3", "checkpoint.min_seconds=0")
SAVED, KILLED = 11, 13  # the steps after which a run is saved and killed
HANGS = 5  # times what a row should take: it is killed then, so that the others get their turn


class Kill(Callback):
    """Kills the process at the end of a step.

    Args:
        step: The number of the step, counted from 1.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Kill the process if this was the step."""
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class Day:
    """What the measurements of all tables share: the configs, the folder and the time that is left.

    Args:
        compose: Makes the benchmark's config from overrides.
        own: The overrides of the command line that a training takes too; they win.
        folder: The folder for data and runs.
        seconds: How long all of it may take.
    """

    def __init__(
        self, compose: Callable[[Sequence[str]], Any], own: Sequence[str], *, folder: Path, seconds: float
    ) -> None:
        self.compose, self.folder, self.end = compose, folder, time.monotonic() + seconds
        self.on_gpu = fabric_of(compose([*own, "trainer.precision=32-true"])).device.type == "cuda"
        self.timed = f"steps={100 if self.on_gpu else 2}"
        self.own = [*(() if self.on_gpu else ON_CPU), *own]  # the last of two values wins
        few = () if self.on_gpu else (f"data.source.train={FEW[0]}", f"data.source.val={FEW[1]}")
        self.voc = ("data.size=224", f"data.root={folder}")
        self.shapes = ("data=shapes", *self.voc, *few)
        self.trained: dict[str, dict[str, Figures]] = {}  # by network and arm
        self.limits: dict[str, Figures] = {}  # by network

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return max(0.0, self.end - time.monotonic())

    def config(self, network: str, *overrides: str) -> Any:
        """The benchmark's config of a network."""
        return self.compose([f"model={network}", *NETWORKS[network], *overrides, *self.own])

    def call(self, work: Callable[..., Figures], *args: Any) -> Figures:
        """What `work` returns in a process of its own, which is killed if it hangs, or when no time is left.

        Raises:
            RuntimeError: `work` has failed.
        """
        found: Figures = call(work, *args, seconds=1 + int(self.left))
        if "failed" in found:
            raise RuntimeError(found["failed"])
        return found

    def command(self, name: str, *overrides: str, code: int = 0) -> Path:
        """Run `python -m fcnseg.train` and give the folder of its run.

        Raises:
            RuntimeError: The command did not end with the exit code `code`.
            TimeoutExpired: The command hangs, or no time is left.
        """
        typed = [*overrides, *self.own, f"runs={self.folder}", f"name={name}"]
        command = [sys.executable, "-m", "fcnseg.train", *typed]
        done = subprocess.run(command, capture_output=True, text=True, timeout=self.left)
        if done.returncode != code:
            raise RuntimeError(f"{' '.join(typed)} ended with exit code {done.returncode}: {done.stderr}")
        return self.folder / name


def correctness(day: Day, network: str, precision: str) -> Figures:
    """The losses of the first steps on the CPU and on the device: how far apart they are, relative to the CPU's."""
    settings = (*day.shapes, "data.batch_size=4", f"trainer.precision={precision}")
    cpu, device = (
        day.call(losses, day.config(network, *settings, *where))["losses"]
        for where in (["trainer.accelerator=cpu"], [])
    )
    first, last = (abs(device[step] - cpu[step]) / abs(cpu[step]) for step in (0, -1))
    allowed = FULL if precision == "32-true" else REDUCED
    holds = first <= allowed and last <= REDUCED  # a CPU's own losses differ by 0.4 % then, with one thread and two
    figures = {"cpu_loss": cpu[0], "first_step_differs": first, "allowed": allowed, f"step_{STEPS}_differs": last}
    return {**figures, "allowed_then": REDUCED, "holds": "yes" if holds else "no"}


def losses(cfg: Any) -> Figures:
    """The losses of the first steps, all on the first batch; float32 is not TF32 here."""
    torch.backends.cudnn.allow_tf32 = False
    _, task, fabric, batch = prepare(cfg)
    step = bare_step(task, batch, fabric)
    return {"losses": [step().item() for _ in range(STEPS)]}


def exactness(day: Day, network: str) -> Figures:
    """Runs in deterministic mode: how much differs in a second one, and in one that was killed and resumed."""
    settings = (f"model={network}", *NETWORKS[network], *day.shapes, *EXACT, f"checkpoint.every_n_steps={SAVED}")
    once, again = (_end(day.command(f"{network}-{run}", *settings)) for run in ("once", "again"))
    kill = [f"+callbacks.kill.{key}" for key in (f"_target_={__name__}.Kill", "only_watches=true", f"step={KILLED}")]
    day.command(f"{network}-killed", *settings, *kill, code=-signal.SIGKILL)
    resumed = _end(day.command(f"{network}-killed", *settings))
    differ, differ_resumed = (
        sum(_differ(*pair) for pair in zip(once, other, strict=True)) for other in (again, resumed)
    )
    figures = {"tensors_and_numbers": len(once), "differ_in_a_second_run": differ}
    return {**figures, "killed_in_step": KILLED, "differ_when_resumed": differ_resumed}


def _end(run: Path) -> list[Any]:
    """All that a run ends with: weights, the optimiser's state, scores, the confusion matrix."""
    last = torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
    result: Any = read_json(run / "result.json")
    return tree_leaves([last["state_dict"], last["optimizer_states"], result["metrics"], result["confusion"]])


def _differ(one: Any, other: Any) -> bool:
    return not torch.equal(one, other) if isinstance(one, Tensor) else bool(one != other)


def images(day: Day) -> Figures:
    """Write generated images of VOC's number and size, in as many processes as there are cores."""
    cores, start = os.cpu_count() or 1, time.monotonic()
    folder = day.folder / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    train, val = (-(-count // cores) for count in (VOC if day.on_gpu else FEW))
    with ThreadPoolExecutor(cores) as pool:
        parts = list(pool.map(lambda part: day.call(_write_part, voc.Folder(folder), part, train, val), range(cores)))
    for image_set in ("train", "val"):
        names = [name for part in parts for name in part[image_set]]
        (folder / "ImageSets" / "Segmentation" / f"{image_set}.txt").write_text("\n".join(names))
    return {"train": cores * train, "val": cores * val, "seconds": time.monotonic() - start}


def _write_part(folder: voc.Folder, part: int, train: int, val: int) -> Figures:
    """Draw images, enlarge them to VOC's size, and give their names by image set."""
    drawn = shapes(folder.path.parent / "drawn", train=train, val=val, seed=part)
    names = {image_set: drawn.ids(image_set) for image_set in ("train", "val")}
    for name in (*names["train"], *names["val"]):
        for read, write, how in (
            (drawn.image, folder.image, Image.Resampling.BILINEAR),
            (drawn.mask, folder.mask, Image.Resampling.NEAREST),
        ):
            with Image.open(read(name)) as picture:
                factor = LONG_SIDE / max(picture.size)
                width, height = (round(factor * side) for side in picture.size)
                picture.resize((width, height), how).save(write(f"{part}_{name}"))
    return {image_set: [f"{part}_{name}" for name in some] for image_set, some in names.items()}


def speed(day: Day, network: str, arm: str) -> Figures:
    """An arm of the benchmark, trained once: its speed, its share of the roofline, and the most memory that it took."""
    cfg = day.config(network, *day.voc, "data.batch_size=32", day.timed)
    if network not in day.limits:
        day.limits[network] = day.call(limits, cfg)
    trained = day.trained.setdefault(network, {})
    trained[arm] = day.call(train, cfg, arm)
    check_first_losses(trained)
    return {**table(trained, day.limits[network])[-1], "first_step_s": trained[arm]["cold"]["first step"]}


def host(day: Day, network: str) -> Figures:
    """What the host does for a step of this package, on images so small that the device is never waited for."""
    return day.call(host_step, day.config(network, *day.shapes, day.timed, "data.size=32", "data.batch_size=4"))


def host_step(cfg: Any) -> Figures:
    """The milliseconds of a step, and how often it starts a kernel, copies, and waits for the device."""
    images_per_s, counts = train(cfg, "fcnseg")["images_per_s"], []
    for steps in (10, 30):  # their difference leaves out what is done once
        cfg.steps = steps
        with profile() as profiled:
            train(cfg, "fcnseg")
        counts.append(Counter({event.key: event.count for event in profiled.key_averages()}))
    more = counts[1] - counts[0]
    kinds = {"kernels": "LaunchKernel", "copies": "MemcpyAsync", "synchronisations": "Synchronize"}
    found = {
        kind: sum(more[key] for key in more if key.startswith("cu") and word in key) for kind, word in kinds.items()
    }
    if fabric_of(cfg).device.type == "cuda" and not found["kernels"]:
        raise RuntimeError("the profiler has seen no kernel, so that it cannot count on this machine")
    return {"host_ms": 1e3 * cfg.data.batch_size / images_per_s, **{kind: count / 20 for kind, count in found.items()}}


def paper(day: Day, experiment: str) -> Figures:
    """An experiment of the paper by the real command, with all its epochs and its patience, beside the others."""
    start = time.monotonic()
    done: Any = read_json(
        day.command(experiment, f"experiment={experiment}", *PAPER[experiment], *day.voc) / "result.json"
    )
    figures = {key: done[key] for key in ("epochs", "best_epoch", "precision", "images_per_s")}
    scores = {key: done["metrics"][f"test/{key}"] for key in ("miou", "pixel_acc", "paper_iou", "paper_acc")}
    return {"command_s": time.monotonic() - start, **figures, **scores, "floor_miou": done["floor"]["miou"]}


class Item(NamedTuple):
    """A table of the day.

    Attributes:
        title: The heading of the table.
        work: The function that measures a row.
        cases: What each row is about: the arguments of `work` after the first.
        seconds: A row is left out if less time than this is left; it is what the row takes on a GPU.
        at_once: The number of rows that are measured at the same time on a GPU.
    """

    title: str
    work: Callable[..., Figures]
    cases: Sequence[Sequence[str]]
    seconds: int
    at_once: int = 1


def items() -> list[Item]:
    """All tables, the most important first."""
    experiments = list(product(PAPER))
    precisions, arms = ("32-true", "bf16-mixed"), ("plain", "lightning", "fcnseg")
    return [
        Item("Losses on the CPU and on the device", correctness, [*product(NETWORKS, precisions)], 10),
        Item("Deterministic runs: repeated, and killed and resumed", exactness, [*product(NETWORKS)], 40, at_once=4),
        Item("Generated images of VOC's size", images, [()], 10),
        Item("Training: speed and memory", speed, [*product(NETWORKS, arms)], 15),
        Item("A step's work on the host, at 32 px", host, [*product(NETWORKS)], 15),
        Item("The paper, all experiments at once", paper, experiments, 60, at_once=len(experiments)),
        Item("Training, compiled", speed, [*product(NETWORKS, ["everything"])], 60),
    ]


def measure(day: Day, show: Show) -> Iterator[dict[str, list[Figures]]]:
    """Measure all items; after every row, give all rows so far by the titles of their tables."""
    figures: dict[str, list[Figures]] = {}
    for item in items():
        show(item.title)
        at_once = item.at_once if day.on_gpu else 1
        with ThreadPoolExecutor(at_once) as pool:
            futures = [pool.submit(_row, day, item, case) for case in item.cases]
            for _ in as_completed(futures):
                figures[item.title] = [future.result() for future in futures if future.done()]
                yield figures


def _row(day: Day, item: Item, case: Sequence[str]) -> Figures:
    """A row of an item, or the reason why it was not measured."""
    labels: Figures = dict(zip([*signature(item.work).parameters][1:], case, strict=True))
    if day.left < item.seconds:
        return labels | {"failed": f"skipped: it takes {item.seconds} s, and {day.left:.0f} s are left of the budget"}
    limited = copy(day)
    limited.end = min(day.end, time.monotonic() + HANGS * item.seconds)
    try:
        found = item.work(limited, *case)
        # JSON has no NaN.
        return labels | {
            key: str(value) if isinstance(value, float) and not isfinite(value) else value
            for key, value in found.items()
        }
    except Exception:
        return labels | {"failed": traceback.format_exc()}
