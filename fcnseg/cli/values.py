"""The check that every value of a config has the type of its default."""

from itertools import accumulate
from math import isfinite
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from fcnseg.cli.messages import no_setting
from fcnseg.errors import KINDS
from fcnseg.runs.identity import ABSENT
from fcnseg.runs.settings import MAY_BE_A_LIST, MAY_BE_NULL, flatten


def check_values(cfg: DictConfig, defaults: DictConfig) -> None:
    """Refuse a value of another type than its default; a number becomes text where text is wanted.

    Args:
        cfg: The config of a job; values that become text are replaced in it.
        defaults: The config of the same choices, as in the files.

    Raises:
        ValueError: A value is missing or of another type, or nothing reads an added setting (+key=value).
    """
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise ValueError(f"{missing[0]} is missing: give {missing[0]}=<value>")
    known, given = (flatten(config, resolve=False, with_empty=True) for config in (defaults, cfg))
    for key in given.keys() - known.keys():
        emptied = any(other.startswith(f"{key}.") for other in known)  # a group whose last entry was removed
        if not emptied and not _is_argument(key, cfg, defaults):
            raise ValueError(no_setting(key, known))
    for key in given:
        value: Any = OmegaConf.select(cfg, key)
        if isinstance(value, float) and not isfinite(value):
            raise ValueError(f"{key}={value}: wanted a finite number")
    for key, written in known.items():
        if given.get(key, ABSENT) != written:  # an interpolation that is still the file's is right where its source is right
            _check_value(key, cfg, defaults)


def _check_value(key: str, cfg: DictConfig, defaults: DictConfig) -> None:
    if removed := _removed(key, cfg):
        entry = OmegaConf.select(defaults, removed)
        if "." in removed and isinstance(entry, DictConfig) and "_target_" in entry:
            return  # one of several entries of a group, such as an augmentation by ~aug.flip
        null = ", or null" if key in MAY_BE_NULL or entry is None else ""
        raise ValueError(f"~{removed}: it cannot be removed; give {removed}=<value>{null}")
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


def as_typed(value: object) -> str:
    """A value as a user types it on a command line."""
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


def _removed(key: str, cfg: DictConfig) -> str | None:
    """The first that `cfg` lacks of the nodes above a setting and the setting itself; None if it lacks nothing."""
    parents = accumulate(key.split("."), "{}.{}".format)
    return next((name for name in parents if OmegaConf.select(cfg, name, default=ABSENT) is ABSENT), None)


def _is_argument(key: str, cfg: DictConfig, defaults: DictConfig) -> bool:
    """Whether an added setting reaches a class or function that Hydra calls, which raises if it does not take it.

    Such settings are below a node with a `_target_`: `trainer`, `model`, ..., or an entry of a group of such nodes.
    """
    parents = list(accumulate(key.split(".")[:-1], "{}.{}".format))
    top = defaults.get(parents[0]) if parents else None
    if not isinstance(top, DictConfig):
        return False
    if "_target_" not in top:
        if not all(isinstance(entry, DictConfig) and "_target_" in entry for entry in top.values()):
            return False
        del parents[0]  # the group itself is no entry
    return any("_target_" in OmegaConf.select(cfg, parent) for parent in parents)


def _is_of_kind(value: object, default: object) -> bool:
    if isinstance(default, ListConfig):
        return isinstance(value, ListConfig) and all(_is_of_kind(item, default[0]) for item in value if default)
    return type(value) is type(default) or (type(value) is int and type(default) is float)
