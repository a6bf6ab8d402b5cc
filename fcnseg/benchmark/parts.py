"""Parts of a run by themselves: the data path, the packing, the metrics, and the machine's limits."""

import os
import time
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL.Image import Resampling
from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex

from fcnseg import build
from fcnseg.benchmark.arms import build_task, device_of, prepare_data
from fcnseg.benchmark.conventional import image_loader
from fcnseg.benchmark.process import Link, Plan
from fcnseg.benchmark.roofline import ideal_seconds, machine_peaks, step_operations, typical
from fcnseg.data import voc
from fcnseg.data.augment import EpochDraws, Flip
from fcnseg.data.batch import normalize
from fcnseg.data.module import VOCDataModule
from fcnseg.data.packed import pack
from fcnseg.limits import keep_freed_memory
from fcnseg.metrics import SegmentationMetrics

DECODED = 100  # images that tell one core's speed


def limits(link: Link, plan: Plan) -> None:
    """Answers seconds that a training step takes at the least, and the machine's peaks that say so."""
    device = device_of(plan.cfg.trainer.accelerator)
    task = build_task(plan, data := prepare_data(plan))
    answer: dict[str, Any] = {"device": device.type}
    for precision in {build.precision(plan.cfg.trainer.precision, plan.cfg.trainer.accelerator), "32-true"}:
        dtype = torch.float32 if precision == "32-true" else torch.bfloat16
        operations = step_operations(task.net, task.loss, batch_size=data.batch_size, size=data.size, dtype=dtype)
        peaks = machine_peaks(device, dtype)
        answer[precision] = {
            **peaks,
            "images_per_s": data.batch_size / ideal_seconds(operations, **peaks),
            "flops_per_image": sum(operation.flops for operation in operations) / data.batch_size,
            "bytes_per_image": sum(operation.nbytes for operation in operations) / data.batch_size,
        }
    link.send(answer)


def data_path(link: Link, plan: Plan) -> None:
    """Answers images/s of batches flipped and normalised, without training, of this package and of a DataLoader."""
    keep_freed_memory()  # as a run does
    device = device_of(plan.cfg.trainer.accelerator)
    data = prepare_data(plan)
    data.packs = {name: pack.to(device) for name, pack in data.packs.items()}
    data.augment = Flip()
    data.parts["train"] = ("train", torch.arange(len(data.packs["train"].ids)))
    workers = image_loader(data, device, persistent=True)  # their start is not counted
    images = data.count("train")
    ours, theirs = [], []
    for _ in range(plan.repeats):  # in turns
        ours.append(images / typical(partial(_gather, data, device), device, repeats=3))
        theirs.append(images / typical(lambda: [image.to(device) for image, _ in workers], device, repeats=1))
    link.send({"fcnseg": median(ours), "dataloader": median(theirs), "ratio": median(ours) / median(theirs)})


def _gather(data: VOCDataModule, device: torch.device) -> None:
    made = EpochDraws(data.seed, 0, len(data.packs["train"].ids), device)
    for image, mask, sample in data.train_dataloader():
        image, mask = data.augment(image.to(device), mask.to(device), made.of(sample.to(device)))
        normalize(image)


def packing(link: Link, plan: Plan) -> None:
    """Answers images/s of building the packs from nothing, and of one core that decodes and resizes."""
    data = build.data(plan.cfg)
    folder = data.source(data.root)
    names = folder.ids("train")
    before = _one_core(folder, names, data.size)
    with TemporaryDirectory() as home:
        for part in folder.path.iterdir():
            if part.is_dir() and part.name != "packs":
                (Path(home) / part.name).symlink_to(part.resolve())
        start = time.perf_counter()
        packs = [pack(voc.Folder(Path(home)), image_set, data.size) for image_set in ("train", "val")]
        seconds = time.perf_counter() - start
    images = sum(len(built.ids) for built in packs)
    one_core = (before + _one_core(folder, names, data.size)) / 2
    cores = len(os.sched_getaffinity(0))
    speed = images / seconds
    link.send(
        {
            "images": images,
            "seconds": seconds,
            "images_per_s": speed,
            "one_core": one_core,
            "per_core_ratio": speed / cores / one_core,
        }
    )


def _one_core(folder: voc.Folder, names: tuple[str, ...], size: int) -> float:
    some = names[:: max(1, len(names) // DECODED)]
    start = time.perf_counter()
    for name in some:
        image = voc.read_image(folder.image(name)).resize((size, size), Resampling.BILINEAR)
        mask = voc.read_mask(folder.mask(name)).resize((size, size), Resampling.NEAREST)
        image.load(), mask.load()
    return len(some) / (time.perf_counter() - start)


def metrics(link: Link, plan: Plan) -> None:
    """Answers what scores cost in a validation epoch, as a share of the forward passes: ours and torchmetrics'.

    That is from labels on; `labels_ms` is what making them of the logits takes, without which there is no prediction.
    """
    keep_freed_memory()
    device = device_of(plan.cfg.trainer.accelerator)
    data = prepare_data(plan)
    task = build_task(plan, data).to(device).eval()
    raw = next(iter(data.train_dataloader()))
    image, mask = normalize(raw.image.to(device)), raw.mask.to(device)
    reduced = build.precision(plan.cfg.trainer.precision, plan.cfg.trainer.accelerator) != "32-true"

    def forward() -> Tensor:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=reduced):
            logits: Tensor = task(image)
        return logits

    ours = SegmentationMetrics(data.num_classes).to(device)
    stock = MulticlassJaccardIndex(data.num_classes, ignore_index=voc.VOID).to(device)
    logits, labels = forward(), mask.long()
    prediction = logits.max(dim=1).indices
    step = typical(forward, device, repeats=plan.repeats)
    labelling = typical(lambda: logits.max(dim=1), device)
    update = typical(lambda: ours.update(prediction, mask), device)
    stock_update = typical(lambda: stock.update(logits, labels), device, repeats=plan.repeats)
    batches = -(-data.count("val") // data.batch_size)
    ours.reset()
    for _ in range(batches):
        ours.update(prediction, mask)
    compute = typical(partial(_scores, ours), device) / batches
    link.send(
        {
            "forward_ms": step * 1e3,
            "labels_ms": labelling * 1e3,
            "update_ms": update * 1e3,
            "compute_ms": compute * 1e3,
            "torchmetrics_update_ms": stock_update * 1e3,
            "share_of_forward": (update + compute) / step,
        }
    )


def _scores(state: SegmentationMetrics) -> None:
    state._computed = None  # torchmetrics would give the same answer again
    state.compute()
