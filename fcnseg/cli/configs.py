"""The configs in `conf/`: where they lie, and which settings they have."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from fcnseg.cli.arguments import parse

PACKAGE = Path(__file__).parents[1]
# The wheel has it inside the package, a checkout beside it.
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())
PRESETS = ("experiment", "debug")  # groups that set other groups' settings and have none of their own
SHIPPED = {
    f"{path.parent.name}/{path.stem}" for path in CONF.glob("*/*.yaml")
}  # the choices of this package, as model/fcn


def compose(*overrides: str) -> DictConfig:
    """The config of a run with these overrides, inside a command of ours or in a notebook, which has not started Hydra."""
    started = GlobalHydra.instance().is_initialized()
    with nullcontext() if started else hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", overrides=list(overrides))


def default_config(config_name: str) -> DictConfig:
    """The config that the running job's choices lead to if none of its other overrides is applied."""
    given = parse(HydraConfig.get().overrides.task)
    # Not `hydra.runtime.choices`, which leaves out a group with several choices, such as experiment=[flip,wilson].
    groups = GlobalHydra.instance().config_loader().list_groups("")
    return hydra.compose(config_name, overrides=[str(line.input_line) for line in given if line.key_or_group in groups])


def preset_choices(config_name: str) -> dict[str, str | None]:
    """The choice from each group that the running job's experiment and debug preset make by themselves."""
    choices = HydraConfig.get().runtime.choices
    presets = [f"{group}={choices[group]}" for group in PRESETS if choices.get(group)]
    return dict(hydra.compose(config_name, overrides=presets, return_hydra_config=True).hydra.runtime.choices)


def leaves(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    """The full name of every setting. A list is one setting; an empty dictionary too."""
    for key, node in cfg.items_ex(resolve=False):
        name = prefix + str(key)
        if isinstance(node, DictConfig) and node:
            yield from leaves(node, f"{name}.")
        else:
            yield name


def setting_names(config_name: str, folders: Sequence[Path]) -> list[str]:
    """The full names of all settings that a command can have, under any choices, and of all groups.

    Args:
        config_name: The command's config in the first folder.
        folders: The folders of configs, which hold a folder for each group.
    """
    with hydra.initialize_config_dir(str(folders[0]), version_base="1.3"):
        found = {*PRESETS, *leaves(hydra.compose(config_name))}
    for path in (path for folder in folders for path in folder.glob("*/*.yaml")):
        cfg = OmegaConf.load(path)
        if isinstance(cfg, DictConfig) and path.parent.name not in PRESETS:
            found |= {path.parent.name, *leaves(cfg, f"{path.parent.name}.")}
    return sorted(found)
