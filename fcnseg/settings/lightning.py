"""What a run takes of Lightning: the Trainer's settings and the callbacks. Each is used, or refused with reason and remedy."""

from omegaconf import DictConfig, ListConfig

from fcnseg.errors import check_whole_number
from fcnseg.machine.processes import devices_and_machines

BY_LIGHTNING = "a run on several devices uses Lightning's ddp; trainer.devices and +trainer.num_nodes say how many"
WHOLE_EPOCHS = "a run trains on all images and validates after every epoch; trainer.max_epochs says for how long"
TRY_OUT = "debug=fast tries everything out in seconds"
WHOLE_SETS = f"a result is of all images of its data set; {TRY_OUT}"
OUR_LOG = "a run always has its own log; logger=csv, logger=wandb or +logger.x._target_=... adds another"
OUR_CHECKPOINTS = "a run saves its own checkpoints, from which it resumes exactly; the settings are checkpoint.*"

TARGET = "lightning.Trainer"
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
FLOAT16 = "16-mixed"
SHORT = {"32": "32-true", "bf16": "bf16-mixed", "16": FLOAT16}  # Lightning's short names of precisions, and its long ones
PRECISIONS = ("auto", *SHORT.values(), *SHORT)

# If Lightning adds a setting, tests/settings/test_lightning.py fails until it is in one of these two lists.
HONOURED = (
    *("accelerator", "devices", "precision", "max_epochs", "deterministic", "benchmark", "inference_mode"),
    *("num_nodes", "accumulate_grad_batches"),
    *("gradient_clip_val", "gradient_clip_algorithm", "detect_anomaly", "log_every_n_steps", "profiler"),
)
REFUSED = {
    "strategy": BY_LIGHTNING,
    "sync_batchnorm": "on several GPUs batch norm is always synchronised, and on CPUs it cannot be",
    "use_distributed_sampler": "each device gets its part of the order that one device would have",
    **dict.fromkeys(("check_val_every_n_epoch", "max_steps", "min_steps", "min_epochs", "val_check_interval"), WHOLE_EPOCHS),
    **dict.fromkeys(("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches"), WHOLE_SETS),
    **dict.fromkeys(("fast_dev_run", "num_sanity_val_steps"), TRY_OUT),
    **dict.fromkeys(("logger", "model_registry"), OUR_LOG),
    "enable_checkpointing": OUR_CHECKPOINTS,
    "default_root_dir": "runs=<folder> says where runs are written",
    "enable_autolog_hparams": "a run logs its hyperparameters itself",
    "barebones": "it forbids the callbacks and the log of a run; python -m fcnseg.benchmark measures speed",
    "overfit_batches": "debug=overfit trains on sixteen images over and over",
    "max_time": "Ctrl-C, SIGTERM or SLURM's time limit stops a run, and the same command resumes it",
    "callbacks": "callbacks=lr_monitor or +callbacks.x._target_=... adds one",
    "plugins": "a run brings the one that reads and writes its checkpoints; trainer.precision chooses the precision",
    "enable_progress_bar": "a run shows its own progress bar if its output is a terminal",
    "enable_model_summary": "callbacks=model_summary prints one",
    "reload_dataloaders_every_n_epochs": "the order of the images depends on seed and epoch already",
}

UNLIKE_A_RUN = "changes the steps of a run, so that it could not be resumed exactly"
AVERAGES = "would give best.ckpt other weights than those that were validated; ema=0.999 averages the weights"
REFUSED_CALLBACKS = {  # callbacks of Lightning's, with the reason and the remedy
    "BaseFinetuning": (
        "freezes weights, which no checkpoint keeps, so that the run could not be resumed exactly; optimizer.backbone_lr=0.1"
        " trains a pretrained backbone more slowly"
    ),
    "BatchSizeFinder": f"{UNLIKE_A_RUN}; set data.batch_size",
    "EarlyStopping": "would train on if the run is resumed after the stop; patience stops it by val/miou",
    "GradientAccumulationScheduler": f"{UNLIKE_A_RUN}; +trainer.accumulate_grad_batches divides data.batch_size",
    "LearningRateFinder": f"{UNLIKE_A_RUN}; set optimizer.lr",
    "ModelPruning": "gives the weights other names, so that no checkpoint fits the network; prune that of a finished run",
    "ProgressBar": "is not needed: a run shows its own progress bar if its output is a terminal",
    "SpikeDetection": "cannot be resumed, and skips no batch; a run stops by itself at a loss that is not finite",
    "StochasticWeightAveraging": f"trains another epoch, and {AVERAGES}",
    "Timer": "would end a run early; Ctrl-C or SLURM's time limit stops it, and the same command resumes it",
    "WeightAveraging": AVERAGES,
}
WATCHERS = {  # callbacks of Lightning's that only watch; a user's own says `only_watches: true`
    f"lightning.pytorch.callbacks.{name}"
    for name in (
        "DeviceStatsMonitor",
        "LearningRateMonitor",
        "RichModelSummary",
        "ModelCheckpoint",
        "ThroughputMonitor",
    )
}


