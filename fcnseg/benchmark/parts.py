"""What is measured beside the arms: the parts of a training by themselves, and how time and memory grow."""

import os
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from lightning import Fabric
from PIL.Image import Resampling
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassJaccardIndex

from fcnseg import build
from fcnseg.benchmark.arms import Clock, fabric_of, fcnseg, host_peak, task_of
from fcnseg.benchmark.conventional import image_loader
from fcnseg.benchmark.process import Figures
from fcnseg.benchmark.roofline import Operations, ideal_seconds, machine_peaks, step_operations, typical
from fcnseg.data import voc
from fcnseg.data.augment import Flip
from fcnseg.data.module import Loader, VOCDataModule
from fcnseg.data.packed import Pack, map_array, pack
from fcnseg.fit import Training
from fcnseg.limits import keep_freed_memory
from fcnseg.metrics import SegmentationMetrics
from fcnseg.runs.folder import Run
from fcnseg.signals import StopRequest
from fcnseg.task import SegmentationTask

CPU = torch.device("cpu")
DTYPES = {"32-true": torch.float32}  # by precision; any other has bfloat16 in it
DECODED = 100  # images that show the speed of one core
TOY_STEPS = 150
TOY_SHAPE = (4, 3, 8, 8)  # so small that what is left of a step is the loop
BEYOND = 2  # a pack of this many times the machine's memory,
GATHERED = 50  # of which so many batches are taken


def prepare(cfg: Any) -> tuple[VOCDataModule, SegmentationTask, Fabric, Any]:
    """The data, the task on its device, the device and the precision, and the first batch on the device, normalised."""
    keep_freed_memory()  # as a run does
    data, fabric = build.data(cfg), fabric_of(cfg)
    data.prepare_data()
    batch = data.on_after_batch_transfer(fabric.to_device(next(iter(data.train_dataloader()))), 0)
    return data, task_of(cfg, data).to(fabric.device).train(), fabric, batch


def limits(cfg: Any) -> Figures:
    """The images/s that this machine could train at the most, in each precision that an arm trains in."""
    data, task, fabric, _ = prepare(cfg)
    speeds = {}
    for precision in (cfg.trainer.precision, "32-true"):
        dtype = DTYPES.get(precision, torch.bfloat16)
        counted = step_operations(task.net, task.loss, batch_size=data.batch_size, size=data.size, dtype=dtype)
        speeds[precision] = data.batch_size / ideal_seconds(counted, **machine_peaks(fabric.device, dtype))
    return speeds


def bare_step(task: SegmentationTask, batch: Any, fabric: Fabric) -> Callable[[], None]:
    """A training step on one batch, without Lightning's Trainer."""
    optimizer = task.optimizer(task.net.parameters())

    def step() -> None:
        optimizer.zero_grad()
        with fabric.autocast():
            loss = task.loss(task(batch.image), batch.mask)
        loss.backward()
        optimizer.step()

    return step


def operations(cfg: Any) -> Figures:
    """The milliseconds of a step and of its operations, where calls of one operation on the same shapes are added up."""
    _, task, fabric, batch = prepare(cfg)
    step = bare_step(task, batch, fabric)
    whole = typical(step, fabric.device, cfg.repeats)
    with Operations(fabric.device) as operations:
        for _ in range(cfg.repeats):
            step()
    kinds = defaultdict(list)
    for call in operations.counted:
        kinds[call.name, call.shapes].append(call)
    peaks = machine_peaks(fabric.device, DTYPES.get(cfg.trainer.precision, torch.bfloat16))
    rows = []
    for (name, shapes), calls in kinds.items():
        in_a_step = len(calls) // cfg.repeats
        ms = 1e3 * in_a_step * median(call.seconds for call in calls)
        ideal_ms = 1e3 * ideal_seconds(calls, **peaks) / cfg.repeats
        tensors = "  ".join("x".join(map(str, shape)) for shape in shapes[:3] if shape)
        row = {"name": name, "calls": in_a_step, "ms": ms, "ideal_ms": ideal_ms, "lost_ms": ms - ideal_ms}
        rows.append({**row, "tensors": tensors})
    return {"step_ms": whole * 1e3, "operations": sorted(rows, key=lambda row: -row["lost_ms"])}


