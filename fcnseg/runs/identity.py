"""What makes two configs two runs: every setting but those that say where a run is, how it is called or who watches it."""

from collections.abc import Callable, Mapping
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from fcnseg.runs.settings import flatten

NOT_IDENTITY = (
    *("name", "runs", "resume", "logger", "data.cache", "data.download"),
    *("trainer.devices", "trainer.num_nodes", "trainer.accumulate_grad_batches"),  # how a batch is computed
)
MAY_GROW = ("trainer.max_epochs", "patience")  # with which a finished run is extended
Usual = Callable[[], Mapping[str, Any]]
WATCHERS = {  # callbacks of Lightning's that only watch; of the user's own, those with `only_watches: true`
    f"lightning.pytorch.callbacks.{name}"
    for name in (
        "DeviceStatsMonitor",
        "LearningRateMonitor",
        "RichModelSummary",
        "ModelCheckpoint",
        "ThroughputMonitor",
    )
}


def without_watchers(cfg: DictConfig) -> dict[str, Any]:
    """A config, interpolations resolved, without its loggers and the callbacks that only watch."""
    config = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    config.pop("logger", None)
    callbacks = {
        name: entry
        for name, entry in (config.pop("callbacks", None) or {}).items()
        if entry and entry.get("_target_") not in WATCHERS and not entry.get("only_watches")
    }
    return {**config, "callbacks": callbacks} if callbacks else config


def differences(old: DictConfig, new: DictConfig, usual: Usual) -> dict[str, tuple[Any, Any]]:
    """The settings that make two configs two runs, each with its values in both; more epochs or patience make none.

    A setting that an earlier version did not have makes none while it has its usual value.

    Args:
        old: The config of a run, as its folder has it.
        new: The config that a command has.
        usual: Returns the usual value of every setting. It is called only if `old` lacks a setting of `new`.
    """
    befores, afters = (flatten(without_watchers(cfg)) for cfg in (old, new))
    may_differ = {*NOT_IDENTITY, *MAY_GROW}
    if all(flat.get("schedule.T_max") == flat.get("trainer.max_epochs") for flat in (befores, afters)):
        may_differ.add("schedule.T_max")
    if added := {key for key in afters.keys() - befores.keys() if not key.startswith("callbacks.")}:
        usuals, written = usual(), flatten(new, resolve=False)
        now = {**written, **{key: value for key, value in afters.items() if key.startswith("choices.")}}
        may_differ |= {key for key in added & usuals.keys() if usuals[key] == now[key]}
    pairs = {key: (befores.get(key), afters.get(key)) for key in sorted((befores.keys() | afters.keys()) - may_differ)}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
