"""Whether two configs are of one run. Settings for its place, its name and its observers do not count."""

from collections.abc import Callable, Mapping
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from fcnseg.runs.settings import flatten

NOT_IDENTITY = (
    *("name", "runs", "resume", "logger", "data.cache", "data.download"),
    *("trainer.devices", "trainer.num_nodes", "trainer.accumulate_grad_batches"),  # these say how a batch is computed
)
MAY_GROW = ("trainer.max_epochs", "patience")  # a finished run is extended by a larger value of these
ORDER = "_order_"
Defaults = Callable[[], Mapping[str, Any]]
WATCHERS = {  # callbacks of Lightning's that only watch; a user's own says `only_watches: true`
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
    """A config, interpolations resolved, without its loggers and the callbacks that only watch.

    A config stored by an earlier version is brought into the form of this one. The order of augmentations counts, but a table
    of settings would not show it: it is added as `aug._order_`.
    """
    config = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    config.pop("logger", None)
    if config.get("aug") == {"_target_": "fcnseg.data.augment.none", "_partial_": True}:
        config["aug"] = {"_target_": "fcnseg.data.augment.Chain"}
    schedule = config.get("schedule")
    if isinstance(schedule, dict) and schedule.get("_target_") == "torch.optim.lr_scheduler.ConstantLR":
        schedule.setdefault("total_iters", 0 if schedule.get("factor") == 1 else 5)  # 5 is PyTorch's default
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

    A setting that the stored config lacks counts as its default.

    Args:
        old: The config of a run, as stored in its folder.
        new: The config of a command.
        defaults: Returns the default of every setting. It is called only if `old` lacks a setting of `new`.

    Returns:
        The values in `old` and in `new` of each such setting.
    """
    before, now = (flatten(without_watchers(cfg)) for cfg in (old, new))
    may_differ = {*NOT_IDENTITY, *MAY_GROW}
    if all(settings.get("schedule.T_max") == settings.get("trainer.max_epochs") for settings in (before, now)):
        may_differ.add("schedule.T_max")
    if added := {key for key in now.keys() - before.keys() if not key.startswith("callbacks.")}:
        choices = {key: value for key, value in now.items() if key.startswith("choices.")}
        written = flatten(new, resolve=False) | choices  # as in the files, where one setting may refer to another
        may_differ |= {key for key, default in defaults().items() if key in added and written[key] == default}
    pairs = {key: (before.get(key), now.get(key)) for key in sorted((before.keys() | now.keys()) - may_differ)}
    return {key: (then, today) for key, (then, today) in pairs.items() if then != today}
