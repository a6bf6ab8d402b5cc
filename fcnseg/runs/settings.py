"""The settings of a run: which values make sense, what runs are compared by, and what makes two of them different runs."""

from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from fcnseg.data import check_settings
from fcnseg.runs.trainer_settings import check_trainer

LEAST = {"trainer.max_epochs": 1, "patience": 1, "checkpoint.every_n_steps": 1, "seed": 0}
NOT_IDENTITY = (
    "name",
    "runs",
    "resume",
    "logger",
)  # how a run is called, where it is and who watches it, not what it is
WATCHERS = {  # callbacks of Lightning's that only watch; of the user's own, those with `only_watches: true`
    f"lightning.pytorch.callbacks.{name}"
    for name in (
        *("DeviceStatsMonitor", "LearningRateMonitor", "ModelSummary", "RichModelSummary", "ModelCheckpoint"),
        *("RichProgressBar", "TQDMProgressBar", "ThroughputMonitor", "OnExceptionCheckpoint"),
    )
}


def check_ranges(cfg: DictConfig) -> None:
    """Refuse settings that make no sense, before the seconds that importing torch takes.

    Raises:
        ValueError: a setting out of its range.
    """
    check_trainer(cfg)
    check_settings(size=cfg.data.size, batch_size=cfg.data.batch_size, split=cfg.data.split)
    for key, least in LEAST.items():
        value = OmegaConf.select(cfg, key)
        if value is not None and (type(value) is not int or value < least):
            raise ValueError(f"{key}={value}: wanted a whole number from {least} up")
    if not (seconds := cfg.checkpoint.min_seconds) >= 0:
        raise ValueError(f"checkpoint.min_seconds={seconds}: wanted a number from 0 up")
    if (minutes := cfg.checkpoint.every_n_minutes) is not None and not minutes > 0:
        raise ValueError(f"checkpoint.every_n_minutes={minutes}: wanted a number above 0, or null")
    if cfg.resume not in ("auto", "never"):
        raise ValueError(f"resume={cfg.resume}: wanted one of auto, never")


def hyperparameters(cfg: DictConfig) -> dict[str, Any]:
    """What loggers compare runs by: the same columns for every run."""
    return {
        **{group: choice or "" for group, choice in cfg.choices.items()},
        "lr": cfg.optimizer.lr,
        "batch_size": cfg.data.batch_size,
        "size": cfg.data.size,
        "split": cfg.data.split,
        "max_epochs": cfg.trainer.max_epochs,
        "seed": cfg.seed,
    }


def without_watchers(cfg: DictConfig) -> dict[str, Any]:
    """A config, interpolations resolved, without its loggers and the callbacks that only watch."""
    config = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    callbacks = {
        name: entry
        for name, entry in (config.pop("callbacks", None) or {}).items()
        if entry and entry.get("_target_") not in WATCHERS and not entry.get("only_watches")
    }
    config.pop("logger", None)
    return {**config, "callbacks": callbacks} if callbacks else config


def differences(old: DictConfig, new: DictConfig) -> dict[str, tuple[Any, Any]]:
    """The settings that make two configs two runs, each with its values in both; more epochs or patience make none."""
    befores, afters = (flatten(without_watchers(cfg)) for cfg in (old, new))
    may_differ = {*NOT_IDENTITY, "trainer.max_epochs", "patience"}
    if all(flat.get("schedule.T_max") == flat["trainer.max_epochs"] for flat in (befores, afters)):
        may_differ.add("schedule.T_max")
    pairs = {key: (befores.get(key), afters.get(key)) for key in sorted(befores.keys() | afters.keys())}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1] and key not in may_differ}


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """A nested config as one level: full names of settings, such as `trainer.max_epochs`, to their values.

    Args:
        config: Plain dictionaries, or a DictConfig, whose interpolations are then resolved. A list is one value.
        prefix: The full name of `config` itself.
    """
    if isinstance(config, DictConfig):
        config = OmegaConf.to_container(config, resolve=True)
    if not isinstance(config, dict):
        return {prefix: config}
    return {
        full: value
        for key, node in config.items()
        for full, value in flatten(node, f"{prefix}.{key}" if prefix else str(key)).items()
    }
