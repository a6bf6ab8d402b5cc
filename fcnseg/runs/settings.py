"""The settings of a run: the ranges of their values, and the settings by which loggers compare runs."""

from collections.abc import Callable
from math import inf
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fcnseg.data import check_settings, check_whole_number, spelled
from fcnseg.runs.trainer_settings import check_trainer

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
    ("checkpoint.every_n_minutes", lambda minutes: minutes > 0, "a number above 0, or null"),
    ("ema", lambda decay: _is_number(decay) and 0 < decay < 1, "a number between 0 and 1, such as 0.999, or null"),
    (
        "optimizer.backbone_lr",
        lambda factor: _is_number(factor) and factor > 0,
        "a factor above 0, such as 0.1, or null",
    ),
    ("optimizer.decay_norms", lambda decays: isinstance(decays, bool), "true or false or null"),
    (
        "schedule.warmup",
        lambda steps: _is_number(steps) and 0 <= steps < (inf if isinstance(steps, int) else 1),
        "a whole number of steps, a share of all steps below 1, or null",
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
            raise ValueError(f"{key}={value}: wanted {wanted}")


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
