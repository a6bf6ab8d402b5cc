"""One run from its config to its result: seed, build, fit, test, write."""

from typing import Any

from lightning import seed_everything
from omegaconf import DictConfig
from rich.console import Console

from fcnseg import build
from fcnseg.callbacks.checkpoints import Checkpoints
from fcnseg.callbacks.early_stopping import RunEarlyStopping
from fcnseg.callbacks.epoch_log import EpochLog
from fcnseg.callbacks.finite_loss import FiniteLoss
from fcnseg.callbacks.progress import RunProgress
from fcnseg.data.module import VOCDataModule
from fcnseg.files import write_json
from fcnseg.limits import limits_explained
from fcnseg.runs import provenance, result
from fcnseg.runs.checkpoint import BEST, SafeCheckpointIO, damage, load_weights, newest_good
from fcnseg.runs.folder import RESULT, Run
from fcnseg.runs.run_log import RunLog
from fcnseg.runs.settings import hyperparameters
from fcnseg.signals import StopRequest, stop_requests
from fcnseg.task import SegmentationTask


def fit(cfg: DictConfig, run: Run, console: Console) -> None:
    """Train a run in its folder, from its last good checkpoint on if there is one; test its best weights; write result.json.

    Args:
        cfg: The run's whole config.
        run: The run, whose folder may not be there yet.
        console: The console that the progress is printed to.

    Raises:
        ValueError: something in `cfg`, the data set or the folder is not as it should be; nothing was trained.
        RunFailedError: training failed; status.json has the traceback.
        StopError: a signal came; the run's state is saved.
    """
    code = provenance.code()  # now: a commit made while the run trains is not its code
    with stop_requests() as stop:
        data = build.data(cfg)
        data.prepare_data()
        seed_everything(cfg.seed, verbose=False)
        task = build.task(cfg, num_classes=data.num_classes, class_pixels=data.class_pixels)
        check_optimizer(task)
        training = Training(cfg, run, stop, console)
        with run.locked():  # not before: the run's folder is made here, and packing may take minutes
            if run.is_finished(cfg):  # by another process, since this one looked
                return
            training.resume(task, data)
            with run.recorded(cfg, data.fingerprint), limits_explained(data.batch_size, data.size, training.precision):
                training.fit(task, data)
                write_json(run.path / RESULT, {**training.test(task, data), **code})


def check_optimizer(task: SegmentationTask) -> None:
    """Make the optimiser and the schedule once, so that a wrong setting of theirs is refused before training.

    Raises:
        ValueError: a setting is out of its range, of another kind, or unknown to them.
    """
    try:
        task.configure_optimizers()
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"optimizer or schedule: {error}") from error


class Training:
    """A trainer with the callbacks and loggers of a run.

    Args:
        cfg: The run's whole config.
        run: The run, whose folder the callbacks and the log write to.
        stop: Tells the callbacks whether the run is to stop.
        console: The console that the progress is printed to.
    """

    def __init__(self, cfg: DictConfig, run: Run, stop: StopRequest, console: Console) -> None:
        self.cfg, self.run, self.console = cfg, run, console
        self.log, self.files, finite = RunLog(run), SafeCheckpointIO(), FiniteLoss()
        self.checkpoints = Checkpoints(run.checkpoints, stop=stop, finite=finite, **cfg.checkpoint)
        epoch_log = EpochLog(self.log, hyperparameters(cfg))
        patience = [RunEarlyStopping(cfg.patience)] if cfg.patience else []
        ours = [finite, epoch_log, RunProgress(epoch_log, console), *patience]
        self.trainer = build.trainer(
            cfg,
            callbacks=[*ours, *build.callbacks(cfg), self.checkpoints],  # last: it saves the state of the others
            loggers=[self.log, *build.loggers(cfg)],
            checkpoint_io=self.files,
        )
        self.precision = str(self.trainer.precision)
        self.resumed: str | None = None

    def resume(self, task: SegmentationTask, data: VOCDataModule) -> None:
        """Open the run's newest good checkpoint, if there is one and resume=auto.

        Raises:
            ValueError: the checkpoint is one of another network, another data set or more epochs.
        """
        last = newest_good(self.run.checkpoints) if self.cfg.resume == "auto" else None
        if last is not None:
            self.files.open(last, task, self.cfg.trainer.max_epochs)
            self.run.check_data(data.fingerprint)
            self.resumed = str(last)

    def fit(self, task: SegmentationTask, data: VOCDataModule) -> None:
        """Train, from the opened checkpoint on if there is one.

        Raises:
            OSError: the last state could not be saved.
        """
        self.console.print(f"{self.run.path.name}: {data.count('train')} images, {self.precision}", soft_wrap=True)
        self.trainer.fit(task, data, ckpt_path=self.resumed, weights_only=True)
        if self.checkpoints.failed:
            raise OSError("the last checkpoint could not be saved: make room, and the same command resumes the run")

    def test(self, task: SegmentationTask, data: VOCDataModule) -> dict[str, Any]:
        """Test the best epoch's weights.

        Returns:
            All that result.json holds but for the code.

        Raises:
            OSError: the best epoch's weights are missing or damaged.
        """
        best = self.run.checkpoints / BEST
        if wrong := damage(best):
            raise OSError(f"{best} {wrong}: the same command starts the run again from the beginning")
        load_weights(task, best)
        measured = result.measure(self.trainer, task, data)
        self.log.finish()
        return {
            **measured,
            "best_epoch": self.checkpoints.best_epoch,
            "epochs": self.trainer.current_epoch,
            "seconds": round(sum(row["seconds"] for row in self.log.rows), 1),
            "images_per_s": self.log.images_per_second,
            **provenance.provenance(self.trainer, best),
        }
