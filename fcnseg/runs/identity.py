"""What makes a run another one: the settings that count, and the folder's name, which says in words what differs.

`differences` decides whether a run may be resumed: it compares values. `run_name` says what a command adds to the files of its
choices: it compares what is written, such as interpolations.

setting              the run may be resumed under another value   in the name
optimizer.lr         no                                           yes
trainer.max_epochs   under a larger one                           yes
trainer.devices      yes                                          no
"""

import hashlib
import json
import re
from collections.abc import Callable, Container, Mapping
from decimal import Decimal
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from fcnseg.data.settings import spelled
from fcnseg.results.paper import EXPERIMENTS
from fcnseg.runs import older
from fcnseg.settings.lightning import WATCHERS
from fcnseg.settings.table import MAY_GROW, NOT_IDENTITY, SETTINGS, flatten

ORDER = "_order_"
Defaults = Callable[[], Mapping[str, Any]]


def no_defaults() -> dict[str, Any]:
    """No defaults, where no run of an earlier version is compared: one that lacks a setting has another one."""
    return {}


def without_watchers(cfg: DictConfig) -> dict[str, Any]:
    """A config, interpolations resolved, without its loggers and the callbacks that only watch.

    The order of augmentations counts, but a table of settings would not show it: it is added as `aug._order_`.
    """
    config = older.with_todays_form(cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True)))
    config.pop("logger", None)
    if len(order := steps(config.get("aug"))) > 1:
        config["aug"][ORDER] = order
    callbacks = {
        name: entry
        for name, entry in (config.pop("callbacks", None) or {}).items()
        if entry and entry.get("_target_") not in WATCHERS and not entry.get("only_watches")
    }
    return {**config, "callbacks": callbacks} if callbacks else config


def steps(aug: object) -> list[str]:
    """The names of the steps of a chain of augmentations, in their order; empty if `aug` is not a chain."""
    return [str(name) for name, step in aug.items() if isinstance(step, Mapping)] if isinstance(aug, Mapping) else []


def differences(old: DictConfig, new: DictConfig, defaults: Defaults) -> dict[str, tuple[Any, Any]]:
    """The differences of two configs that make them two runs. More epochs or a larger patience do not count.

    A setting that the stored config lacks counts as its default. Interpolations are resolved first: how a value is
    written makes no difference.

    Args:
        old: The config of a run, as stored in its folder.
        new: The config of a command.
        defaults: Returns the default of every setting. It is called only if `old` lacks a setting of `new`.

    Returns:
        The values in `old` and in `new` of each such setting.
    """
    before, now = (flatten(without_watchers(cfg)) for cfg in (old, new))
    may_differ = {*NOT_IDENTITY, *MAY_GROW}
    # By default, the schedule is as long as the run and grows with it; of another length, it is a setting like others.
    if all(settings.get("schedule.T_max") == settings.get("trainer.max_epochs") for settings in (before, now)):
        may_differ.add("schedule.T_max")
    # `defaults` composes a config, which takes time.
    if added := {key for key in now.keys() - before.keys() if _may_be_new(key, before)}:
        choices = {key: value for key, value in now.items() if key.startswith("choices.")}
        written = flatten(new, resolve=False) | choices  # as in the files, where one setting may refer to another
        may_differ |= {key for key, default in defaults().items() if key in added and written[key] == default}
    pairs = {key: (before.get(key), now.get(key)) for key in sorted((before.keys() | now.keys()) - may_differ)}
    return {key: (then, today) for key, (then, today) in pairs.items() if then != today}


def _may_be_new(key: str, stored: Mapping[str, Any]) -> bool:
    """Whether a run may lack a setting because its version did. A callback or a part of a sum of losses it lacks as a whole."""
    parts = [key[: part.end()] for part in re.finditer(r"\bterms\.[^.]+", key)]
    return not key.startswith("callbacks.") and all(any(other.startswith(f"{part}.") for other in stored) for part in parts)


LONGEST_SPELLED = 80  # the most characters of spelled-out settings; the rest goes into the hash
LONGEST_GIVEN = 200  # the most bytes of a name from the user; a file system takes 255
PRESETS = ("experiment", "debug")  # groups that set other groups' settings but have none of their own
ABSENT = object()  # unlike any value of a setting


