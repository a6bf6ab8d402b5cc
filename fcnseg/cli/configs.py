"""The configs in `conf/`: their folders, their settings and their defaults.

There are four kinds of defaults of the running job. Those of `experiment=strong optimizer.lr=0.1 +aug@aug.cutout=cutout`:

default_config: what `experiment=strong +aug@aug.cutout=cutout` gives; values are checked for the types of these.
default_config(added=False): what `experiment=strong` gives; the name of the run tells of all that differs from it.
preset_choices: what strong chooses by itself, such as model=fpn; the name leaves it out.
default_values: what `model=fpn aug=strong ...` gives, without strong's own values such as data.size=320; a run whose version
    lacked a setting is compared as if it had these.
"""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from fcnseg.cli.arguments import Arguments, parse
from fcnseg.runs.identity import PRESETS
from fcnseg.settings.table import flatten

PACKAGE = Path(__file__).parents[1]
# In the wheel, `conf` is inside the package; in a checkout, beside it.
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())
TRAIN = "config"  # the name of the config of `train`; every other command's config has the command's name
# The choices of this package, such as "model/fcn".
SHIPPED = {f"{path.parent.name}/{path.stem}" for path in CONF.glob("*/*.yaml")}


def compose(*overrides: str) -> DictConfig:
    """The config of a run with these overrides, in one of our commands or in a notebook, where Hydra is not started."""
    started = GlobalHydra.instance().is_initialized()
    with nullcontext() if started else hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(TRAIN, overrides=list(overrides))


@cache
def _compose_once(config_name: str, overrides: tuple[str, ...], with_hydra: bool) -> DictConfig:
    cfg = hydra.compose(config_name, overrides=list(overrides), return_hydra_config=with_hydra)
    OmegaConf.set_readonly(cfg, True)
    return cfg


def _composed(config_name: str, *overrides: str, with_hydra: bool = False) -> DictConfig:
    """The config that overrides lead to in the running job. Callers must not change it.

    The package's own files stay as they are while a process runs: a config that depends only on them is composed once, since
    Hydra takes a tenth of a second to compose it.
    """
    sources = {source.path for source in HydraConfig.get().runtime.config_sources if source.provider != "schema"}
    # A user's own files may change at any time.
    composed = _compose_once if sources == {"hydra.conf", str(CONF)} else _compose_once.__wrapped__
    return composed(config_name, overrides, with_hydra)


def default_config(config_name: str, *, added: bool = True) -> DictConfig:
    """The config of the running job's choices, without its other overrides.

    Args:
        config_name: The name of the command's file in `conf/`, without its ending.
        added: Whether choices that were added to a setting, as by +aug@aug.cutout=cutout, are among the choices.

    Raises:
        ValueError: Several experiments or debug presets are chosen: they cannot name the run.
    """
    given = parse(HydraConfig.get().overrides.task)
    for override in given:
        if override.key_or_group in PRESETS and isinstance(override.value(), list):
            raise ValueError(f"{override.input_line}: a run has one {override.key_or_group}; give the other's settings by name")
    # Not `hydra.runtime.choices`, which leaves out a group with several choices, such as callbacks=[a,b].
    groups = GlobalHydra.instance().config_loader().list_groups("")
    chosen = [line for line in given if line.key_or_group in groups and not line.is_delete()]
    return _composed(config_name, *(str(line.input_line) for line in chosen if added or line.package is None))


def preset_choices(config_name: str) -> dict[str, str | None]:
    """The choice that the running job's experiment and debug preset make in each group."""
    choices = HydraConfig.get().runtime.choices
    presets = [f"{group}={choices[group]}" for group in PRESETS if choices.get(group)]
    return dict(_composed(config_name, *presets, with_hydra=True).hydra.runtime.choices)


def default_values() -> dict[str, Any]:
    """The default of every setting of a run, unresolved as in the files, for the choices of the running job.

    Values that an experiment or a debug preset sets are left out. The values of `choices` are the default choices.
    """
    chosen = HydraConfig.get().runtime.choices
    # Launchers (their group has a /) and choices added to a setting (their group has an @) are left out.
    own = {group: choice for group, choice in chosen.items() if choice and group not in PRESETS and not {"/", "@"} & set(group)}
    groups = [f"{group}={choice}" for group, choice in own.items()]
    values = flatten(_composed(TRAIN, *groups), resolve=False)
    first = _composed(TRAIN, with_hydra=True).hydra.runtime.choices
    return {**values, **{f"choices.{group}": choice for group, choice in first.items()}}


def choices_of(group: str, arguments: Arguments) -> dict[str, Path]:
    """The files of a group's choices by their names: the package's, and the user's own (`--config-dir`)."""
    folders = [CONF, *filter(None, [arguments.flags.config_dir])]
    return {path.stem: path for folder in folders for path in Path(folder).glob(f"{group}/*.yaml")}


def components(name: str, choices: Mapping[str, Path], at: str = "") -> Iterator[tuple[str, Path]]:
    """The files that a choice consists of, each with the full name of the node that its settings are in.

    A choice may build on another config, such as `/data_set`, and consist of other choices, such as `crop@first`, if they are
    in its `defaults`: their files come before its own.

    Args:
        name: The name of the choice.
        choices: The files of all choices of its group.
        at: The full name of the node of the choice itself.
    """
    cfg = OmegaConf.load(choices[name])
    for entry in cfg.get("defaults", []) if isinstance(cfg, DictConfig) else ():
        inner, _, package = str(entry).partition("@")
        if inner in choices:
            yield from components(inner, choices, f"{at}.{package}".strip("."))
        elif (shared := CONF / f"{inner.removeprefix('/')}.yaml").is_file():
            yield at, shared
    yield at, choices[name]


def check_own_configs(arguments: Arguments) -> None:
    """Refuse a config of the user's own with the name of one of the package's: Hydra would read the package's instead.

    Raises:
        ValueError: There is such a config.
    """
    folder = arguments.flags.config_dir
    for path in Path(folder).glob("*/*.yaml") if folder else ():
        if (choice := f"{path.parent.name}/{path.stem}") in SHIPPED:
            raise ValueError(f"{path} would not be read: the package has a {choice.replace('/', '=')}; give yours another name")


def setting_names(config_name: str, arguments: Arguments) -> set[str]:
    """The full names of all settings that a command can have, under any choices, and of its groups.

    Args:
        config_name: The name of the command's file in `conf/`, without its ending.
        arguments: The command line, which may name a folder with more choices.
    """
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose(config_name, return_hydra_config=True)
    groups = {*cfg.hydra.runtime.choices}
    names = groups | {*flatten(cfg, resolve=False, with_empty=True)}
    # Hydra composes only the choices that are made; the settings of all others are read from their files.
    for group in groups - {*PRESETS}:
        choices = choices_of(group, arguments)
        for full, path in (file for name in choices for file in components(name, choices, group)):
            names |= {*flatten(OmegaConf.load(path), full, resolve=False, with_empty=True)}
    return {name for name in names if not name.startswith("hydra.") and not name.endswith(".defaults")}
