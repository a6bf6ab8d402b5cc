"""Saving a run so that it goes on exactly: the same weights, logs and learning rates as if it had never stopped."""

import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch.optim.lr_scheduler import LRScheduler

from fcnseg.callbacks.after_epoch import AfterEpoch
from fcnseg.callbacks.finite_loss import FiniteLoss
from fcnseg.runs.checkpoint import save
from fcnseg.signals import StopRequest


class Checkpoints(AfterEpoch):
    """Saves `last.ckpt` after an epoch and within it, and with it `best.ckpt` (weights only) if val/miou has been higher.

    `last.ckpt` is taken between epochs, when metrics are logged and the schedule has stepped, between two batches, or
    before a validation; the states of the random number generators go with it. A save that fails is said and does not
    stop the run.

    Args:
        folder: Where they go.
        stop: Asks the run to stop, which it does as soon as its state is saved.
        finite: Looked at before every save.
        min_seconds: After an epoch, but the last, save only if the last save is so long ago: on a GPU an epoch may take
            less time than its save.
        every_n_steps: Also save within an epoch, after so many steps; None: not.
        every_n_minutes: The same by time.
    """

    def __init__(
        self,
        folder: Path,
        *,
        stop: StopRequest,
        finite: FiniteLoss,
        min_seconds: float = 0,
        every_n_steps: int | None = None,
        every_n_minutes: float | None = None,
    ) -> None:
        super().__init__()
        self.folder, self.stop, self.finite, self.min_seconds = folder, stop, finite, min_seconds
        self.every_n_steps, self.every_n_seconds = every_n_steps, every_n_minutes and every_n_minutes * 60
        self.best_score, self.best_epoch = float("-inf"), -1
        self.failed = False
        self._best_unsaved: dict[str, Any] | None = None
        self._saved_at = time.monotonic()
        self._restored: dict[str, Any] | None = None
        self._max_epochs: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """The best epoch so far, the epochs planned, and the generators' states."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        generators = {"cpu": torch.get_rng_state(), "cuda": cuda}
        best = {"best_score": self.best_score, "best_epoch": self.best_epoch}
        return {**best, "max_epochs": self._max_epochs, "generators": generators}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.best_score, self.best_epoch = state_dict["best_score"], state_dict["best_epoch"]
        self._restored, self._max_epochs = state_dict["generators"], state_dict["max_epochs"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the generators back to where they were saved, after whatever the start has drawn from them."""
        super().on_train_start(trainer, pl_module)
        self.stop.heeded = True
        self.stop.watch()  # Lightning's own handler would end the run between any two hooks, with nothing saved
        if self._restored:
            torch.set_rng_state(self._restored["cpu"])
            if len(self._restored["cuda"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all(self._restored["cuda"])
            else:
                print("fcnseg: another number of GPUs than before: dropout on a GPU will draw anew", file=sys.stderr)
            if self._max_epochs != trainer.max_epochs and not trainer.should_stop:  # by patience
                extend_schedule(trainer)
        self._max_epochs = trainer.max_epochs

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Save between two batches if it is time or the run is to stop; after the last, the validation comes first."""
        if batch_idx + 1 < trainer.num_training_batches and self._due(trainer):
            self._save_last(trainer)
            self._obey()

    def _obey(self) -> None:
        """Stop here if a signal has come.

        Raises:
            StopError: it has.
            OSError: it has, and the state could not be saved.
        """
        if self.failed and self.stop.signum is not None:
            raise OSError(
                "told to stop, but the state could not be saved: the same command goes on from the save before"
            )
        self.stop.obey()

    def _due(self, trainer: Trainer) -> bool:
        steps = self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0
        seconds = self.every_n_seconds is not None and time.monotonic() - self._saved_at >= self.every_n_seconds
        return steps or seconds or self.stop.signum is not None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if the run is to stop, or if it is time."""
        if self._due(trainer):
            self._save_before_validation(trainer)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Save if the run is to stop; the validation comes again, from its start."""
        if self.stop.signum is not None:
            self._save_before_validation(trainer)

    def _save_before_validation(self, trainer: Trainer) -> None:
        """Save with the counters that make Lightning resume with this validation, where it would skip it."""
        progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
        before = progress.state_dict()
        progress.current.reset()
        progress.total.reset()
        progress.total.load_state_dict({**progress.total.state_dict(), "ready": 1, "started": 1})
        self._save_last(trainer)
        progress.load_state_dict(before)
        self._obey()

    def after_epoch(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        """Keep the epoch's weights if they are the best so far; save them and the state of the run if it is time."""
        score = trainer.callback_metrics["val/miou"].item()
        if score > self.best_score or self.best_epoch < 0:
            self.best_score, self.best_epoch = score, epoch
            weights = {name: value.to("cpu", copy=True) for name, value in pl_module.state_dict().items()}
            self._best_unsaved = {"state_dict": weights, "epoch": epoch, "global_step": trainer.global_step}
        if time.monotonic() - self._saved_at >= self.min_seconds or self.stop.signum is not None:
            # Lightning's next act. Saved before it, the counters would make a resumed run skip the epoch that begins now.
            trainer.fit_loop.epoch_loop.batch_progress.reset_on_run()
            self._save_last(trainer)
        self._obey()

    def _save_last(self, trainer: Trainer) -> None:
        """Save the best weights if that is still to be done, then the run's state; say so if it fails."""
        self.finite.look(trainer)
        try:
            if self._best_unsaved is not None:
                save(self.folder / "best.ckpt", self._best_unsaved)
                self._best_unsaved = None
            trainer.save_checkpoint(self.folder / "last.ckpt")
            self.failed = False
        except OSError as error:
            self.failed = True
            print(f"fcnseg: saving failed ({error}); training goes on, the last good checkpoint stays", file=sys.stderr)
        self._saved_at = time.monotonic()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last epoch; from here on, nobody looks for a signal between batches."""
        self._saved_at = float("-inf")
        super().on_train_end(trainer, pl_module)
        self.stop.heeded = False
        self._obey()  # if one came since the last look


def extend_schedule(trainer: Trainer) -> None:
    """Put a resumed run whose `max_epochs` has changed on the schedule that it would have had from the start.

    So a cosine that had come down to 0 after 30 epochs goes on, for 40, at its thirtieth value of 40; said on stderr.
    """
    optimizer, task = trainer.optimizers[0], trainer.lightning_module
    before = optimizer.param_groups[0]["lr"]
    for group in optimizer.param_groups:
        group["lr"] = group.pop("initial_lr")
    restored = trainer.lr_scheduler_configs[0].scheduler
    steps = restored.last_epoch  # one more than there are epochs, if the run was stopped before a validation
    schedule: LRScheduler = task.schedule(optimizer)  # type: ignore[operator]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the steps of the optimiser were taken in the earlier part of the run
        for _ in range(steps):
            schedule.step()
    restored.load_state_dict(schedule.state_dict())
    after = optimizer.param_groups[0]["lr"]
    print(
        f"fcnseg: trainer.max_epochs is now {trainer.max_epochs}: from epoch {trainer.current_epoch + 1} on, the learning rate"
        f" follows the schedule of {trainer.max_epochs} epochs ({before:g} becomes {after:g})",
        file=sys.stderr,
    )
