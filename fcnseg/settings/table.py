"""The settings of all commands: what is known of each besides its type, and those by which loggers compare runs.

A new setting is written, with its default, into a config, and into `SETTINGS` if there is more to know of it than its type.
`tests/test_configs.py` pins the defaults.
"""

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from math import inf
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from fcnseg.data.settings import check_data_settings, spelled
from fcnseg.errors import check_whole_number
from fcnseg.settings.lightning import ACCELERATORS, check_trainer
from fcnseg.texts import as_typed

LARGEST_SEED = 2**32 - 1  # NumPy's
SUM = "fcnseg.learning.losses.Sum"


class Setting(NamedTuple):
    """What is known of a setting besides its type, which is that of its default.

    Attributes:
        text: Whether it is a name or a path, which stays text even if it looks like a number.
        null: Whether it may be null, even if a choice or an experiment sets another value.
        sides: Whether it may be a list of height and width.
        least: The least value of a whole number.
        is_right: Whether a value is right; it is not asked about a null that `null` allows.
        wanted: The right values, in words.
        short: The word that stands before its number in the name of a run, in place of the setting's full name.
        identity: Whether another value makes a run another one.
        may_grow: Whether a larger value extends a finished run.
        passed: Whether it cannot be set, since fcnseg passes it itself to the object of its node.
        ours: Whether fcnseg reads it, and does not pass it to the object of its node.
    """

    text: bool = False
    null: bool = False
    sides: bool = False
    least: int | None = None
    is_right: Callable[[Any], bool] = lambda _: True
    wanted: str = ""
    short: str = ""
    identity: bool = True
    may_grow: bool = False
    passed: bool = False
    ours: bool = False


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


SETTINGS = {  # all settings of which there is more to know than a type; a * stands for any characters
    **{name: Setting(text=True) for name in ("run", "images", "out", "set", "compare", "json")},  # of the other commands
    "picture": Setting(text=True, null=True),  # of check
    "name": Setting(text=True, identity=False),
    "runs": Setting(text=True, identity=False),
    "resume": Setting(identity=False, is_right=lambda resume: resume in ("auto", "never"), wanted="one of auto, never"),
    "logger": Setting(identity=False),
    **{f"logger.*.{name}": Setting(text=True) for name in ("*name", "project", "save_dir")},
    "logger.*.only_watches": Setting(is_right=_is_bool, wanted="true or false", ours=True),
    "callbacks.*.only_watches": Setting(is_right=_is_bool, wanted="true or false", ours=True),
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
    "trainer.accelerator": Setting(
        is_right=lambda accelerator: accelerator in ACCELERATORS, wanted=f"one of {', '.join(ACCELERATORS)}"
    ),
    "trainer.gradient_clip_val": Setting(
        is_right=lambda clip: clip is None or (_is_number(clip) and clip > 0), wanted="a number above 0, or null"
    ),
    "checkpoint.min_seconds": Setting(
        is_right=lambda seconds: _is_number(seconds) and seconds >= 0, wanted="a number from 0 up"
    ),
    "checkpoint.every_n_steps": Setting(null=True, least=1),
    "checkpoint.every_n_minutes": Setting(
        null=True, is_right=lambda minutes: _is_number(minutes) and minutes > 0, wanted="a number above 0"
    ),
    **{f"data.{name}": Setting(passed=True) for name in ("augment", "seed", "only")},
    "data.root": Setting(text=True),
    "data.source.root": Setting(passed=True),
    **{f"data.source.{name}": Setting(text=True) for name in ("group", "image_suffix", "mask_suffix", "*md5")},
    "data.size": Setting(sides=True, short="size"),
    "data.pack_size": Setting(null=True, sides=True),
    "data.batch_size": Setting(short="batch"),
    "data.limit": Setting(null=True, short="limit"),
    "data.cache": Setting(text=True, null=True, identity=False),
    "data.download": Setting(null=True, identity=False),
    **{f"aug*.{name}": Setting(passed=True) for name in ("image", "mask", "draw")},
    "model.weights": Setting(text=True, null=True),
    **{
        f"{group}._partial_": Setting(is_right=lambda partial: partial is False, wanted="false")
        for group in ("data", "model", "loss")
    },
    "model.num_classes": Setting(passed=True),
    **{f"loss{part}.class_pixels": Setting(passed=True) for part in ("", ".terms.*.loss")},
    "optimizer.params": Setting(passed=True),
    "optimizer.lr": Setting(
        is_right=lambda rate: rate is None or (_is_number(rate) and rate >= 0), wanted="a learning rate from 0 up", short="lr"
    ),
    "optimizer.fused": Setting(null=True),
    "optimizer.backbone_lr": Setting(
        null=True,
        is_right=lambda factor: _is_number(factor) and factor > 0,
        wanted="a factor above 0, such as 0.1",
        ours=True,
    ),
    "optimizer.decay_norms": Setting(null=True, is_right=_is_bool, wanted="true or false", ours=True),
    **{f"schedule.{name}": Setting(passed=True) for name in ("optimizer", "steps")},
    "schedule.T_max": Setting(least=1),
    "schedule.warmup": Setting(
        null=True,
        is_right=lambda steps: _is_number(steps) and 0 <= steps < (inf if isinstance(steps, int) else 1),
        wanted="a whole number of steps, or a share of all steps below 1",
        ours=True,
    ),
}
MAY_BE_NULL = [key for key, row in SETTINGS.items() if row.null]
MAY_BE_A_LIST = [key for key, row in SETTINGS.items() if row.sides]
NOT_IDENTITY = [key for key, row in SETTINGS.items() if not row.identity]
MAY_GROW = [key for key, row in SETTINGS.items() if row.may_grow]


