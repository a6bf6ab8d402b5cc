"""The callback that shows the progress of a run: a bar within an epoch, and a line after it."""

import time
from statistics import median
from typing import Any

from lightning import LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from fcnseg.callbacks.after_epoch import AfterEpoch
from fcnseg.callbacks.epoch_log import EpochLog
from fcnseg.names import MONITOR


class RunProgress(AfterEpoch):
    """Shows a progress bar within an epoch, on a terminal only, and always prints a line after the epoch.

    Args:
        epoch_log: The callback that counts images and measures times. It must come before this callback.
        console: The console to print to.
    """

    def __init__(self, epoch_log: EpochLog, console: Console) -> None:
        super().__init__()
        self.epoch_log, self.console = epoch_log, console
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[figures]}"))
        self.bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._shown_at = 0.0

    @property
    def _rows(self) -> list[dict[str, float]]:
        return self.epoch_log.run_log.rows

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar."""
        super().on_train_start(trainer, pl_module)
        self._shown_at = time.perf_counter()
        self.bar.start()
        self.bar.add_task("", figures="")

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: object, batch: object, batch_idx: int) -> None:
        """Move the bar twice a second: reading the loss waits for the GPU. Without a terminal, print a line a minute."""
        now = time.perf_counter()
        # A bar must move often. A log file must grow slowly, but show within a minute that the run goes on.
        if now - self._shown_at < (0.5 if self.console.is_terminal else 60):
            return
        self._shown_at = now
        seconds, done, batches = now - self.epoch_log.began, batch_idx + 1, trainer.num_training_batches
        figures = [f"loss {pl_module.losses['train/loss'].mean().item():.4f}"]
        figures += [f"mIoU {self._rows[-1][MONITOR]:.4f}"] if self._rows else []
        figures += [f"{self.epoch_log.images / seconds:.1f} images/s", f"{self._left(trainer, done / batches, seconds)} left"]
        description = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        bar, text = self.bar.task_ids[0], "  ".join(figures)
        self.bar.update(bar, description=description, total=batches, completed=done, figures=text)
        if not self.console.is_terminal:
            self.console.print(f"{description}  step {done} of {batches}  {text}")

    def after_epoch(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        """Print the epoch's line."""
        row, self._shown_at = self._rows[-1], time.perf_counter()
        best = max(self._rows, key=lambda other: other[MONITOR]) is row
        figures = [f"{name} {row[name]:.4f}" for name in ("train/loss", "val/loss", MONITOR)]
        figures += [f"{row['images_per_s']:.1f} images/s", f"{self._left(trainer, 0, 0)} left", "best" if best else ""]
        number = f"{epoch + 1:>{len(str(trainer.max_epochs))}}/{trainer.max_epochs}"
        self.console.print(f"epoch {number}  {'  '.join(figures).rstrip()}")

    def _left(self, trainer: Trainer, share: float, seconds: float) -> str:
        """The time left, estimated from the epochs so far, or from the `share` of the first epoch that took `seconds`."""
        epoch = median(row["seconds"] for row in self._rows) if self._rows else seconds / share
        left = int(epoch * max(0, (trainer.max_epochs or 0) - trainer.current_epoch - share))
        return f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}" if left >= 3600 else f"{left // 60}:{left % 60:02}"

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the last epoch's line and remove the bar."""
        super().on_train_end(trainer, pl_module)
        self.bar.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the bar."""
        self.bar.stop()
