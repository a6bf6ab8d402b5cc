"""What a run shows while it goes on: a progress bar within an epoch, a line after it."""

import time
from statistics import median
from typing import Any

from lightning import LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from fcnseg.callbacks.after_epoch import AfterEpoch
from fcnseg.callbacks.run_log import RunLog


class Screen(AfterEpoch):
    """A progress bar within an epoch, on a terminal, and a line after it, everywhere.

    Args:
        run_log: Whose rows it shows.
        console: Where.
    """

    def __init__(self, run_log: RunLog, console: Console) -> None:
        super().__init__()
        self.run_log, self.console = run_log, console
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"))
        self.bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._shown_at = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar."""
        super().on_train_start(trainer, pl_module)
        self.bar.start()
        self.bar.add_task("", told="")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Move the bar, at most twice a second: reading the loss waits for the GPU."""
        now = time.perf_counter()
        if not self.console.is_terminal or now - self._shown_at < 0.5:
            return
        self._shown_at = now
        done, seconds = self.run_log._images, now - self.run_log._training
        batches = trainer.num_training_batches
        told = [f"loss {pl_module.losses['train/loss'].mean().item():.4f}"]
        told += [f"mIoU {self.run_log.rows[-1]['val/miou']:.4f}"] if self.run_log.rows else []
        told += [f"{done / seconds:.1f} images/s", f"{self._left(trainer, (batch_idx + 1) / batches, seconds)} left"]
        description = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self.bar.update(
            self.bar.task_ids[0], description=description, total=batches, completed=batch_idx + 1, told="  ".join(told)
        )

    def after_epoch(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        """Print the epoch's line."""
        row = self.run_log.rows[-1]
        best = max(self.run_log.rows, key=lambda other: other["val/miou"]) is row
        told = [f"{name} {row[name]:.4f}" for name in ("train/loss", "val/loss", "val/miou")]
        told += [f"{row['images_per_s']:.1f} images/s", f"{self._left(trainer, 0, 0)} left", "best" if best else ""]
        width = len(str(trainer.max_epochs))
        self.console.print(
            f"epoch {epoch + 1:>{width}}/{trainer.max_epochs}  " + "  ".join(told).rstrip(), highlight=False
        )

    def _left(self, trainer: Trainer, share: float, seconds: float) -> str:
        """Time left, from the epochs so far, or from the `share` of the first one that `seconds` have brought."""
        rows = self.run_log.rows
        epoch = median(row["seconds"] for row in rows) if rows else seconds / share
        left = int(epoch * max(0, (trainer.max_epochs or 0) - trainer.current_epoch - share))
        return f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}" if left >= 3600 else f"{left // 60}:{left % 60:02}"

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the bar away."""
        super().on_train_end(trainer, pl_module)
        self.bar.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take the bar away."""
        self.bar.stop()
