"""The parameters of what a config names: their types, those that there are not, and those that fcnseg passes itself."""

import inspect
import sys
from pathlib import Path
from pydoc import locate
from types import UnionType
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, ListConfig
from torch import Tensor

from fcnseg.errors import KINDS
from fcnseg.settings.table import SETTINGS, setting
from fcnseg.texts import as_typed


def check_parameters(cfg: DictConfig, key: str = "") -> None:
    """Check the config's values against the types of the parameters that they are passed to.

    Only numbers, text, true, false and null are checked. Refused are also unknown parameters, and those that fcnseg passes
    itself: they would have no effect, or fail in the run.

    Args:
        cfg: The config, or a node of it.
        key: The full name of the node.

    Raises:
        ValueError: A value has another type, or cannot be set.
    """
    target = str(cfg.get("_target_"))
    hints, (known, takes_any) = _types(target), _parameters(target)
    # Of what must not be called, such as os.system, Hydra says so.
    takes_any = takes_any or (not cfg.get("_partial_") and target.split(".")[0] in sys.stdlib_module_names)
    for name, value in cfg.items():
        full = f"{key}.{name!s}" if key else str(name)
        if (name in known or takes_any) and _is_passed(full, cfg):
            raise ValueError(f"{full} cannot be set: fcnseg passes it to {target} itself; leave it out")
        # Names such as _target_ and _partial_ are Hydra's. A node may be the step of a chain: see `data`.
        is_known = takes_any or isinstance(value, DictConfig) or name in known or setting(full).ours
        if not is_known and not str(name).startswith("_"):
            ours = [row.removeprefix(f"{key}.") for row in SETTINGS if row.startswith(f"{key}.") and SETTINGS[row].ours]
            settings = ", ".join(each for each in (*known, *ours) if not _is_passed(f"{key}.{each}", cfg))
            raise ValueError(f"{full}: {target} has no such parameter; it has {settings or 'none'}")
        for inner, node in _nodes(full, value):
            check_parameters(node, inner)
        kinds = set() if isinstance(value, DictConfig) else hints.get(str(name), set())
        # Not isinstance, for which true is a whole number. A whole number will do for a float.
        if kinds and not (type(value) in kinds or (type(value) is int and float in kinds)):
            wanted = " or ".join(word for kind, word in KINDS.items() if kind in kinds)
            raise ValueError(f"{full}={as_typed(value)}: wanted {wanted}")


def _nodes(key: str, value: object) -> list[tuple[str, DictConfig]]:
    """The nodes that a value is or holds, with their full names."""
    named = [(f"{key}[{place}]", item) for place, item in enumerate(value)] if isinstance(value, ListConfig) else [(key, value)]
    return [(name, node) for name, node in named if isinstance(node, DictConfig)]


def _is_passed(key: str, node: DictConfig) -> bool:
    """Whether fcnseg passes this setting of a node itself. An augmentation that is an object gets them when it is called."""
    return setting(key).passed and (not key.startswith("aug") or bool(node.get("_partial_")))


def _types(target: str) -> dict[str, set[type]]:
    """The types of those parameters of a class or a function that are numbers, text, true, false or null."""
    try:
        found: Any = locate(target)
        hints = get_type_hints(cast(Any, found).__init__ if isinstance(found, type) else found)
    except Exception:  # it is not here, or has no types: `instantiate` has its own messages
        return {}
    union = {name: get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,) for name, hint in hints.items()}
    # A config cannot hold a tensor, and has a path as text.
    kinds = {name: {str if kind is Path else kind for kind in types} - {Tensor} for name, types in union.items()}
    return {name: types for name, types in kinds.items() if types <= {bool, int, float, str, type(None)}}


def _parameters(target: str) -> tuple[list[str], bool]:
    """The names of the parameters of a class or a function, and whether it takes others, or they are not known."""
    try:
        found = cast(Any, locate(target))
        # Of a function that wraps another by functools.wraps: its own, and those of the other.
        own, wrapped = (inspect.signature(found, follow_wrapped=follow).parameters for follow in (False, True))
    except Exception:  # as in `_types`
        return [], True
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = [name for name, parameter in {**wrapped, **own}.items() if parameter.kind not in several]
    return names, any(parameter.kind is parameter.VAR_KEYWORD for parameter in wrapped.values())
