"""Lightning's Trainer settings: each one is honoured, or refused with the reason and the remedy."""

from omegaconf import DictConfig, ListConfig

ONE_DEVICE = "a run trains on one device; hydra/launcher=gpus gives every run of a sweep a GPU of its own"
WHOLE_EPOCHS = "a run trains on all images and validates after every epoch; trainer.max_epochs says for how long"
TRY_OUT = "debug=fast tries everything out in seconds"
WHOLE_SETS = f"a result is of all images of its data set; {TRY_OUT}"
OUR_LOG = "a run always has its own log; logger=csv, logger=wandb or +logger.x._target_=... adds another"
OUR_CHECKPOINTS = "a run saves its own checkpoints, from which it resumes exactly; the settings are checkpoint.*"

PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "32", "bf16", "16")  # Lightning's short names come last

# What Lightning adds to these two lists, tests/runs/test_trainer_settings.py asks to be decided about.
HONOURED = (
    *("accelerator", "devices", "precision", "max_epochs", "deterministic", "benchmark", "inference_mode"),
    *("gradient_clip_val", "gradient_clip_algorithm", "detect_anomaly", "log_every_n_steps", "profiler"),
)
REFUSED = {
    **dict.fromkeys(("num_nodes", "strategy", "sync_batchnorm", "use_distributed_sampler"), ONE_DEVICE),
    **dict.fromkeys(
        ("check_val_every_n_epoch", "max_steps", "min_steps", "min_epochs", "val_check_interval"), WHOLE_EPOCHS
    ),
    **dict.fromkeys(
        ("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches"), WHOLE_SETS
    ),
    **dict.fromkeys(("fast_dev_run", "num_sanity_val_steps"), TRY_OUT),
    **dict.fromkeys(("logger", "model_registry"), OUR_LOG),
    "enable_checkpointing": OUR_CHECKPOINTS,
    "default_root_dir": "runs=<folder> says where runs are written",
    "enable_autolog_hparams": "a run logs its hyperparameters itself",
    "barebones": "it forbids the callbacks and the log of a run; python -m fcnseg.benchmark measures speed",
    "overfit_batches": "debug=overfit trains on sixteen images over and over",
    "max_time": "Ctrl-C, SIGTERM or SLURM's time limit stops a run, and the same command resumes it",
    "accumulate_grad_batches": "raise data.batch_size",
    "callbacks": "callbacks=lr_monitor or +callbacks.x._target_=... adds one",
    "plugins": "a run brings the one that reads and writes its checkpoints; trainer.precision chooses the precision",
    "enable_progress_bar": "a run shows its own progress bar, on a terminal alone",
    "enable_model_summary": "callbacks=model_summary prints one",
    "reload_dataloaders_every_n_epochs": "the order of the images depends on seed and epoch already",
}


def check_trainer(cfg: DictConfig) -> None:
    """Refuse settings of the Trainer that a run does not honour.

    Raises:
        ValueError: A setting is refused, has no effect beside the others, or is out of its range.
    """
    trainer = cfg.trainer
    for key in sorted(trainer.keys() - {"_target_", *HONOURED}):
        reason = REFUSED.get(str(key), f"it is unknown; known are {', '.join(HONOURED)}")
        raise ValueError(f"trainer.{key}={trainer[key]} cannot be set: {reason}")
    if str(trainer.precision) not in PRECISIONS:
        raise ValueError(
            f"trainer.precision={trainer.precision}: wanted one of {', '.join(PRECISIONS[:4])}. Images and weights are float32;"
            " half the memory and the time comes from the mixed ones"
        )
    if "gradient_clip_algorithm" in trainer and trainer.get("gradient_clip_val") is None:
        raise ValueError("trainer.gradient_clip_algorithm has no effect by itself: add +trainer.gradient_clip_val=1.0")
    if "log_every_n_steps" in trainer and not cfg.callbacks:
        raise ValueError(
            "trainer.log_every_n_steps has no effect without a callback that logs: add callbacks=lr_monitor"
            " callbacks.lr_monitor.logging_interval=step"
        )
    profiler = trainer.get("profiler")  # one without a file reports to Lightning's own log, which is silenced
    if profiler is not None and not (isinstance(profiler, DictConfig) and {"dirpath", "filename"} <= profiler.keys()):
        raise ValueError(
            f"trainer.profiler={profiler} would print nowhere: give it a file, with +trainer.profiler._target_="
            "lightning.pytorch.profilers.SimpleProfiler +trainer.profiler.dirpath=. +trainer.profiler.filename=profile"
        )
    devices = trainer.devices
    if devices not in (1, "1") and not (isinstance(devices, ListConfig) and len(devices) == 1):
        raise ValueError(f"trainer.devices={devices}: wanted 1, or a list of one: {ONE_DEVICE}")
