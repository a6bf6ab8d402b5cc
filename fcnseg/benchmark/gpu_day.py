"""Everything that a GPU must show, in one command of a few minutes: `python -m fcnseg.benchmark gpu_day=true`.

The most important comes first, and the files are whole after every row: a command that is cut off leaves what it has measured.
On a CPU the same runs with small images.
"""

import os
import platform
import re
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor
from torch.profiler import profile
from torch.utils._pytree import tree_leaves

from fcnseg.benchmark.arms import FULL, REDUCED, check_first_losses, fabric_of, relate, train
from fcnseg.benchmark.parts import bare_step, limits, prepare
from fcnseg.benchmark.process import Figures, Show, call
from fcnseg.data import voc
from fcnseg.data.shapes import shapes
from fcnseg.files import read_json

NETWORKS: dict[str, Sequence[str]] = {"fcn": (), "transfer": ("model.weights=null",), "wilson": (), "unet": ()}
PAPER: dict[str, Sequence[str]] = {
    **dict.fromkeys(("baseline", "cosine", "flip", "weighted", "wilson", "unet"), ()),
    "transfer": ("model.weights=null",),  # they cannot be downloaded everywhere
}
SMALL = {"cuda": (), "cpu": ("data.size=32", "data.batch_size=4", "trainer.max_epochs=2")}
SHAPES = ("data=shapes", "data.size=224")
FEW = {"cuda": (), "cpu": ("data.source.train=16", "data.source.val=8")}
VOC = {"cuda": (1464, 1449), "cpu": (16, 8)}  # the images to train on and to validate on, of VOC's size
LONG_SIDE = 500  # pixels of VOC's images
BATCH, TIMED = {"cuda": "data.batch_size=32", "cpu": "data.batch_size=4"}, {"cuda": "steps=100", "cpu": "steps=2"}
STEPS, DRIFT = 5, 10  # the last of so many losses may differ by so many times what the first may
EXACT = ("trainer.deterministic=true", "trainer.max_epochs=3", "checkpoint.min_seconds=0")
KILLED_AT = {"cuda": 23, "cpu": 7}  # the step, which is one of the second epoch


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
    """What all items share.

    Args:
        compose: Makes the benchmark's config from overrides.
        own: The overrides of the command line that a training takes too; they win.
        folder: The folder for data and runs.
        seconds: How long all of it may take.
    """

    def __init__(
        self, compose: Callable[[Sequence[str]], Any], own: Sequence[str], *, folder: Path, seconds: float
    ) -> None:
        self.compose, self.own, self.folder = compose, own, folder
        self.end = time.monotonic() + seconds
        self.device: str = fabric_of(compose([*own, "trainer.precision=32-true"])).device.type
        self.shapes = (*SHAPES, *SMALL[self.device], *FEW[self.device], f"data.root={folder}")
        self.voc = (*SMALL[self.device], f"data.root={folder}")
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
        """What `work` returns in a process of its own, which is killed when no time is left.

        Raises:
            RuntimeError: It has failed.
        """
        found = call(work, *args, seconds=int(self.left) + 1)
        if "failed" in found:
            raise RuntimeError(found["failed"])
        return found

    def command(self, name: str, *overrides: str, code: int = 0) -> Path:
        """Run `python -m fcnseg.train` and give the folder of its run.

        Raises:
            RuntimeError: It did not end with the exit code `code`.
            TimeoutExpired: No time is left.
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
    allowed = {"32-true": FULL}.get(precision, REDUCED)
    holds = first <= allowed and last <= DRIFT * allowed
    figures = {"cpu_loss": cpu[0], "first_step_differs": first, "allowed": allowed}
    return {
        **figures,
        f"step_{STEPS}_differs": last,
        "allowed_then": DRIFT * allowed,
        "holds": "yes" if holds else "no",
    }


def losses(cfg: Any) -> Figures:
    """The losses of the first steps, all on the first batch; float32 is not TF32 here."""
    torch.backends.cudnn.allow_tf32 = False
    _, task, fabric, batch = prepare(cfg)
    step = bare_step(task, batch, fabric)
    return {"losses": [step().item() for _ in range(STEPS)]}


def exactness(day: Day, network: str) -> Figures:
    """Runs in deterministic mode: how much differs in a second one, and in one that was killed and resumed."""
    step = KILLED_AT[day.device]
    saved = f"checkpoint.every_n_steps={step - 2}"
    settings = (f"model={network}", *NETWORKS[network], *day.shapes, *EXACT, saved)
    once, again = (_end(day.command(f"{network}-{run}", *settings)) for run in ("once", "again"))
    kill = [f"+callbacks.kill.{key}" for key in (f"_target_={__name__}.Kill", "only_watches=true", f"step={step}")]
    day.command(f"{network}-killed", *settings, *kill, code=-signal.SIGKILL)
    resumed = _end(day.command(f"{network}-killed", *settings))
    differ, differ_resumed = (
        sum(_differ(*pair) for pair in zip(once, other, strict=True)) for other in (again, resumed)
    )
    figures = {"tensors_and_numbers": len(once), "differ_in_a_second_run": differ}
    return {**figures, "killed_in_step": step, "differ_when_resumed": differ_resumed}


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
    train, val = (-(-images // cores) for images in VOC[day.device])
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


def arm(day: Day, network: str, name: str) -> Figures:
    """An arm of the benchmark, trained once: its speed, its share of the roofline, and the most memory that it took."""
    cfg = day.config(network, *day.voc, BATCH[day.device], TIMED[day.device])
    if network not in day.limits:
        day.limits[network] = day.call(limits, cfg)
    trained = day.trained.setdefault(network, {})
    trained[name] = day.call(train, cfg, name)
    relate(trained, day.limits[network])
    check_first_losses(trained)
    figures = dict(trained[name])
    return {**figures, "first_step_s": figures.pop("cold")["first step"]}


def host(day: Day, network: str) -> Figures:
    """What the host does for a step of this package, on images so small that the device is never waited for."""
    tiny = ("data.size=32", "data.batch_size=4", TIMED[day.device])
    return day.call(host_step, day.config(network, *day.shapes, *tiny))


def host_step(cfg: Any) -> Figures:
    """The milliseconds of a step, and how often it starts a kernel, copies, and waits for the device."""
    speed, counts = train(cfg, "fcnseg")["images_per_s"], []
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
    return {"host_ms": 1e3 * cfg.data.batch_size / speed, **{kind: count / 20 for kind, count in found.items()}}


def experiment(day: Day, name: str) -> Figures:
    """An experiment of the paper by the real command, with all its epochs and its patience, beside the others."""
    start = time.monotonic()
    done: Any = read_json(day.command(name, f"experiment={name}", *PAPER[name], *day.voc) / "result.json")
    figures = {key: done[key] for key in ("epochs", "best_epoch", "precision", "images_per_s")}
    scores = {key: done["metrics"][f"test/{key}"] for key in ("miou", "pixel_acc", "paper_iou", "paper_acc")}
    return {"command_s": time.monotonic() - start, **figures, **scores, "floor_miou": done["floor"]["miou"]}


class Item(NamedTuple):
    """A table of the day.

    Attributes:
        title: What it shows.
        work: Measures a row.
        columns: What a row is about: the names of the arguments of `work`.
        cases: The arguments of `work`, row by row.
        seconds: A row is left out if less time than this is left; it is what the row takes on a GPU.
        at_once: The number of rows that are measured at the same time on a GPU.
    """

    title: str
    work: Callable[..., Figures]
    columns: Sequence[str]
    cases: Sequence[Sequence[str]]
    seconds: int
    at_once: int = 1


def items() -> list[Item]:
    """All tables, the most important first."""
    each = [(network,) for network in NETWORKS]

    def by(*others: str) -> list[tuple[str, str]]:
        return [(network, other) for network in NETWORKS for other in others]

    return [
        Item(
            "Losses on the CPU and on the device",
            correctness,
            ["network", "precision"],
            by("32-true", "bf16-mixed"),
            10,
        ),
        Item("Deterministic runs: repeated, and killed and resumed", exactness, ["network"], each, 40, 4),
        Item("Generated images of VOC's size", images, [], [()], 10),
        Item("Training: speed and memory", arm, ["network", "arm"], by("plain", "lightning", "fcnseg"), 15),
        Item("A step's work on the host, at 32 px", host, ["network"], each, 15),
        Item(
            "The paper, all experiments at once",
            experiment,
            ["experiment"],
            [(name,) for name in PAPER],
            60,
            len(PAPER),
        ),
        Item("Training, compiled", arm, ["network", "arm"], by("everything"), 60),
    ]


def gpu_day(day: Day, show: Show) -> Iterator[dict[str, list[Figures]]]:
    """Measure all items; after every row, give all rows so far by the titles of their tables."""
    figures: dict[str, list[Figures]] = {}
    for item in items():
        show(item.title)
        at_once = item.at_once if day.device == "cuda" else 1
        with ThreadPoolExecutor(at_once) as pool:
            futures = [pool.submit(_row, day, item, case) for case in item.cases]
            for _ in as_completed(futures):
                figures[item.title] = [future.result() for future in futures if future.done()]
                yield figures


def machine() -> Figures:
    """What was measured on, and with."""
    on_gpu = torch.cuda.is_available()
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "gpu": torch.cuda.get_device_name() if on_gpu else None,
        "processor": model[1] if model else platform.machine(),
        "features": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
    }


def _row(day: Day, item: Item, case: Sequence[str]) -> Figures:
    """A row of an item, or why there is none."""
    labels: Figures = dict(zip(item.columns, case, strict=True))
    if day.left < item.seconds:
        return {**labels, "failed": f"skipped: it takes {item.seconds} s, and {day.left:.0f} s are left of the budget"}
    try:
        found = item.work(day, *case)
        # JSON has no NaN.
        return {**labels, **{key: str(value) if value != value else value for key, value in found.items()}}
    except Exception:
        return {**labels, "failed": traceback.format_exc()}