def data_path(cfg: Any) -> Figures:
    """The images/s of batches flipped and normalised, without training, of this package and of a DataLoader."""
    data, _, fabric, _ = prepare(cfg)
    data.packs = {name: pack.to(fabric.device) for name, pack in data.packs.items()}
    data.augment = Flip()
    workers = image_loader(data, fabric.device)  # whose start is not counted
    training: Any = SimpleNamespace(training=True, current_epoch=0, global_step=0)  # all that the data asks a Trainer
    data.trainer = training

    def ours() -> None:
        for batch in data.train_dataloader():
            data.on_after_batch_transfer(fabric.to_device(batch), 0)

    def theirs() -> None:
        for batch in workers:
            fabric.to_device(batch)

    ours_s, theirs_s = (typical(job, fabric.device, cfg.repeats) for job in (ours, theirs))
    images = data.count("train")
    return {"fcnseg": images / ours_s, "dataloader": images / theirs_s, "ratio": theirs_s / ours_s}


def packing(cfg: Any) -> Figures:
    """The images/s of building the packs from nothing, and of one core that decodes and resizes."""
    data = build.data(cfg)
    folder, square = data.source(data.root), (data.size, data.size)
    names = folder.ids("train")
    some = names[:: max(1, len(names) // DECODED)]

    def decode() -> None:
        for name in some:
            voc.read_image(folder.image(name)).resize(square, Resampling.BILINEAR).load()
            voc.read_mask(folder.mask(name)).resize(square, Resampling.NEAREST).load()

    with TemporaryDirectory() as home:
        for part in folder.path.iterdir():
            if part.is_dir() and part.name != "packs":
                (Path(home) / part.name).symlink_to(part.resolve())
        start = time.perf_counter()
        pack(voc.Folder(Path(home)), "train", data.size)
        speed = len(names) / (time.perf_counter() - start)
    one_core = len(some) / typical(decode, CPU, 3)
    ratio = speed / len(os.sched_getaffinity(0)) / one_core
    return {"images_per_s": speed, "one_core": one_core, "per_core_ratio": ratio}


def metrics(cfg: Any) -> Figures:
    """What the scores of a batch cost, from labels, as a share of its forward pass: this package's and torchmetrics'."""
    data, task, fabric, batch = prepare(cfg)
    task.eval()
    ours = SegmentationMetrics(data.num_classes).to(fabric.device)
    stock = MulticlassJaccardIndex(data.num_classes, ignore_index=voc.VOID).to(fabric.device)

    def forward() -> Tensor:
        with torch.no_grad(), fabric.autocast():
            logits: Tensor = task(batch.image)
        return logits

    logits, labels = forward(), batch.mask.long()
    prediction = logits.max(dim=1).indices
    jobs: dict[str, Callable[[], object]] = {
        "forward_ms": forward,
        "update_ms": lambda: ours.update(prediction, batch.mask),
        "torchmetrics_update_ms": lambda: stock.update(logits, labels),
    }
    figures = {name: 1e3 * typical(job, fabric.device, cfg.repeats) for name, job in jobs.items()}
    return {**figures, "share_of_forward": figures["update_ms"] / figures["forward_ms"]}


def loop(cfg: Any) -> Figures:
    """The milliseconds that the host spends on a step of a network with next to no work: in a bare loop, and in a run."""
    torch.set_num_threads(1)
    data, _, fabric, batch = prepare(cfg)
    image, mask = torch.randn(TOY_SHAPE), torch.zeros(TOY_SHAPE[0], *TOY_SHAPE[2:], dtype=torch.uint8)
    batch = fabric.to_device(type(batch)(image, mask, torch.arange(len(mask))))
    copies: Any = [batch] * TOY_STEPS
    bare, trained = [], []
    for _ in range(cfg.repeats):  # in turns
        task, clock = task_of(cfg, data), Clock(CPU, TOY_STEPS)
        task.net = nn.Conv2d(3, data.num_classes, 1)
        with TemporaryDirectory() as folder:
            trainer: Any = Training(cfg, run := Run(Path(folder)), StopRequest(), Console(quiet=True)).trainer
            run.checkpoints.mkdir()
            trainer.callbacks.append(clock)
            trainer.fit_loop.max_epochs = 1
            trainer.fit(task, DataLoader(copies, batch_size=None), DataLoader(copies[:1], batch_size=None))
        trained.append(1e3 * clock.seconds_per_step())
        step = bare_step(task.to(fabric.device), batch, fabric)
        bare.append(1e3 * typical(step, CPU, TOY_STEPS))  # the host's time: it does not wait for a GPU
    bare_ms, trainer_ms = median(bare), median(trained)
    return {"bare_ms": bare_ms, "trainer_ms": trainer_ms, "overhead_ms": trainer_ms - bare_ms}


def epoch(cfg: Any) -> Figures:
    """The seconds and the memory of an epoch.

    Before it, as many steps on its first two batches show what memory torch takes: what comes on top is the data's.
    """
    data = build.data(cfg)
    data.prepare_data()
    task, peaks = task_of(cfg, data), []
    samples = torch.arange(data.count("train"))
    for order in (samples % (2 * data.batch_size), samples):
        data.parts["train"] = ("train", order)
        clock = Clock(fabric_of(cfg).device, len(data.train_dataloader()))
        fcnseg(cfg, data, task, clock)
        peaks.append(host_peak())
    seconds = clock.seconds_per_step() / data.batch_size  # an image
    return {
        "images": len(samples),
        "size": data.size,
        "batch_size": data.batch_size,
        "epoch_s": seconds * len(samples),
        "ms_per_image": 1e3 * seconds,
        "pack_mb": sum(pack.nbytes for pack in data.packs.values()) / 1e6,
        "peak_mb": peaks[1],
        "data_mb": peaks[1] - peaks[0],
    }


def beyond_memory(cfg: Any) -> Figures:
    """The images/s taken at random from a pack larger than the memory, and what that adds to this process's own memory.

    The pack is a hole in a file, which takes no room on the disk: it shows what is mapped and what is loaded, not how fast
    the disk is.
    """
    size, batch_size = cfg.data.size, cfg.data.batch_size
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    images = int(BEYOND * memory / (4 * size**2))
    with TemporaryDirectory() as folder:
        paths = Path(folder) / "images.npy", Path(folder) / "masks.npy"
        for path, channels in zip(paths, ((3,), ()), strict=True):
            np.lib.format.open_memmap(path, "w+", np.uint8, (images, size, size, *channels))
        before = _own_memory()
        pixels, labels = map(map_array, paths)
        pack = Pack(pixels, labels, ids=(), class_pixels=torch.zeros(0), fingerprint="")
        batches = iter(Loader(pack, torch.arange(images), batch_size=batch_size, seed=0, step=lambda: 0))
        speed = batch_size / typical(lambda: next(batches), CPU, GATHERED)
        own = _own_memory() - before
    return {"memory_gb": memory / 1e9, "pack_gb": pack.nbytes / 1e9, "images_per_s": speed, "own_mb": own / 1e6}


def _own_memory() -> int:
    """The bytes of this process that are not pages of a file, which the system may drop at any time."""
    kilobytes = Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]
    return int(kilobytes) * 1000


PARTS = {"operations": operations, "data_path": data_path, "packing": packing, "metrics": metrics, "loop": loop}
