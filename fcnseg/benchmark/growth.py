"""How time and memory grow with the number of images, their size and the batch, and beyond what memory holds."""

import json
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer

from fcnseg import build
from fcnseg.benchmark.arms import build_task
from fcnseg.benchmark.clock import peak_memory
from fcnseg.benchmark.process import Link, Plan
from fcnseg.data import packed
from fcnseg.data.module import Loader
from fcnseg.data.voc import NUM_CLASSES

BEYOND = 2  # a pack of this many times the machine's memory,
GATHERED = 50  # of which so many batches are taken


class EpochClock(Callback):
    """Seconds of the last epoch, its first step left out, which pays for the start, and made good for."""

    seconds = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Start after the first step, stop after the last."""
        if pl_module.device.type == "cuda" and (batch_idx == 0 or trainer.is_last_batch):
            torch.cuda.synchronize(pl_module.device)
        if batch_idx == 0:
            self._start = time.perf_counter()
        elif trainer.is_last_batch:
            self.seconds = (time.perf_counter() - self._start) * (batch_idx + 1) / batch_idx


def epoch(link: Link, plan: Plan) -> None:
    """Answers seconds and memory of a whole training epoch of `plan.cfg`, and the size of its packs.

    Before it, as many steps on the first two batches alone show what memory torch takes; what comes on top is the data's.
    """
    data = build.data(plan.cfg)
    data.prepare_data()
    task = build_task(plan, data)
    images = torch.arange(data.count("train"))
    peaks = []
    for samples in (images % (2 * data.batch_size), images):
        data.parts["train"] = ("train", samples)
        trainer = build.trainer(plan.cfg, callbacks=[clock := EpochClock()])
        trainer.limit_val_batches = 0
        trainer.fit_loop.max_epochs = 1
        trainer.fit(task, data)
        peaks.append(peak_memory(trainer.strategy.root_device))
    few, whole = peaks
    pack_mb = sum(pack.nbytes for pack in data.packs.values()) / 1e6
    memory = {**whole, "host_torch": few["host"]}
    link.send({"images": len(images), "epoch_s": clock.seconds, "pack_mb": pack_mb, "memory_mb": memory})


def beyond_memory(link: Link, plan: Plan) -> None:
    """Answers images/s taken at random from a pack larger than the memory, and what that adds to this process's own.

    The pack is one hole in a file, which takes no room on the disk: it shows what is mapped and what is loaded, not how
    fast the disk is.
    """
    size, batch_size = plan.cfg.data.size, plan.cfg.data.batch_size
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    images = int(BEYOND * memory / (4 * size**2))
    with TemporaryDirectory() as folder:
        home = Path(folder)
        np.lib.format.open_memmap(home / "images.npy", "w+", np.uint8, (images, size, size, 3))
        np.lib.format.open_memmap(home / "masks.npy", "w+", np.uint8, (images, size, size))
        meta = {"ids": [], "class_pixels": [0] * (NUM_CLASSES + 1), "fingerprint": ""}
        (home / "pack.json").write_text(json.dumps(meta), encoding="utf-8")
        before = _own_memory()
        pack = packed._open(home)
        loader = Loader(pack, torch.arange(images), batch_size=batch_size, seed=0, step=lambda: 0)
        batches, start = iter(loader), time.perf_counter()
        for _ in range(GATHERED):
            next(batches)
        speed = GATHERED * batch_size / (time.perf_counter() - start)
        own = _own_memory() - before
    link.send({"memory_gb": memory / 1e9, "pack_gb": pack.nbytes / 1e9, "images_per_s": speed, "own_mb": own / 1e6})


def _own_memory() -> int:
    """Bytes of this process that are not pages of a file, which the system may drop at any time."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) * 1000
