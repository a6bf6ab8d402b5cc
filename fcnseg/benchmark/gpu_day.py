"""Everything to measure on a GPU, for a machine that is available for a few minutes: `python -m fcnseg.benchmark gpu_day=true`.

The most important table comes first and the files are complete after every row. A CPU measures the same with small images.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from omegaconf import DictConfig
from PIL import Image, ImageOps
from torch import Tensor
from torch.profiler import profile
from torch.utils._pytree import tree_leaves

from fcnseg.benchmark.arms import ARMS, FULL, REDUCED, take_turns, train
from fcnseg.benchmark.step import bare_step, fabric_of, limits, prepare
from fcnseg.benchmark.tables import Row, Tables, Work, call, cases, measured
from fcnseg.data import voc
from fcnseg.data.shapes import draw
from fcnseg.machine.files import read_json
from fcnseg.machine.limits import cores
from fcnseg.names import CHECKPOINTS, LAST, RESULT, SCORES
from fcnseg.results.paper import COUNTS, EXPERIMENTS

T = TypeVar("T")
# Every network with its settings: pretrained weights cannot be downloaded everywhere.
NETWORKS: dict[str, Sequence[str]] = {"fcn": (), "transfer": ("model.weights=null",), "wilson": (), "unet": ()}
PAPER = {experiment: NETWORKS.get(experiment, ()) for experiment in EXPERIMENTS}
VOC_COUNTS = {"train": COUNTS["train"], "val": COUNTS["val"] + COUNTS["test"]}  # the paper cuts VOC's val in two
SIZE = (500, 500)  # the square in pixels that VOC's images fit
FEW = {"train": 32, "val": 8}  # the numbers of images on a CPU
ON_CPU = ("data.size=32", "data.batch_size=4", "trainer.max_epochs=2")
COMPARED = [name for name, arm in ARMS.items() if not arm.other_precision]
STEPS = 5  # the number of steps after which losses are compared
EXACT = ("trainer.deterministic=true", "trainer.max_epochs=3", "checkpoint.min_seconds=0")
SAVED, KILLED = 11, 13  # the steps after which a run is saved and killed
MOST_SECONDS = 300  # the seconds after which a process is killed, so that the others get their turn if it hangs


def killer(step: int) -> Callback:
    """A callback that kills the process at the end of the step `step`, counted from 1."""

    def kill(trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return LambdaCallback(on_train_batch_end=kill)


@dataclass
class Day:
    """The values that the measurements of all tables share.

    Attributes:
        compose: The function from overrides to the config of a training, for another process.
        own: The overrides of the command line that every training also gets; they win.
        folder: The folder for data and runs.
        end: The time, by `time.monotonic`, at which everything must be done.
        on_gpu: Whether there is a GPU to train on; a CPU gets less work.
    """

    compose: Callable[..., Any]
    own: Sequence[str]
    folder: Path
    end: float
    on_gpu: bool

    @property
    def left(self) -> float:
        """The seconds that a process may take from now on."""
        return min(max(0.0, self.end - time.monotonic()), MOST_SECONDS)

    @property
    def steps(self) -> int:
        """The number of steps that are timed."""
        return 100 if self.on_gpu else 2

    def settings(self, *overrides: str) -> list[str]:
        """The overrides of a training at 224 px on the images that `images` writes; the last of two values wins."""
        return ["data.size=224", f"data.root={self.folder}", *overrides, *(() if self.on_gpu else ON_CPU), *self.own]

    def shapes(self, network: str, *overrides: str) -> list[str]:
        """The overrides of a network's training on the images of data=shapes."""
        few = () if self.on_gpu else (f"data.source.{key}={count}" for key, count in FEW.items())
        return self.settings("data=shapes", *few, f"model={network}", *NETWORKS[network], *overrides)

    def table(self, title: str, work: Work, cases: Sequence[Row] = ({},), *, at_once: int = 1) -> Iterator[Tables]:
        """Measure a table, on a GPU `at_once` cases at a time, and yield its rows as `measured` does."""
        return measured(title, partial(self.row, work), cases, at_once=at_once if self.on_gpu else 1)

    def row(self, work: Work, **case: str) -> Row | list[Row]:
        """What `work` measures for a case, if there is time left."""
        return work(self, **case) if self.left else {"failed": "skipped: the seconds of budget= are over"}

    def call(self, work: Callable[..., T], *args: Any, **named: Any) -> T:
        """The value of `work`, called in a process of its own, which is killed if it hangs or when no time is left."""
        return call(work, *args, seconds=1 + int(self.left), **named)

    def command(self, name: str, *settings: str, code: int = 0) -> Path:
        """Run `python -m fcnseg.train`, and return the folder of its run.

        Raises:
            RuntimeError: It did not end with the exit code `code`.
            TimeoutExpired: It did not end within the time that is left, and was killed.
        """
        words = [sys.executable, "-m", "fcnseg.train", *settings, f"runs={self.folder}", f"name={name}"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=self.left)
        if done.returncode != code:
            raise RuntimeError(f"{' '.join(words)} ended with exit code {done.returncode}: {done.stderr}")
        return self.folder / name


