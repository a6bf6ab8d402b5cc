"""One run from its config to its result: seed, build, fit, test, write."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import cast

import torch
from lightning import Callback, Trainer, seed_everything
from omegaconf import DictConfig
from rich.console import Console
from torch import nn

from fcnseg import build
from fcnseg.callbacks.checkpoints import Checkpoints
from fcnseg.callbacks.early_stopping import RunEarlyStopping
from fcnseg.callbacks.ema import EMA
from fcnseg.callbacks.epoch_log import EpochLog
from fcnseg.callbacks.finite_loss import FiniteLoss
from fcnseg.callbacks.progress import RunProgress
from fcnseg.callbacks.sessions import Sessions
from fcnseg.data.module import DataModule
from fcnseg.errors import LostError
from fcnseg.learning.task import SegmentationTask
from fcnseg.machine.distributed import failures_explained, highest, rank, result_of_first_process, world
from fcnseg.machine.files import write_json
from fcnseg.machine.limits import limits_explained
from fcnseg.machine.precision import bf16_gain
from fcnseg.machine.processes import start_processes
from fcnseg.machine.signals import StopRequest, stop_requests
from fcnseg.names import BEST, RESULT
from fcnseg.report import card
from fcnseg.results import costs, provenance, scoring
from fcnseg.results.result import Code, Result
from fcnseg.runs.checkpoint_files import load_weights, newest_good
from fcnseg.runs.checkpoint_io import SafeCheckpointIO
from fcnseg.runs.folder import Run
from fcnseg.runs.older import sessions_of
from fcnseg.runs.run_log import RunLog
from fcnseg.settings.lightning import PRECISIONS
from fcnseg.settings.parameters import check_parameters
from fcnseg.settings.table import hyperparameters
from fcnseg.texts import counted, warn


def fit(cfg: DictConfig, run: Run, console: Console, settings: Sequence[str]) -> Result:
    """Train a run in its folder, from its last good checkpoint on if there is one; test its best weights.

    Args:
        cfg: The run's whole config.
        run: The run, whose folder may not be there yet.
        console: The console that the progress is printed to.
        settings: The settings of the command, for the model card.

    Returns:
        The content of result.json.

    Raises:
        ValueError: Something in `cfg`, the data set or the folder is wrong; nothing was trained.
        RunFailedError: Training failed; status.json has the traceback.
        StopError: A signal came; the run's state is saved.
    """
    code = provenance.code()  # now: a commit made while the run trains is not its code
    check_parameters(cfg)
    build.check_device(cfg.trainer)
    with stop_requests() as stop:
        data = build.data(cfg)
        console.print(f"{run.path.name}: reads the data set", soft_wrap=True)
        data.prepare_data()  # may take minutes
        seed_everything(cfg.seed, verbose=False)
        task = _checked_task(cfg, data)
        training = Training(cfg, run, stop, console, code)
        with training.locked() as is_to_train:
            if not is_to_train:
                return result_of_first_process(lambda: cast(Result, run.result))
            checkpoint, epoch = result_of_first_process(lambda: training.open_checkpoint(task, data))
            with training.recorded(data):
                training.train(task, data, checkpoint, epoch)
                result = training.test(task, data)
                training.write(result, task, data, settings)
            return result


def _checked_task(cfg: DictConfig, data: DataModule) -> SegmentationTask:
    """The task of a run, whose optimiser and schedule can be made.

    Raises:
        ValueError: The network, the loss, the optimiser or the schedule cannot be made.
    """
    task = build.task(cfg, classes=data.classes, class_pixels=data.class_pixels)
    try:  # once before training, so that a wrong setting is refused
        task.schedule(task.optimizer(task.net), cfg.trainer.max_epochs, len(data.train_dataloader()))
    except Exception as error:  # any that torch, or a class of the user's own, raises for a wrong argument
        if str(error).startswith(("optimizer.", "schedule.")):  # an error of ours, which names the setting
            raise
        reason = str(error) or type(error).__name__
        raise ValueError(f"optimizer or schedule: {reason}; correct or leave out what was set of them") from error
    return task


class Training:
    """A run in this process: its trainer with its callbacks and loggers, and the steps of `fit`.

    Args:
        cfg: The run's whole config.
        run: The run, whose folder the callbacks and the log write to.
        stop: Tells the callbacks whether the run is to stop.
        console: The console that the progress is printed to.
        code: The code of this process: see `provenance.code`.
    """

    def __init__(self, cfg: DictConfig, run: Run, stop: StopRequest, console: Console, code: Code) -> None:
        self.cfg, self.run, self.console, self.code = cfg, run, console, code
        self.log = RunLog(run)
        self.loggers = [self.log, *build.loggers(cfg)]
        self.sessions = Sessions(code)
        finite = FiniteLoss()
        self.checkpoints = Checkpoints(run, stop=stop, finite=finite, **cfg.checkpoint)
        self.callbacks = self._in_order(finite)
        self.checkpoint_io = SafeCheckpointIO()
        self.trainer = self._agreed_trainer()
        measured = cfg.trainer.precision == "auto" and self.trainer.strategy.root_device.type == "cpu"
        self.bf16_gain = bf16_gain(torch.get_num_threads()) if measured else None

    def _in_order(self, finite: FiniteLoss) -> list[Callback]:
        """All callbacks in the order in which they act."""
        epoch_log = EpochLog(self.log, hyperparameters(self.cfg))
        all_in_order = [
            EMA(self.cfg.ema) if self.cfg.ema else None,
            finite,
            epoch_log,
            RunProgress(epoch_log, self.console),
            RunEarlyStopping(self.cfg.patience) if self.cfg.patience else None,
            self.sessions,
            *build.callbacks(self.cfg),
            self.checkpoints,  # last, since it saves the state of the others
        ]
        return [callback for callback in all_in_order if callback]

    def _agreed_trainer(self) -> Trainer:
        """A trainer whose precision is the first process's: processes on other machines may find another one faster."""
        trainer = self._make_trainer(self._kept_precision())
        first = result_of_first_process(lambda: str(trainer.precision))  # a trainer has connected the processes
        return trainer if str(trainer.precision) == first else self._make_trainer(first)

    def _make_trainer(self, precision: str | None) -> Trainer:
        trainer = build.trainer(
            self.cfg,
            callbacks=self.callbacks,
            loggers=self.loggers,
            checkpoint_io=self.checkpoint_io,
            kept_precision=precision,
        )
        start_processes(trainer)
        return trainer

    def _kept_precision(self) -> str | None:
        """The precision that trainer.precision=auto had when the run began, perhaps on another machine."""
        status = self.run.status if self.cfg.trainer.precision == "auto" and self.cfg.resume == "auto" else None
        kept = (status or {}).get("precision")
        return kept if kept in PRECISIONS and kept != "auto" else None  # somebody else's folder may have anything there

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """Make the run's folder and lock it in the `with` block; the first process does it for all.

        It comes after the data set, which may be refused, and leaves no folder then.

        Yields:
            Whether the run is still to be trained: another process may have finished it since this one looked.

        Raises:
            ValueError: The folder cannot be written, or another process trains this run.
        """
        with ExitStack() as until_the_end:

            def lock() -> bool:
                until_the_end.enter_context(self.run.locked())
                return not self.run.is_finished(self.cfg)

            yield result_of_first_process(lock)  # the others wait for its answer

    def open_checkpoint(self, task: SegmentationTask, data: DataModule) -> tuple[Path | None, int]:
        """Open the run's newest good checkpoint.

        Returns:
            Its path and the epoch from which the run is resumed, counted from 0; None and 0 for a run from the beginning.

        Raises:
            ValueError: The checkpoint is of another network or data set, or of more epochs than the run is to have.
        """
        last = newest_good(self.run.checkpoints) if self.cfg.resume == "auto" else None
        if last is None:
            return None, 0
        opened = self.checkpoint_io.open(last, task, self.cfg.trainer.max_epochs)
        self.run.check_data(data.fingerprint)
        if self.checkpoints.best_is_lost(opened, self.cfg.trainer.max_epochs):
            warn(f"{self.run.checkpoints / BEST} does not belong to {last}: the run starts from the beginning")
            self.checkpoint_io.opened = None
            return None, 0
        if changes := provenance.changes(sessions_of(opened)[-1], self.sessions.here(self.trainer)):
            warn(
                f"{self.run.path} is resumed with {', '.join(changes)}: the last digits of its numbers may differ from"
                " those of an unbroken run"
            )
        return last, opened["epoch"]

    @contextmanager
    def recorded(self, data: DataModule) -> Iterator[None]:
        """Keep the run's status up to date, in the first process, and explain failures: who failed, or what to lower.

        Raises:
            RunFailedError: The block failed, or the folder cannot be written.
            StopError: A signal came.
        """
        began = {"data_fingerprint": data.fingerprint, "precision": str(self.trainer.precision)}
        status = self.run.recorded(self.cfg, **began) if rank() == 0 else nullcontext()
        with status, failures_explained(), limits_explained(data.batch_size, data.size, began["precision"]):
            yield

    def train(self, task: SegmentationTask, data: DataModule, checkpoint: Path | None, epoch: int) -> None:
        """Train, from the opened checkpoint and its epoch on if there is one: see `open_checkpoint`.

        Raises:
            OSError: The last state could not be saved.
        """
        costs.forget_peak(self.trainer.strategy.root_device)
        words = [f"{self.run.path.name}: {counted(data.count('train'), 'image')}", str(self.trainer.precision)]
        if self.bf16_gain:
            words.append(f"bf16 is {self.bf16_gain} times as fast as fp32 on this CPU")
        if checkpoint:
            is_done = epoch >= self.cfg.trainer.max_epochs
            words.append("has trained all its epochs" if is_done else f"resumes from epoch {epoch + 1}")
        self.console.print(", ".join(words), soft_wrap=True)
        self._warn_of_batch_norm(task)
        self.trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)
        if highest(self.checkpoints.failed):
            if rank():
                raise LostError("the first process has failed")
            raise OSError("the last checkpoint could not be saved: make room, and the same command resumes the run")

    def _warn_of_batch_norm(self, task: SegmentationTask) -> None:
        """Warn if each process will normalise by its own part of a batch, as torch has it on CPUs."""
        norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in task.modules())
        if world() > 1 and norms and self.trainer.strategy.root_device.type == "cpu":
            warn(
                "batch norm cannot be synchronised on CPUs: each process normalises by its own part of a batch, so that the"
                " numbers depend on trainer.devices"
            )

    def test(self, task: SegmentationTask, data: DataModule) -> Result:
        """Test the best epoch's weights; return the content of result.json.

        Raises:
            OSError: The best epoch's weights are missing or damaged.
        """
        best = self.run.checkpoints / BEST
        if wrong := self.checkpoints.damage_of_best():
            raise OSError(f"{best} {wrong}: the same command starts the run again from the beginning")
        load_weights(task, best)
        device = self.trainer.strategy.root_device
        peak = costs.peak_memory(device)
        with costs.timed(task.net) as passes:
            measured = scoring.measure(self.trainer, task, data)
        self.log.finish()
        return {
            **measured,
            "best_epoch": self.checkpoints.best_epoch,
            "epochs": self.trainer.current_epoch,
            "seconds": round(sum(row["seconds"] for row in self.log.rows), 1),
            "images_per_s": self.log.images_per_second,
            "predicted_per_s": costs.images_per_second(passes),
            "peak_memory": peak,  # bytes, in training
            "giga_macs": costs.giga_macs(task.net, data.size),
            "sessions": self.sessions.up_to_now(self.trainer),
            "bf16_gain": self.bf16_gain,
            **provenance.origin(self.trainer, best),
            **self.code,
        }

    def write(self, result: Result, task: SegmentationTask, data: DataModule, settings: Sequence[str]) -> None:
        """Write the model card, the findings in every image and, last, result.json; only the first process does.

        Raises:
            OSError: A file cannot be written.
        """
        if rank() == 0:
            card.describe(self.run, data, result, settings=settings)
            self.run.add_per_image(scoring.per_image(task, data))
            write_json(self.run.path / RESULT, result)
