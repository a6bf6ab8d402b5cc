"""One run, from its config to its result."""

from typing import Any

from lightning import Trainer, seed_everything
from omegaconf import DictConfig
from rich.console import Console

from fcnseg import build
from fcnseg.callbacks.checkpoints import Checkpoints
from fcnseg.callbacks.early_stopping import Patience
from fcnseg.callbacks.finite_loss import FiniteLoss
from fcnseg.callbacks.progress import Screen
from fcnseg.callbacks.run_log import RunLog
from fcnseg.data.module import VOCDataModule
from fcnseg.files import write_json
from fcnseg.limits import limits_explained
from fcnseg.runs import provenance, result
from fcnseg.runs.checkpoint import SafeCheckpointIO, check_epochs, damage, fitting_weights, load_weights, newest_good
from fcnseg.runs.folder import Run
from fcnseg.runs.settings import hyperparameters
from fcnseg.signals import stop_requests
from fcnseg.task import SegmentationTask


def check_optimizer(task: SegmentationTask) -> None:
    """Make the optimiser and the schedule once, for what is wrong with them to be the user's error and not the run's.

    Raises:
        ValueError: a setting out of its range, of another kind, or that they do not have.
    """
    try:
        task.configure_optimizers()
    except TypeError as error:
        raise ValueError(f"optimizer or schedule: {error}") from error


def fit(cfg: DictConfig, run: Run, console: Console) -> None:
    """Train `cfg` in its folder, from its last good checkpoint on if there is one; test its best weights; write result.json.

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
        log, finite = RunLog(run.path, hyperparameters(cfg)), FiniteLoss()
        checkpoints = Checkpoints(run.checkpoints, stop=stop, finite=finite, **cfg.checkpoint)
        callbacks = [
            finite,
            log,
            Screen(log, console),
            *([Patience(cfg.patience)] if cfg.patience else []),
            checkpoints,
        ]
        trainer = build.trainer(cfg, callbacks=callbacks, checkpoint_io=SafeCheckpointIO())
        with run.locked():
            if run.is_finished(cfg):  # by another process, since this one looked
                return
            last = newest_good(run.checkpoints) if cfg.resume == "auto" else None
            if last is not None:
                fitting_weights(task, last)
                check_epochs(cfg.trainer.max_epochs, last)
                run.check_data(data.fingerprint)
            with (
                run.recorded(cfg, data.fingerprint),
                limits_explained(data.batch_size, data.size, str(trainer.precision)),
            ):
                console.print(f"{run.path.name}: {data.count('train')} images, {trainer.precision}", soft_wrap=True)
                trainer.fit(task, data, ckpt_path=last, weights_only=True)
                if checkpoints.failed:
                    raise OSError("the last checkpoint could not be saved: make room, and the same command goes on")
                write_json(run.path / "result.json", _result(run, trainer, task, data, log, checkpoints, code))


def _result(
    run: Run,
    trainer: Trainer,
    task: SegmentationTask,
    data: VOCDataModule,
    log: RunLog,
    checkpoints: Checkpoints,
    code: dict[str, str | bool | None],
) -> dict[str, Any]:
    """Test the best epoch's weights; all that result.json holds."""
    best = run.checkpoints / "best.ckpt"
    if wrong := damage(best):
        raise OSError(f"{best} {wrong}: the same command starts the run anew")
    load_weights(task, best)
    measured = result.measure(trainer, task, data)
    log.finish(measured["metrics"])
    trained = {
        "best_epoch": checkpoints.best_epoch,
        "epochs": trainer.current_epoch,
        "seconds": round(sum(row["seconds"] for row in log.rows), 1),
        "images_per_s": log.images_per_second,
    }
    return {**measured, **trained, **provenance.provenance(trainer, best, code=code)}
