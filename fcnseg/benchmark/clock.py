"""Timing training steps, in blocks that start when the parent process says so."""

import resource
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from fcnseg.benchmark.process import Link, Plan


class Clock:
    """Runs a process's training block by block: waits for the word, times the block, reports it.

    While one arm runs, the others wait here; so that they take turns, and what else the machine does meets all of them.

    Args:
        link: Whose word it waits for.
        plan: How many steps a block has.
        device: What it waits for before it reads the time.
    """

    def __init__(self, link: Link, plan: Plan, device: torch.device) -> None:
        self.link, self.plan, self.device = link, plan, device
        self._losses: list[Tensor] = []
        self._times: list[float] = []
        self._watch = ExitStack()
        self._warned: list[warnings.WarningMessage] = []
        self._made, self._setup = time.perf_counter(), 0.0

    def begin(self) -> None:
        """A block starts, as soon as it is this arm's turn; what was done before the first is its set-up."""
        self._setup = self._setup or time.perf_counter() - self._made
        self._wants_syncs = self.link.wait() == "syncs"
        self._losses, self._times = [], []
        self._read()

    def step(self, loss: Tensor) -> None:
        """A step is done; after a block's last one, its times and losses are reported."""
        self._losses.append(loss.detach())
        done = len(self._losses)
        if done in (1, self.plan.warmup, self.plan.batches):
            if done == self.plan.batches:
                self._watch.close()
            self._read()
            if done == self.plan.warmup and self._wants_syncs:
                self._count_syncs()
        if done == self.plan.batches:
            self._report()

    def _read(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._times.append(time.perf_counter())

    def _count_syncs(self) -> None:
        self._warned = self._watch.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        self._watch.callback(torch.cuda.set_sync_debug_mode, "default")

    def _report(self) -> None:
        warned = [warning for warning in self._warned if "called a synchronizing" in str(warning.message)]
        self.link.send(
            {
                "setup": self._setup,
                "first_step": self._times[1] - self._times[0],
                "seconds": self._times[-1] - self._times[-2],
                "losses": [loss.item() for loss in self._losses],
                "syncs": len(warned) / self.plan.steps,
            }
        )


class ClockCallback(Callback):
    """A clock for Lightning: an epoch is a block.

    Args:
        clock: What is told.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A block starts."""
        self.clock.begin()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A step is done."""
        self.clock.step(outputs["loss"])


def peak_memory(device: torch.device) -> dict[str, float | None]:
    """Peaks of this process in MB: `host`, the largest of its finished child processes (`workers`), and the GPU's."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "host": int(status["VmHWM"].split()[0]) / 1e3,
        "workers": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3,
        "gpu": torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None,
    }
