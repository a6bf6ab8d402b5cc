"""The check that every value of a config has the type of its default."""

from itertools import accumulate
from math import isfinite
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from fcnseg.cli.configs import SHIPPED, default_config, preset_choices
from fcnseg.cli.messages import no_setting, not_removable
from fcnseg.errors import KINDS
from fcnseg.runs.identity import ABSENT, run_name
from fcnseg.settings.table import MAY_BE_A_LIST, MAY_BE_NULL, flatten
from fcnseg.texts import as_typed


def check_and_name(cfg: DictConfig, config_name: str) -> None:
    """Refuse a wrong value in the config of a job of the command `config_name`; set the name of its run, if it has one.

    Raises:
        ValueError: See `check_values`.
    """
    check_values(cfg, default_config(config_name))
    if "name" in cfg:
        defaults = default_config(config_name, added=False)
        cfg.name = run_name(cfg, defaults=defaults, preset=preset_choices(config_name), shipped=SHIPPED)


def check_values(cfg: DictConfig, defaults: DictConfig) -> None:
    """Refuse a value of another type than in `defaults`; a number becomes text in `cfg` where text is wanted.

    Raises:
        ValueError: A value is missing or of another type, or nothing reads an added setting (+key=value).
    """
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise ValueError(f"{missing[0]} is missing: give {missing[0]}=<value>")
    known, given = (flatten(config, resolve=False, with_empty=True) for config in (defaults, cfg))
    for key in given:
        is_known = any(f"{other}.".startswith(f"{key}.") for other in known)  # itself, or as a group that was emptied
        if not is_known and not _is_argument(key, cfg, defaults):
            raise ValueError(no_setting(key, known))
        value: Any = OmegaConf.select(cfg, key)
        if isinstance(value, float) and not isfinite(value):
            raise ValueError(f"{key}={value}: wanted a finite number")
    # An interpolation that is still the file's is right where its source is right.
    for key in (key for key, written in known.items() if given.get(key, ABSENT) != written):
        if removed := _removed(key, cfg):
            parent = removed.rpartition(".")[0]
            if parent and not isinstance(value := OmegaConf.select(cfg, parent), DictConfig):
                raise ValueError(f"{parent}={as_typed(value)}: it has settings of its own, such as {removed}; change these")
            _check_removed(removed, OmegaConf.select(defaults, removed), may_be_null=key in MAY_BE_NULL)
        else:
            _check_value(key, cfg, defaults)


def _check_removed(key: str, default: object, *, may_be_null: bool) -> None:
    is_entry = isinstance(default, DictConfig) and any(str(name).endswith("_target_") for name in flatten(default))
    if not (is_entry and "." in key):  # one of several entries, such as an augmentation by ~aug.flip or a loss of a sum
        raise ValueError(not_removable(key, or_null=may_be_null or default is None))


def _check_value(key: str, cfg: DictConfig, defaults: DictConfig) -> None:
    if key.startswith("choices.") and OmegaConf.select(cfg, key) != OmegaConf.select(defaults, key):
        raise ValueError(f"{key} is set by the command itself: choose with {key.removeprefix('choices.')}=<choice>")
    value: Any = OmegaConf.select(cfg, key)
    default: Any = OmegaConf.select(defaults, key)
    if value == default or default is None or isinstance(default, DictConfig) or key == "trainer.devices":
        return
    if isinstance(default, str) and type(value) in (int, float):
        OmegaConf.update(cfg, key, str(value))
    elif not (
        _is_of_kind(value, default)
        or (value is None and key in MAY_BE_NULL)
        or (isinstance(value, ListConfig) and key in MAY_BE_A_LIST)
    ):
        kind = KINDS[list if isinstance(default, ListConfig) else type(default)]
        raise ValueError(f"{key}={as_typed(value)}: wanted {kind}, such as {as_typed(default)}")


def _removed(key: str, cfg: DictConfig) -> str | None:
    """The first that `cfg` lacks of the nodes above a setting and the setting itself; None if it lacks nothing."""
    parents = accumulate(key.split("."), "{}.{}".format)
    return next((name for name in parents if OmegaConf.select(cfg, name, default=ABSENT) is ABSENT), None)


def _is_argument(key: str, cfg: DictConfig, defaults: DictConfig) -> bool:
    """Whether an added setting reaches a class or function that Hydra calls, which raises if it does not take it.

    Such settings are below a node with a `_target_`: `trainer`, `model`, ..., or an entry of a group of such nodes.
    """
    top = defaults.get(key.partition(".")[0])
    if not isinstance(top, DictConfig) or "_target_" in top:
        return isinstance(top, DictConfig)
    is_group = all(isinstance(entry, DictConfig) and "_target_" in entry for entry in top.values())
    parents = [*accumulate(key.split(".")[:-1], "{}.{}".format)][1:]  # without the group itself
    return is_group and any("_target_" in OmegaConf.select(cfg, parent) for parent in parents)


def _is_of_kind(value: object, default: object) -> bool:
    if isinstance(default, ListConfig):
        return isinstance(value, ListConfig) and all(_is_of_kind(item, default[0]) for item in value if default)
    return type(value) is type(default) or (type(value) is int and type(default) is float)
