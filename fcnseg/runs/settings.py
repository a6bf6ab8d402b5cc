"""The settings of a run: the allowed ones, and those by which loggers compare runs.

Each setting of Lightning's Trainer is used, or refused with the reason and the remedy.

A new setting is written, with its default, into a config, and into `SETTINGS` if there is more to know of it than its type.
`tests/test_configs.py` lists all defaults.
"""

from collections.abc import Callable
from math import inf
from typing import Any, NamedTuple

from omegaconf import DictConfig, ListConfig, OmegaConf

from fcnseg.data import check_settings, spelled
from fcnseg.errors import check_whole_number
from fcnseg.machine.processes import devices_and_machines

LARGEST_SEED = 2**32 - 1  # NumPy's


class Setting(NamedTuple):
    """What is known of a setting besides its type, which is that of its default.

    Attributes:
        null: Whether it may be null, even if a choice or an experiment sets another value.
        sides: Whether it may be a list of height and width.
        least: The least value of a whole number.
        is_right: Whether a value that is not null is right.
        wanted: The right values, in words.
        short: The word that stands before its number in the name of a run, in place of the setting's full name.
        identity: Whether another value makes a run another one.
        may_grow: Whether a larger value extends a finished run.
    """

    null: bool = False
    sides: bool = False
    least: int | None = None
    is_right: Callable[[Any], bool] = lambda _: True
    wanted: str = ""
    short: str = ""
    identity: bool = True
    may_grow: bool = False


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


SETTINGS = {  # all settings of which there is more to know than a type
    "name": Setting(identity=False),
    "runs": Setting(identity=False),
    "resume": Setting(identity=False, is_right=lambda resume: resume in ("auto", "never"), wanted="one of auto, never"),
    "logger": Setting(identity=False),
    "picture": Setting(null=True),
    "seed": Setting(least=0, is_right=lambda seed: seed <= LARGEST_SEED, wanted=f"a whole number from 0 to {LARGEST_SEED}"),
    "patience": Setting(null=True, least=1, short="patience", may_grow=True),
    "ema": Setting(
        null=True,
        is_right=lambda decay: _is_number(decay) and 0 < decay < 1,
        wanted="a number between 0 and 1, such as 0.999",
        short="ema",
    ),
    "trainer.max_epochs": Setting(least=1, short="epochs", may_grow=True),
    "trainer.devices": Setting(identity=False),  # this and the next two say how a batch is computed
    "trainer.num_nodes": Setting(identity=False),
    "trainer.accumulate_grad_batches": Setting(identity=False),
    "checkpoint.min_seconds": Setting(is_right=lambda seconds: seconds >= 0, wanted="a number from 0 up"),
    "checkpoint.every_n_steps": Setting(null=True, least=1),
    "checkpoint.every_n_minutes": Setting(null=True, is_right=lambda minutes: minutes > 0, wanted="a number above 0"),
    "data.size": Setting(sides=True, short="size"),
    "data.pack_size": Setting(null=True, sides=True),
    "data.batch_size": Setting(short="batch"),
    "data.limit": Setting(null=True, short="limit"),
    "data.cache": Setting(null=True, identity=False),
    "data.download": Setting(null=True, identity=False),
    "model.weights": Setting(null=True),
    "optimizer.lr": Setting(is_right=lambda rate: rate >= 0, wanted="a learning rate from 0 up", short="lr"),
    "optimizer.fused": Setting(null=True),
    "optimizer.backbone_lr": Setting(
        null=True,
        is_right=lambda factor: _is_number(factor) and factor > 0,
        wanted="a factor above 0, such as 0.1",
    ),
    "optimizer.decay_norms": Setting(null=True, is_right=lambda decays: isinstance(decays, bool), wanted="true or false"),
    "schedule.T_max": Setting(least=1),
    "schedule.warmup": Setting(
        null=True,
        is_right=lambda steps: _is_number(steps) and 0 <= steps < (inf if isinstance(steps, int) else 1),
        wanted="a whole number of steps, or a share of all steps below 1",
    ),
}
MAY_BE_NULL = [key for key, setting in SETTINGS.items() if setting.null]
MAY_BE_A_LIST = [key for key, setting in SETTINGS.items() if setting.sides]
NOT_IDENTITY = [key for key, setting in SETTINGS.items() if not setting.identity]
MAY_GROW = [key for key, setting in SETTINGS.items() if setting.may_grow]


def check_ranges(cfg: DictConfig) -> None:
    """Refuse settings that make no sense, before importing torch, which takes seconds.

    Raises:
        ValueError: A setting is out of its range.
    """
    check_trainer(cfg)
    data = cfg.data
    optional = {name: data.get(name) for name in ("limit", "pack_size")}
    check_settings(size=data.size, batch_size=data.batch_size, split=data.split, **optional)
    for key, setting in SETTINGS.items():
        if (value := OmegaConf.select(cfg, key)) is None:
            continue
        if setting.least is not None:
            check_whole_number(key, value, setting.least)
        if not setting.is_right(value):
            raise ValueError(f"{key}={value}: wanted {setting.wanted}{', or null' if setting.null else ''}")
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