def long_name(precision: object) -> str:
    """Lightning's long name of a precision."""
    return SHORT.get(str(precision), str(precision))


def check_callback(kind: type) -> None:
    """Refuse a callback of Lightning's that a run cannot have.

    Raises:
        ValueError: The class is such a callback; the message has the reason and the remedy.
    """
    for base in kind.__mro__:
        if base.__module__.startswith("lightning.") and base.__name__ in REFUSED_CALLBACKS:
            raise ValueError(f"callbacks: {kind.__name__} {REFUSED_CALLBACKS[base.__name__]}")


def check_trainer(cfg: DictConfig) -> None:
    """Refuse settings of the Trainer that a run cannot use.

    Raises:
        ValueError: A setting is refused, has no effect beside the others, or is out of its range.
    """
    trainer = cfg.trainer
    if trainer._target_ != TARGET:
        raise ValueError(f"trainer._target_={trainer._target_}: a run is trained by {TARGET}; leave it out")
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
    if "log_every_n_steps" in trainer and not any(map(_may_log_steps, cfg.callbacks.values())):
        raise ValueError(
            "trainer.log_every_n_steps has no effect without a callback that logs: add callbacks=lr_monitor"
            " callbacks.lr_monitor.logging_interval=step"
        )
    profiler = trainer.get("profiler")  # without a file, a profiler reports to Lightning's own log, which is silenced
    if profiler is not None and not (isinstance(profiler, DictConfig) and {"dirpath", "filename"} <= profiler.keys()):
        raise ValueError(
            f"trainer.profiler={profiler} would print nowhere: give it a file, with +trainer.profiler._target_="
            "lightning.pytorch.profilers.SimpleProfiler +trainer.profiler.dirpath=. +trainer.profiler.filename=profile"
        )
    _check_parts(trainer, cfg.data.batch_size)


def _may_log_steps(callback: DictConfig) -> bool:
    """Whether a callback may log between epochs: not if it is one of Lightning's that does not."""
    target = str(callback.get("_target_"))
    never = callback.get("logging_interval") == "epoch" or target.endswith("ModelSummary")
    return not (never and target.startswith("lightning."))


def _check_parts(trainer: DictConfig, batch_size: int) -> None:
    """Refuse numbers of devices, machines and accumulated parts that do not divide a batch."""
    devices, accumulate = trainer.devices, trainer.get("accumulate_grad_batches", 1)
    number = len(devices) if isinstance(devices, ListConfig) else devices
    if not str(number).isdecimal() or int(number) < 1:
        raise ValueError(f"trainer.devices={devices}: wanted a whole number from 1 up, or a list of GPUs: [0,1]")
    check_whole_number("trainer.num_nodes", trainer.get("num_nodes", 1), 1)
    check_whole_number("trainer.accumulate_grad_batches", accumulate, 1)
    devices_each, machines = devices_and_machines(trainer)
    parts = devices_each * machines * accumulate
    if batch_size % parts:
        below = batch_size // parts * parts
        fitting = " or ".join(str(size) for size in (below, below + parts) if size)
        raise ValueError(
            f"data.batch_size={batch_size} is the batch of all devices together, and {parts} parts"
            f" (trainer.devices={devices_each}, trainer.num_nodes={machines}, trainer.accumulate_grad_batches={accumulate}) do"
            f" not divide it: wanted, for instance, data.batch_size={fitting}"
        )


def check_one_device(trainer: DictConfig) -> None:
    """Refuse several devices for the job of a sweep.

    Raises:
        ValueError: The settings ask for several.
    """
    if devices_and_machines(trainer) != (1, 1):
        raise ValueError(
            f"trainer.devices={trainer.devices}: a job of a sweep trains on one device, since the processes for the others"
            " would start the whole sweep again; leave out -m for one run on several, or hydra/launcher=gpus gives every job"
            " a GPU of its own"
        )