def correctness(day: Day, network: str, precision: str) -> Row:
    """The losses of the first steps on the CPU and on the device: their difference, relative to the CPU's."""
    settings = (network, "data.batch_size=4", f"trainer.precision={precision}")
    cpu, device = (day.call(losses, day.compose(*day.shapes(*settings, *where))) for where in (["trainer.accelerator=cpu"], []))
    first, last = (abs(device[step] - cpu[step]) / abs(cpu[step]) for step in (0, -1))
    allowed = FULL if precision == "32-true" else REDUCED
    holds = first <= allowed and last <= REDUCED  # a CPU's own losses differ by 0.4 % then, with one thread and two
    figures = {"cpu_loss": cpu[0], "first_step_differs": first, "allowed": allowed, f"step_{STEPS}_differs": last}
    return {**figures, "allowed_then": REDUCED, "holds": "yes" if holds else "no"}


def losses(cfg: DictConfig) -> list[float]:
    """The losses of the first steps, all on the first batch; TF32 does not replace float32 here."""
    torch.backends.cudnn.allow_tf32 = False
    _, task, fabric, batch = prepare(cfg)
    step = bare_step(task, batch, fabric)
    return [step().item() for _ in range(STEPS)]


def exactness(day: Day, network: str) -> Row:
    """The differences of a second run in deterministic mode, and of one that was killed and resumed, from the first."""
    settings = day.shapes(network, *EXACT, f"checkpoint.every_n_steps={SAVED}")
    once, again = (_end(day.command(f"{network}-{run}", *settings)) for run in ("once", "again"))
    kill = [f"+callbacks.kill.{key}" for key in (f"_target_={__name__}.killer", "only_watches=true", f"step={KILLED}")]
    day.command(f"{network}-killed", *settings, *kill, code=-signal.SIGKILL)
    resumed = _end(day.command(f"{network}-killed", *settings))
    second, third = (sum(a != b for a, b in zip(once, other, strict=True)) for other in (again, resumed))
    figures = {"tensors_and_numbers": len(once), "differ_in_a_second_run": second}
    return {**figures, "killed_in_step": KILLED, "differ_when_resumed": third}


def _end(run: Path) -> list[Any]:
    """The end state of a run: the bytes of weights and of the optimiser's state; scores, and the confusion matrix."""
    last = torch.load(run / CHECKPOINTS / LAST, map_location="cpu", weights_only=True)
    result: Any = read_json(run / RESULT)
    leaves = tree_leaves([last["state_dict"], last["optimizer_states"], result["metrics"], result["confusion"]])
    return [leaf.numpy().tobytes() if isinstance(leaf, Tensor) else leaf for leaf in leaves]


