"""One run, from its config to its result."""

from lightning import seed_everything
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from fcnseg import build, results
from fcnseg.callbacks import RunLog, Screen
from fcnseg.checkpoint import AtomicCheckpointIO, Checkpoints, Patience, load_weights
from fcnseg.files import write_json
from fcnseg.runs import Run, hyperparameters


def check_ranges(cfg: DictConfig) -> None:
    """Refuse settings of the run itself that make no sense.

    Raises:
        ValueError: a setting out of its range.
    """
    for key, least in (("trainer.max_epochs", 1), ("patience", 1), ("seed", 0)):
        value = OmegaConf.select(cfg, key)
        if value is not None and value < least:
            raise ValueError(f"{key}={value}: wanted a whole number from {least} up")
    if cfg.resume not in ("auto", "never"):
        raise ValueError(f"resume={cfg.resume}: wanted auto or never")


def fit(cfg: DictConfig, run: Run, console: Console) -> None:
    """Train `cfg` in its folder, from its last checkpoint if there is one; test its best weights; write result.json.

    Raises:
        ValueError: something in `cfg`, the data set or the folder is not as it should be; nothing was trained.
        RunFailedError: training failed; status.json has the traceback.
    """
    check_ranges(cfg)
    data = build.data(cfg)
    data.prepare_data()
    seed_everything(cfg.seed, verbose=False)
    task = build.task(cfg, num_classes=data.num_classes, class_pixels=data.class_pixels)
    task.configure_optimizers()  # a learning rate below zero is the user's error, not the run's
    log = RunLog(run.path, hyperparameters(cfg))
    checkpoints = Checkpoints(run.checkpoints, **cfg.checkpoint)
    callbacks: list[Callback] = [log, Screen(log, console), checkpoints]
    if cfg.patience is not None:
        callbacks.append(Patience(cfg.patience))
    trainer = build.trainer(cfg, callbacks=callbacks, checkpoint_io=AtomicCheckpointIO())
    with run.recorded(cfg):
        console.print(
            f"{run.path.name}: {data.count('train')} images, {trainer.precision} on {task.device}", soft_wrap=True
        )
        last = run.checkpoints / "last.ckpt"
        trainer.fit(task, data, ckpt_path=last if last.exists() else None, weights_only=True)
        best = run.checkpoints / "best.ckpt"
        load_weights(task, best)
        measured = results.measure(trainer, task, data)
        log.finish(measured["metrics"])
        trained = {
            "best_epoch": checkpoints.best_epoch,
            "epochs": trainer.current_epoch,
            "seconds": round(sum(row["seconds"] for row in log.rows), 1),
            "images_per_s": log.images_per_second,
        }
        write_json(run.path / "result.json", {**measured, **trained, **results.provenance(trainer, best)})