def setting(key: str) -> Setting:
    """What is known of the setting of this full name."""
    return next((SETTINGS[pattern] for pattern in SETTINGS if fnmatchcase(key, pattern)), Setting())


def check_ranges(cfg: DictConfig) -> None:
    """Refuse settings that make no sense, before importing torch, which takes seconds.

    Raises:
        ValueError: A setting is out of its range.
    """
    check_trainer(cfg)
    data = cfg.data
    optional = {name: data.get(name) for name in ("limit", "pack_size")}
    check_data_settings(size=data.size, batch_size=data.batch_size, split=data.split, **optional)
    # As they are written: the choices could be resolved only while Hydra runs.
    for key, written in _nodes(OmegaConf.to_container(cfg)):
        if (known := setting(key)).wanted or known.least is not None:
            _check_value(key, OmegaConf.select(cfg, key) if "${" in str(written) else written, known)
    _check_schedule(cfg.schedule)
    _check_sum(cfg.loss, "loss")
    has_weights = str(cfg.model.get("_target_")).startswith("fcnseg.") and "weights" in cfg.model
    if has_weights and cfg.model.get("freeze") is True and cfg.model.weights is None:
        raise ValueError("model.freeze=true would keep random weights, since model.weights=null: give weights, or leave it out")


def _nodes(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All values of a nested config, by their full names, and the nodes that hold them: one may stand in a value's place."""
    for name, value in config.items():
        yield f"{prefix}{name}", value
        if isinstance(value, dict):
            yield from _nodes(value, f"{prefix}{name}.")


def _check_value(key: str, value: Any, known: Setting) -> None:
    if value is None and known.null:
        return
    if known.least is not None:
        check_whole_number(key, value, known.least)
    if isinstance(value, dict) or not known.is_right(value):
        raise ValueError(f"{key}={as_typed(value)}: wanted {known.wanted}{', or null' if known.null else ''}")


def _check_schedule(schedule: DictConfig) -> None:
    """Refuse a number of epochs after which a factor of 1 ends."""
    if schedule.get("total_iters") and schedule.get("factor") == 1:
        raise ValueError(f"schedule.total_iters={schedule.total_iters} has no effect by itself: give schedule.factor, too")


def _check_sum(loss: DictConfig, key: str) -> None:
    """Refuse a sum of losses without parts, or with a part that is no loss and weight above 0; of subclasses, the weights."""
    is_sum, terms = loss.get("_target_") == SUM, loss.get("terms")
    if is_sum and not (isinstance(terms, DictConfig) and terms):
        raise ValueError(f"{key}.terms is empty: wanted a loss or more to add up")
    for name, part in terms.items() if isinstance(terms, DictConfig) else ():
        full = f"{key}.terms.{name!s}"
        is_pair = isinstance(part, DictConfig) and part.keys() == {"weight", "loss"} and isinstance(part.loss, DictConfig)
        if not (is_pair and "_target_" in part.loss):
            if is_sum:
                raise ValueError(f"{full}={as_typed(part)}: wanted a weight and a loss, and nothing else")
            continue
        if not _is_number(part.weight) or part.weight <= 0:
            raise ValueError(f"{full}.weight={as_typed(part.weight)}: wanted a number above 0; ~{full} leaves the part out")
        _check_sum(part.loss, f"{full}.loss")


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