def images(day: Day) -> Row:
    """Write generated images of VOC's number and size, in as many processes as there are cores."""
    start, counts = time.monotonic(), VOC_COUNTS if day.on_gpu else FEW
    names = [str(number) for number in range(sum(counts.values()))]
    sets = {"train": names[: counts["train"]], "val": names[counts["train"] :]}
    folder = voc.new_folder(day.folder / voc.PLACES[0], sets)
    with ThreadPoolExecutor(cores()) as pool:  # each thread waits for its process
        list(pool.map(lambda first: day.call(_write, folder, names[first :: cores()]), range(cores())))
    return {**counts, "seconds": time.monotonic() - start}


def _write(folder: voc.VOCFolder, names: Sequence[str]) -> None:
    """Draw images, and enlarge them to VOC's size."""
    for name in names:
        image, mask = draw(0, int(name))
        ImageOps.contain(image, SIZE, Image.Resampling.BILINEAR).save(folder.image(name))
        ImageOps.contain(mask, SIZE, Image.Resampling.NEAREST).save(folder.mask(name))


def speed(day: Day, network: str) -> list[Row]:
    """The arms of the benchmark, each trained once: their speed, their share of the roofline, and their memory."""
    cfg = day.compose(*day.settings(f"model={network}", *NETWORKS[network], "data.batch_size=32"))
    *_, arms = take_turns(COMPARED, partial(day.call, train, cfg, steps=day.steps), day.call(limits, cfg))
    return arms


def host(day: Day, network: str) -> Row:
    """The host's work for a step of this package, on images so small that the host never waits for the device."""
    return day.call(host_step, day.compose(*day.shapes(network, "data.size=32", "data.batch_size=4")), day.steps)


def host_step(cfg: DictConfig, steps: int) -> Row:
    """The milliseconds of a step, and how often it starts a kernel, copies, and waits for the device."""
    images_per_s = train(cfg, "fcnseg", steps=steps)["images_per_s"]
    fewer, more = (_calls(cfg, steps) for steps in (10, 30))
    figures = {"host_ms": 1e3 * cfg.data.batch_size / images_per_s}
    for kind, word in (("kernels", "LaunchKernel"), ("copies", "MemcpyAsync"), ("synchronisations", "Synchronize")):
        # The difference of two trainings leaves out work that is done once.
        figures[kind] = sum(more[key] - fewer[key] for key in more if key.startswith("cu") and word in key) / 20
    if fabric_of(cfg).device.type == "cuda" and not figures["kernels"]:
        raise RuntimeError("the profiler has seen no kernel, so that it cannot count on this machine")
    return figures


def _calls(cfg: DictConfig, steps: int) -> Counter[str]:
    """How often a training calls each function that the profiler knows."""
    with profile() as profiled:
        train(cfg, "fcnseg", steps=steps)
    return Counter({event.key: event.count for event in profiled.key_averages()})


def paper(day: Day, experiment: str) -> Row:
    """An experiment of the paper by the real command, with all its epochs and its patience, beside the others."""
    start = time.monotonic()
    run = day.command(experiment, *day.settings(f"experiment={experiment}", *PAPER[experiment]))
    done: Any = read_json(run / RESULT)
    figures = {key: done[key] for key in ("epochs", "best_epoch", "precision", "images_per_s")}
    scores = {key: done["metrics"][f"test/{key}"] for key in SCORES}
    return {"command_s": time.monotonic() - start, **figures, **scores, "floor_miou": done["floor"]["miou"]}


def measure(day: Day) -> Iterator[Tables]:
    """Measure all tables, the most important first; after every case, yield the rows of its table so far."""
    networks = cases(network=NETWORKS)
    precisions = cases(network=NETWORKS, precision=("32-true", "bf16-mixed"))
    yield from day.table("Losses on the CPU and on the device", correctness, precisions, at_once=len(precisions))
    yield from day.table("Deterministic runs: repeated, and killed and resumed", exactness, networks, at_once=len(networks))
    yield from day.table("Generated images of VOC's size", images)
    yield from day.table("Training: speed and memory", speed, networks)
    yield from day.table("A step's work on the host, at 32 px", host, networks)
    yield from day.table("The paper, all experiments at once", paper, cases(experiment=PAPER), at_once=len(PAPER))
