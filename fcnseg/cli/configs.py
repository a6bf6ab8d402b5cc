"""The configs in `conf/`: their folders and their settings."""

from collections.abc import Iterator, Sequence
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
from fcnseg.runs.settings import flatten

PACKAGE = Path(__file__).parents[1]
# In the wheel, `conf` is inside the package; in a checkout, beside it.
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())
# The choices of this package, such as "model/fcn".
SHIPPED = {f"{path.parent.name}/{path.stem}" for path in CONF.glob("*/*.yaml")}


def compose(*overrides: str) -> DictConfig:
    """The config of a run with these overrides, in one of our commands or in a notebook, where Hydra is not started."""
    started = GlobalHydra.instance().is_initialized()
    with nullcontext() if started else hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", overrides=list(overrides))


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
    if sources == {"hydra.conf", str(CONF)}:
        return _compose_once(config_name, overrides, with_hydra)
    return _compose_once.__wrapped__(config_name, overrides, with_hydra)  # a user's own files may change at any time


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
    values = flatten(_composed("config", *groups), resolve=False)
    first = _composed("config", with_hydra=True).hydra.runtime.choices
    return {**values, **{f"choices.{group}": choice for group, choice in first.items()}}


def config_folders(arguments: Arguments) -> list[Path]:
    """The folders of configs: the package's, then the user's own (`--config-dir`) if there is one."""
    return [CONF, *([Path(arguments.flags.config_dir)] if arguments.flags.config_dir else [])]


def check_own_configs(arguments: Arguments) -> None:
    """Refuse a config of the user's own with the name of one of the package's: Hydra would read the package's instead.

    Raises:
        ValueError: There is such a config.
    """
    # The first folder is the package's own.
    for path in (path for folder in config_folders(arguments)[1:] for path in folder.glob("*/*.yaml")):
        if (choice := f"{path.parent.name}/{path.stem}") in SHIPPED:
            raise ValueError(f"{path} would not be read: the package has a {choice.replace('/', '=')}; give yours another name")


def setting_names(config_name: str, arguments: Arguments) -> set[str]:
    """The full names of all settings that a command can have, under any choices, and of its groups.

    Args:
        config_name: The name of the command's file in `conf/`, without its ending.
        arguments: The command line, which may name a folder with more choices.
    """
    folders = config_folders(arguments)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose(config_name, return_hydra_config=True)
    groups = [*cfg.hydra.runtime.choices]
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    names = {*groups, *flatten(own, resolve=False, with_empty=True)}
    # Hydra composes only the choices that are made; the settings of all others are read from their files.
    for group in set(groups) - {*PRESETS}:
        for path in (path for folder in folders for path in folder.glob(f"{group}/*.yaml")):
            names |= {*_settings_of_choice(path, [folder / group for folder in folders], group)}
    return names


def _settings_of_choice(path: Path, folders: Sequence[Path], prefix: str) -> Iterator[str]:
    """The full names of the settings of a choice, each of which begins with `prefix`.

    A choice may consist of other choices, such as `crop@crop` in its `defaults`: their settings are among the names.
    """
    cfg = OmegaConf.load(path)
    if not isinstance(cfg, DictConfig):
        return
    for inner, package in components(cfg):
        for file in (folder / f"{inner}.yaml" for folder in folders):
            if file.is_file():
                yield from _settings_of_choice(file, folders, f"{prefix}.{package}")
    cfg.pop("defaults", None)
    yield from flatten(cfg, prefix, resolve=False, with_empty=True)


def components(choice: DictConfig) -> Iterator[tuple[str, str]]:
    """The choices that a choice consists of, each with the name of its settings: for `crop@first`, crop and first."""
    for entry in choice.get("defaults", []):
        inner, _, package = str(entry).partition("@")
        if package:
            yield inner, package