def run_name(cfg: DictConfig, *, defaults: DictConfig, preset: Mapping[str, str | None], shipped: Container[str]) -> str:
    """The name of a run's folder, such as `wilson-flip-lr0.002-seed0` or `paper-weighted-seed0`.

    It depends only on differences from the defaults: the same command means the same folder, and a later version with more
    settings does not rename a run. Choices and short values are spelled out. Everything else (paths, lists, settings that
    would make the name too long) goes into one hash at the end.

    Args:
        cfg: The run's whole config.
        defaults: The config of the same choices, with no other setting changed.
        preset: The choices that the run's experiment and debug preset make by themselves, by group.
        shipped: The choices that come with this package, such as "aug/flip". Each has a different word.

    Raises:
        ValueError: The user's own name= cannot be the name of a folder.
    """
    if cfg.name is not None:
        check_given(name := str(cfg.name), cfg.runs)
        return name
    settings = _differing(cfg, defaults)
    words = [_choice(group, choice, shipped) for group, choice in _chosen(cfg, preset).items()]
    for word, key in sorted((_spelled(key, value), key) for key, value in settings.items()):
        if word and len("-".join([*words, word])) <= LONGEST_SPELLED:
            words.append(word)
            del settings[key]
    text = older.with_first_names(json.dumps(settings, sort_keys=True, default=str))
    hashed = hashlib.sha256(text.encode()).hexdigest()[:8]
    return "-".join([*words, f"seed{cfg.seed}", *([hashed] if settings else [])])


def check_given(name: str, runs: str) -> None:
    """Refuse a user's own name that cannot be the name of a folder in the folder `runs`.

    Raises:
        ValueError: The name is hidden, leads elsewhere, cannot be printed, or is empty or too long.
    """
    is_short = 0 < len(name.encode()) <= LONGEST_GIVEN
    if name.startswith(".") or "/" in name or not name.isprintable() or not is_short:
        raise ValueError(
            f"name={name!r}: wanted the name of a folder in {runs}, of up to {LONGEST_GIVEN} bytes, without a / and without a"
            " leading dot, which hides it"
        )


def _chosen(cfg: DictConfig, preset: Mapping[str, str | None]) -> dict[str, str]:
    """The presets and the choices not made by them, by group; always the network, unless an experiment names it."""
    presets = {group: cfg.choices[group] for group in PRESETS if cfg.choices[group]}
    always = () if "experiment" in presets else ("model",)
    others = {
        group: choice
        for group, choice in cfg.choices.items()
        if choice and group not in PRESETS and (group in always or choice != preset[group])
    }
    return presets | others


def _choice(group: str, choice: str, shipped: Container[str]) -> str:
    """A choice as a word. A user's own choice may have another choice's word, and therefore also names its group."""
    if group == "experiment" and choice in EXPERIMENTS:
        return f"paper-{choice}"
    bare = group not in PRESETS and f"{group}/{choice}" in shipped
    return re.sub(r"[^\w.]", "_", choice if bare else f"{group}.{choice}")


def _differing(cfg: DictConfig, defaults: DictConfig) -> dict[str, Any]:
    """The settings that differ from those of the run's choices, and its callbacks; None for a setting that was removed.

    Settings are compared as they are written, unlike in `differences`. One that is an interpolation, as `schedule.T_max` is
    of `trainer.max_epochs`, has not changed if the other setting has, and does not enter the name a second time.
    """
    raw, default = (flatten(config, resolve=False) for config in (cfg, defaults))
    # The name has no word for a choice of callbacks: each of their settings counts.
    default = {key: value for key, value in default.items() if not key.startswith("callbacks.")}
    values = flatten(without_watchers(cfg))  # resolved, for the name
    differing = {key for key in raw.keys() | default.keys() if raw.get(key, ABSENT) != default.get(key, ABSENT)}
    identity = {key for key in differing if not {key, key.split(".")[0]} & {*NOT_IDENTITY, "choices", "seed"}}
    # A setting of `raw` that `values` lacks belongs to a callback that only watches.
    settings = {key: values.get(key) for key in identity if key in values or key not in raw}
    # Added steps come after those of the choice; their order is named unless it is alphabetical.
    order, own = values.get(f"aug.{ORDER}", []), steps(defaults.get("aug"))
    usual = [*(step for step in own if step in order), *sorted(set(order) - {*own})]
    return settings if order == usual else {**settings, f"aug.{ORDER}": order}


def _spelled(key: str, value: Any) -> str:
    """A setting as a word; empty if its value is not short, or if another setting could give the same word.

    It is the setting's full name, a dot and the value. A part of a full name never begins with a digit, and a value that
    is a word never has a dot: different settings give different words.
    """
    if isinstance(value, float | int) and not isinstance(value, bool):
        text = format(Decimal(repr(value)), "f")  # 0.00001 in place of 1e-05
    elif isinstance(value, str):
        text = value
    elif key == "data.size" and isinstance(value, list):
        return f"{SETTINGS[key].short}{spelled(value)}"
    else:
        text = {None: "null", True: "true", False: "false"}[value] if isinstance(value, bool | None) else ""
    if not re.fullmatch(r"\d+(\.\d+)?|[A-Za-z]\w*", text, re.ASCII) or len(text) > 20:
        return ""
    short = SETTINGS[key].short if key in SETTINGS else ""
    return f"{short}{text}" if short and text[0].isdigit() else f"{key}.{text}"
