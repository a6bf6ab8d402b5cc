"""A run saved so that it resumes exactly, with the weights, logs and learning rates of an unbroken run: when, and how.

Lightning's ModelCheckpoint does not keep that promise: it saves no state of the random number generators. Its
save after an epoch has counters that skip the next epoch. It writes over the last good file (pytorch-lightning#18780, #21253).
"""

import hashlib
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from fcnseg.callbacks.after_epoch import AfterEpoch
from fcnseg.callbacks.ema import validated_weights
from fcnseg.callbacks.finite_loss import FiniteLoss
from fcnseg.errors import StopError
from fcnseg.machine.distributed import gathered, highest, rank
from fcnseg.machine.files import sha256
from fcnseg.machine.signals import StopRequest
from fcnseg.names import BEST, LAST, MONITOR
from fcnseg.runs.checkpoint_files import StoredCheckpoint, damage, read, save
from fcnseg.runs.folder import Run
from fcnseg.texts import warn


class Checkpoints(AfterEpoch, Checkpoint):
    """Saves `last.ckpt` after an epoch and within it, and `best.ckpt` (weights only) when val/miou is higher than before.

    `last.ckpt` is taken between two epochs, after logging and the step of the schedule; between two batches; or before a
    validation. A save that fails is reported and does not stop the run. All processes save and stop at the same
    step, and the first one writes.

    Attributes:
        best_epoch: The best epoch so far, from 0; -1 before the first.
        best_sha256: The hash of best.ckpt, which shows that a `last.ckpt` and the `best.ckpt` beside it belong together.

    Args:
        run: The run whose folder the files go to.
        stop: Tells whether the run must stop. The run stops as soon as its state is saved.
        finite: The callback that checks the losses, called before every save.
        min_seconds: The least seconds between two saves after epochs; the last epoch is always saved. On a GPU, an epoch may
            take less time than its save.
        every_n_steps: The number of steps between two saves within an epoch; None for no such saves.
        every_n_minutes: The minutes between two saves within an epoch; None for no such saves.
    """

    def __init__(
        self,
        run: Run,
        *,
        stop: StopRequest,
        finite: FiniteLoss,
        min_seconds: float,
        every_n_steps: int | None,
        every_n_minutes: float | None,
    ) -> None:
        super().__init__()
        self.run = run
        self.folder = run.checkpoints
        self.stop = stop
        self.finite = finite
        self.min_seconds = min_seconds
        self.every_n_steps = every_n_steps
        self.every_n_seconds = every_n_minutes and every_n_minutes * 60
        self.best_score = float("-inf")
        self.best_epoch = -1
        self.best_sha256 = ""
        self.failed = False
        self._best_unsaved: dict[str, Any] | None = None
        self._saved_at = time.monotonic()
        self._generators: dict[str, Any] | None = None  # their restored states
        self._others: list[list[Tensor]] = []  # the states of the other processes' generators
        self._max_epochs: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """Save the best epoch so far, the epochs planned, and the states of the random number generators."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        generators = {"cpu": torch.get_rng_state(), "cuda": cuda, **({"others": self._others} if self._others else {})}
        best = {"best_score": self.best_score, "best_epoch": self.best_epoch, "best_sha256": self.best_sha256}
        return {**best, "max_epochs": self._max_epochs, "generators": generators}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Put the classes into a checkpoint: the meaning of the logits' channels."""
        checkpoint["classes"] = pl_module.classes.plain()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` saved; the generators are restored at the start of training."""
        self.best_score, self.best_epoch = state_dict["best_score"], state_dict["best_epoch"]
        self.best_sha256 = state_dict["best_sha256"]
        self._generators, self._max_epochs = state_dict["generators"], state_dict["max_epochs"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the generators, from which the start of training may have drawn, and take over the signals."""
        super().on_train_start(trainer, pl_module)
        self.stop.deferred = True
        self.stop.watch()  # Lightning's own handler would end the run between any two hooks, with nothing saved
        if self._generators:
            self._restore_generators(self._generators, trainer)
            if self._max_epochs != trainer.max_epochs and not trainer.should_stop:  # early stopping has not ended the run
                extend_schedule(trainer)
        elif rank():
            self._restore_generators({}, trainer)
        self._max_epochs = trainer.max_epochs

    def _restore_generators(self, saved: Mapping[str, Any], trainer: Trainer) -> None:
        """Restore this process's generators; a process that is new in the run draws other numbers than the rest."""
        device, others = trainer.strategy.root_device, saved.get("others", [])
        if rank() and rank() <= len(others):
            cpu, *cuda = others[rank() - 1]
            torch.set_rng_state(cpu)
            if cuda and device.type == "cuda":
                torch.cuda.set_rng_state(cuda[0], device)
        elif rank():
            words = f"{torch.initial_seed()}/{rank()}/{trainer.global_step}"
            torch.manual_seed(int(hashlib.sha256(words.encode()).hexdigest()[:8], 16))
        else:
            torch.set_rng_state(saved["cpu"])
            if len(saved["cuda"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all(saved["cuda"])
            else:
                warn("the run began with another number of GPUs: dropout on a GPU will draw new numbers")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Save between two batches if it is time or the run must stop; after the last batch, validation comes first."""
        if batch_idx + 1 < trainer.num_training_batches and self._due(trainer):
            self._save_last(trainer)
            self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        """Stop here if a signal has come.

        Raises:
            StopError: A signal has come, and the state is saved.
            OSError: A signal has come, but the state could not be saved.
        """
        if not (signum := highest(self.stop.signum or 0)):
            return
        if self.failed:
            raise OSError("the run stops, but its state could not be saved: the same command resumes the last good save")
        raise StopError(signum)

    def _must_save(self, is_due: bool = False) -> bool:
        """Whether a save is due or a signal has come in any process."""
        return bool(highest(is_due or self.stop.signum is not None))

    def _due(self, trainer: Trainer) -> bool:
        steps = self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0
        seconds = self.every_n_seconds is not None and time.monotonic() - self._saved_at >= self.every_n_seconds
        return self._must_save(steps or bool(seconds))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if it is time or the run must stop."""
        if self._due(trainer):
            self._save_before_validation(trainer)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Save if the run must stop; the resumed run repeats the validation from its start."""
        if self._must_save():
            self._save_before_validation(trainer)

    def _save_before_validation(self, trainer: Trainer) -> None:
        with before_validation(trainer):
            self._save_last(trainer)
        self._stop_if_asked()

    def after_epoch(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        """Keep the epoch's weights if they are the best so far; if it is time, save them and the state of the run."""
        score = trainer.callback_metrics[MONITOR].item()
        if score > self.best_score or self.best_epoch < 0:
            self.best_score, self.best_epoch = score, epoch
            validated = validated_weights(trainer, pl_module)
            weights = {name: value.to("cpu", copy=True) for name, value in validated.items()}
            self._best_unsaved = {"state_dict": weights, "epoch": epoch, "global_step": trainer.global_step}
            self.on_save_checkpoint(trainer, pl_module, self._best_unsaved)
        if self._must_save(time.monotonic() - self._saved_at >= self.min_seconds):
            with before_next_epoch(trainer):
                self._save_last(trainer)
        self._stop_if_asked()

    def best_is_lost(self, opened: StoredCheckpoint, max_epochs: int) -> bool:
        """Whether best.ckpt is of a later save than the opened `last.ckpt`, and of an epoch that is not trained again."""
        best, state = self.folder / BEST, opened["callbacks"][self.state_key]
        if state["best_epoch"] < 0 or not best.exists() or sha256(best) == state["best_sha256"]:
            return False
        # An epoch between the two is trained again, and gives best.ckpt back.
        return not opened["epoch"] <= read(best)["epoch"] < max_epochs

    def damage_of_best(self) -> str | None:
        """The damage to best.ckpt, in words; None if it is whole and the one that was saved last."""
        best, wanted = self.folder / BEST, self.best_sha256  # only the first process knows the hash
        wrong = damage(best)
        if not wrong and wanted and sha256(best) != wanted:
            best.unlink()  # so that the same command also knows it
            return "was of another epoch than the best one"
        return wrong

    def _save_last(self, trainer: Trainer) -> None:
        """Save the best weights if they are not saved yet, then the run's state; a failure is reported.

        Raises:
            DivergedError: A loss since the last save is not finite.
            FileNotFoundError: The run's folder was removed.
        """
        self.finite.check(trainer)
        if rank() == 0:
            self.run.check_own()
        self._others = gathered(_generator_states(trainer.strategy.root_device))[1:]
        try:
            if self._best_unsaved is not None:
                self.best_sha256 = "" if rank() else save(self.folder / BEST, self._best_unsaved)
                self._best_unsaved = None
            trainer.save_checkpoint(self.folder / LAST)
            self.failed = False
        except OSError as error:
            self.failed = True
            trainer.strategy.barrier()  # the other processes wait here for the end of the save
            warn(f"saving failed ({error}); training goes on, and the last good checkpoint stays")
        self._saved_at = time.monotonic()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last epoch; from here on, no code looks for a signal between batches."""
        self._saved_at = float("-inf")
        super().on_train_end(trainer, pl_module)
        self.stop.deferred = False
        self._stop_if_asked()  # a signal may have come since the last look


def _generator_states(device: torch.device) -> list[Tensor]:
    """The states of this process's random number generators."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def extend_schedule(trainer: Trainer) -> None:
    """Put a resumed run whose `max_epochs` has changed on the schedule that it would have had from the start, and say so.

    A cosine that reached 0 after 30 epochs continues, if the run is extended to 40, at the thirtieth value of 40.
    """
    # Lightning has restored the old schedule with its old length, and torch's schedules compute a learning rate from the one
    # before it: with only its length changed, it would not come onto the new curve. So a new schedule, with an optimiser of
    # its own for the same weights, steps as often as the old one has, and its state replaces the old one's.
    optimizer, planned = trainer.optimizers[0], cast(Any, trainer.lightning_module.configure_optimizers())
    before = optimizer.param_groups[0]["lr"]
    restored, schedule = trainer.lr_scheduler_configs[0].scheduler, planned["lr_scheduler"]["scheduler"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the optimiser took its steps in the earlier session
        # Not `trainer.current_epoch` times: the schedule may step after every batch. If it steps by epochs, and the run was
        # stopped before a validation, it has stepped once more than epochs have ended.
        for _ in range(restored.last_epoch):
            schedule.step()
    restored.load_state_dict(schedule.state_dict())
    for group, new in zip(optimizer.param_groups, planned["optimizer"].param_groups, strict=True):
        group.update({key: value for key, value in new.items() if key != "params"})  # with the momentum
    after = optimizer.param_groups[0]["lr"]
    warn(
        f"trainer.max_epochs is now {trainer.max_epochs}: from epoch {trainer.current_epoch + 1} on, the learning rate"
        f" follows the schedule of {trainer.max_epochs} epochs ({before:g} becomes {after:g})"
    )


# Only these two functions touch Lightning's private counters, which decide what a resumed run does next;
# tests/callbacks/test_counters.py checks them with the installed version of Lightning.
@contextmanager
def before_next_epoch(trainer: Trainer) -> Iterator[None]:
    """Set the counters, in the `with` block, so that a run resumed from a save there begins with the whole next epoch.

    With the counters of an epoch that is about to begin, Lightning would skip the epoch.
    """
    progress = trainer.fit_loop.epoch_progress
    before = progress.state_dict()
    for count in (progress.current, progress.total):
        count.ready = count.completed
    yield
    progress.load_state_dict(before)


@contextmanager
def before_validation(trainer: Trainer) -> Iterator[None]:
    """Set the counters, in the `with` block, so that a run resumed from a save there begins with the whole validation.

    With the counters of a running validation, Lightning would skip the validation.
    """
    progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
    before = progress.state_dict()
    progress.current.reset()
    progress.total.reset()
    progress.total.load_state_dict({**progress.total.state_dict(), "ready": 1, "started": 1})
    yield
    progress.load_state_dict(before)
