"""The settings of a run: its name, which make sense, what runs are compared by, and what makes two of them."""

import hashlib
import json
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from fcnseg.data import MIN_SIZE, SPLITS

LEAST = {
    **{"trainer.max_epochs": 1, "patience": 1, "checkpoint.every_n_steps": 1, "seed": 0},
    **{"data.size": MIN_SIZE, "data.batch_size": 1},
}
ONE_DEVICE = "a run trains on one device; hydra/launcher=gpus gives every run of a sweep a GPU of its own"
WHOLE_EPOCHS = "a run trains on all images and validates after every epoch; trainer.max_epochs says how long"
UNSUPPORTED = {  # of Lightning's settings, each with the reason, or the remedy
    "accumulate_grad_batches": "raise data.batch_size",
    "overfit_batches": "debug=overfit does it",
    **dict.fromkeys(("num_nodes", "strategy"), ONE_DEVICE),
    **dict.fromkeys(("check_val_every_n_epoch", "max_steps", "min_steps", "val_check_interval"), WHOLE_EPOCHS),
}
UNNAMED = ("name", "runs", "resume")  # what a run is called and where, not what it is


def name(cfg: DictConfig) -> str:
    """A run's name: its choices, its seed and a fingerprint of its whole config; the same command, the same name.

    Raises:
        ValueError: a name given by the user that is no name of a folder.
    """
    if cfg.name is not None:
        if (given := str(cfg.name)) in ("", ".", "..") or "/" in given:
            raise ValueError(f"name={given}: wanted the name of a folder in {cfg.runs}, without a /")
        return given
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    identity = {key: value for key, value in config.items() if key not in UNNAMED}
    fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    choices = [choice for choice in cfg.choices.values() if choice]
    return "-".join([*choices, f"seed{cfg.seed}", fingerprint])


def check_ranges(cfg: DictConfig) -> None:
    """Refuse settings that make no sense, without waiting for the imports that whatever they are of needs.

    Raises:
        ValueError: a setting out of its range.
    """
    for key, least in LEAST.items():
        value = OmegaConf.select(cfg, key)
        if value is not None and (type(value) is not int or value < least):
            raise ValueError(f"{key}={value}: wanted a whole number from {least} up")
    for key, reason in UNSUPPORTED.items():
        if key in cfg.trainer:
            raise ValueError(f"trainer.{key}={cfg.trainer[key]} cannot be set: {reason}")
    if (clip := cfg.trainer.get("gradient_clip_val")) is not None and cfg.optimizer.get("fused"):
        raise ValueError(
            f"trainer.gradient_clip_val={clip}: a fused optimiser does not clip; add optimizer.fused=false"
        )
    devices = cfg.trainer.devices
    if devices not in (1, "1") and not (isinstance(devices, ListConfig) and len(devices) == 1):
        raise ValueError(f"trainer.devices={devices}: wanted 1, or a list of one: {ONE_DEVICE}")
    if not (seconds := cfg.checkpoint.min_seconds) >= 0:
        raise ValueError(f"checkpoint.min_seconds={seconds}: wanted a number from 0 up")
    if (minutes := cfg.checkpoint.every_n_minutes) is not None and not minutes > 0:
        raise ValueError(f"checkpoint.every_n_minutes={minutes}: wanted a number above 0, or null")
    for key, choices in (("resume", ("auto", "never")), ("data.split", SPLITS)):
        if (value := OmegaConf.select(cfg, key)) not in choices:
            raise ValueError(f"{key}={value}: wanted one of {', '.join(choices)}")


def hyperparameters(cfg: DictConfig) -> dict[str, Any]:
    """What runs are compared by: the same columns for every run."""
    return {
        **{group: cfg.choices[group] or "" for group in cfg.choices},
        "lr": cfg.optimizer.lr,
        "batch_size": cfg.data.batch_size,
        "size": cfg.data.size,
        "split": cfg.data.split,
        "max_epochs": cfg.trainer.max_epochs,
        "seed": cfg.seed,
    }


def differences(old: DictConfig, new: DictConfig) -> dict[str, tuple[Any, Any]]:
    """What makes two configs two runs: (old, new) of every such setting; more epochs or patience are none."""
    befores, afters = (flatten(cfg) for cfg in (old, new))
    may_differ = {*UNNAMED, "trainer.max_epochs", "patience"}
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
