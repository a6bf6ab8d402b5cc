"""Checkpoints that survive a kill, and that a run resumes from exactly."""

import time
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import EarlyStopping

from fcnseg.callbacks import AfterEpoch
from fcnseg.files import replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, written beside their place and renamed into it.

    Lightning's own save copies over the old file when TMPDIR is on another file system (pytorch-lightning#21253).
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path` whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            torch.save(checkpoint, file)


class Checkpoints(AfterEpoch):
    """Saves `last.ckpt` after every epoch and within it, and `best.ckpt` (weights only) whenever `monitor` is higher.

    `last.ckpt` is taken between epochs, when metrics are logged and the schedule has stepped, or between two batches; the
    states of the random number generators go with it.

    Args:
        folder: Where they go.
        monitor: The logged number that chooses the best epoch; the first of equals.
        every_n_steps: Also save within an epoch, after so many steps; None: not.
        every_n_minutes: The same by time.
    """

    def __init__(
        self,
        folder: Path,
        *,
        monitor: str = "val/miou",
        every_n_steps: int | None = None,
        every_n_minutes: float | None = None,
    ) -> None:
        super().__init__()
        self.folder, self.monitor = folder, monitor
        self.every_n_steps, self.every_n_seconds = every_n_steps, every_n_minutes and every_n_minutes * 60
        self.best_score, self.best_epoch = float("-inf"), -1
        self._saved_at = time.monotonic()
        self._generators: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """The best epoch so far, and the generators' states."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        generators = {"cpu": torch.get_rng_state(), "cuda": cuda}
        return {"best_score": self.best_score, "best_epoch": self.best_epoch, "generators": generators}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.best_score, self.best_epoch = state_dict["best_score"], state_dict["best_epoch"]
        self._generators = state_dict["generators"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the generators back to where they were saved, after whatever the start has drawn from them."""
        super().on_train_start(trainer, pl_module)
        if self._generators:
            torch.set_rng_state(self._generators["cpu"])
            if len(self._generators["cuda"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all(self._generators["cuda"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Save between two batches of an epoch if it is time; never after its last, whose validation is still to come."""
        if batch_idx + 1 >= trainer.num_training_batches:
            return
        steps = self.every_n_steps and trainer.global_step % self.every_n_steps == 0
        seconds = self.every_n_seconds and time.monotonic() - self._saved_at >= self.every_n_seconds
        if steps or seconds:
            self._save(trainer)

    def after_epoch(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        """Save the epoch's weights if they are the best so far, then the state of the run."""
        score = trainer.callback_metrics[self.monitor].item()
        if score > self.best_score or self.best_epoch < 0:
            self.best_score, self.best_epoch = score, epoch
            trainer.save_checkpoint(self.folder / "best.ckpt", weights_only=True)
        # Lightning's next act. Saved before it, the counters would make a resumed run skip the epoch that begins now.
        trainer.fit_loop.epoch_loop.batch_progress.reset_on_run()
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.folder / "last.ckpt")
        self._saved_at = time.monotonic()


class Patience(EarlyStopping):
    """Stops after `patience` epochs without a better val/miou; a run killed after that does not train on."""

    def __init__(self, patience: int) -> None:
        super().__init__("val/miou", mode="max", patience=patience)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop again if the saved state says so: Lightning forgets that it had stopped."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True


def load_weights(task: LightningModule, path: Path) -> None:
    """Load a checkpoint's weights into `task`; no code in the file is run.

    Raises:
        ValueError: no such file, or not this task's weights.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        task.load_state_dict(state)
    except Exception as error:  # a damaged file raises whatever its first wrong byte leads to
        raise ValueError(f"cannot load the checkpoint {path}: {error}") from error
