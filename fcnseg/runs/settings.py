"""The settings of a run: the allowed ones, and those by which loggers compare runs.

Each setting of Lightning's Trainer is used, or refused with the reason and the remedy.

A new setting is written, with its default, into a config. It is added here if it may be null or has a range, and to
`identity.NOT_IDENTITY` if it does not make a run another one. `tests/test_configs.py` lists all defaults.
"""

from collections.abc import Callable
from math import inf
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from fcnseg.data import check_settings, spelled
from fcnseg.errors import check_whole_number
from fcnseg.machine.processes import devices_and_machines

MAY_BE_NULL = (  # settings that may be null, even if a choice or an experiment sets another value
    *("patience", "ema", "checkpoint.every_n_minutes", "checkpoint.every_n_steps", "model.weights", "picture"),
    *("optimizer.fused", "optimizer.backbone_lr", "optimizer.decay_norms", "schedule.warmup"),
    *("data.pack_size", "data.limit", "data.cache", "data.download"),
)
MAY_BE_A_LIST = ("data.size", "data.pack_size")  # numbers, or a list of height and width
# The least value of every whole number that has one.
LEAST_VALUES = {"trainer.max_epochs": 1, "patience": 1, "checkpoint.every_n_steps": 1, "seed": 0, "schedule.T_max": 1}
LARGEST_SEED = 2**32 - 1  # NumPy's


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# Checks of settings that are given and not null: the key, whether a value is right, and the wanted values.
WANTED: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("seed", lambda seed: seed <= LARGEST_SEED, f"a whole number from 0 to {LARGEST_SEED}"),
    ("optimizer.lr", lambda rate: rate >= 0, "a learning rate from 0 up"),
    ("checkpoint.min_seconds", lambda seconds: seconds >= 0, "a number from 0 up"),
    ("checkpoint.every_n_minutes", lambda minutes: minutes > 0, "a number above 0"),
    ("ema", lambda decay: _is_number(decay) and 0 < decay < 1, "a number between 0 and 1, such as 0.999"),
    ("optimizer.backbone_lr", lambda factor: _is_number(factor) and factor > 0, "a factor above 0, such as 0.1"),
    ("optimizer.decay_norms", lambda decays: isinstance(decays, bool), "true or false"),
    (
        "schedule.warmup",
        lambda steps: _is_number(steps) and 0 <= steps < (inf if isinstance(steps, int) else 1),
        "a whole number of steps, or a share of all steps below 1",
    ),
    ("resume", lambda resume: resume in ("auto", "never"), "one of auto, never"),
)


def check_ranges(cfg: DictConfig) -> None:
    """Refuse settings that make no sense, before importing torch, which takes seconds.

    Raises:
        ValueError: A setting is out of its range.
    """
    check_trainer(cfg)
    data = cfg.data
    optional = {name: data.get(name) for name in ("limit", "pack_size")}
    check_settings(size=data.size, batch_size=data.batch_size, split=data.split, **optional)
    for key, least in LEAST_VALUES.items():
        value = OmegaConf.select(cfg, key)
        if value is not None:
            check_whole_number(key, value, least)
    for key, is_right, wanted in WANTED:
        value = OmegaConf.select(cfg, key)
        if value is not None and not is_right(value):
            raise ValueError(f"{key}={value}: wanted {wanted}{', or null' if key in MAY_BE_NULL else ''}")
    if cfg.schedule.get("total_iters") and cfg.schedule.get("factor") == 1:
        raise ValueError(f"schedule.total_iters={cfg.schedule.total_iters} has no effect by itself: give schedule.factor, too")


def hyperparameters(cfg: DictConfig) -> dict[str, Any]:
    """The settings by which loggers compare runs, the same for every run; by default, TensorBoard shows the first few."""
    choices = {group: choice or "" for group, choice in cfg.choices.items()}
    first = {group: choices[group] for group in ("model", "aug", "loss")}
    return {
        **{**first, "lr": cfg.optimizer.get("lr", ""), "seed": cfg.seed},
        **choices,
        "batch_size": cfg.data.batch_size,
        "size": spelled(cfg.data.size),
        "split": cfg.data.split,
        "max_epochs": cfg.trainer.max_epochs,
    }


def flatten(config: Any, prefix: str = "", *, resolve: bool = True, with_empty: bool = False) -> dict[str, Any]:
    """A nested config as one level: full names of settings, such as `trainer.max_epochs`, to their values.

    Args:
        config: Plain dictionaries, or a DictConfig. A list is one value.
        prefix: The full name of `config` itself.
        resolve: Whether the interpolations of a DictConfig are replaced by their values.
        with_empty: Whether an empty dictionary counts as a setting.
    """
    if isinstance(config, DictConfig):
        config = OmegaConf.to_container(config, resolve=resolve)
    if not isinstance(config, dict) or (with_empty and not config):
        return {prefix: config}
    return {
        full: value
        for key, node in config.items()
        for full, value in flatten(node, f"{prefix}.{key}" if prefix else str(key), with_empty=with_empty).items()
    }


BY_LIGHTNING = "a run on several devices uses Lightning's ddp; trainer.devices and +trainer.num_nodes say how many"
WHOLE_EPOCHS = "a run trains on all images and validates after every epoch; trainer.max_epochs says for how long"
TRY_OUT = "debug=fast tries everything out in seconds"
WHOLE_SETS = f"a result is of all images of its data set; {TRY_OUT}"
OUR_LOG = "a run always has its own log; logger=csv, logger=wandb or +logger.x._target_=... adds another"
OUR_CHECKPOINTS = "a run saves its own checkpoints, from which it resumes exactly; the settings are checkpoint.*"

PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "32", "bf16", "16")  # Lightning's short names come last

# If Lightning adds a setting, tests/runs/test_trainer_settings.py fails until it is in one of these two lists.
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


def check_trainer(cfg: DictConfig) -> None:
    """Refuse settings of the Trainer that a run cannot use.

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
    profiler = trainer.get("profiler")  # without a file, a profiler reports to Lightning's own log, which is silenced
    if profiler is not None and not (isinstance(profiler, DictConfig) and {"dirpath", "filename"} <= profiler.keys()):
        raise ValueError(
            f"trainer.profiler={profiler} would print nowhere: give it a file, with +trainer.profiler._target_="
            "lightning.pytorch.profilers.SimpleProfiler +trainer.profiler.dirpath=. +trainer.profiler.filename=profile"
        )
    _check_parts(trainer, cfg.data.batch_size)


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
