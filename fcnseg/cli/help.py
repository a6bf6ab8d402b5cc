"""The text of `--help`: the choices and the settings, as in the files of `conf/`, with their comments."""

import re
from collections.abc import Mapping
from pathlib import Path
from textwrap import indent

from omegaconf import DictConfig, OmegaConf

from fcnseg.cli.arguments import Arguments
from fcnseg.cli.configs import CONF, components, config_folders
from fcnseg.runs.identity import PRESETS

DEFAULTS = re.compile(r"^defaults:\n(?: .*\n)*\n?", re.M)  # matches the list at a config's head
SETTING = re.compile(r"^(?=\w)", re.M)  # matches the place where the text of a setting begins


def help_text(config_name: str, arguments: Arguments) -> str:
    """The help of one command. Hydra's own help takes more than a second and leaves out the comments.

    Args:
        config_name: The command's config in `conf/`, named after the command; for `train`, it is `config`.
        arguments: The command line. The help shows the settings of its choices in place of the default choices.
    """
    settings, defaults = _own(CONF / f"{config_name}.yaml")
    rows, folders = [], config_folders(arguments)
    for group, default in defaults.items():
        choices = {path.stem: path for folder in reversed(folders) for path in folder.glob(f"{group}/*.yaml")}
        names = sorted(choices, key=lambda name: (name != default, name))
        rows.append(f"  {group:<11}{', '.join(names)}")
        chosen = arguments.values.get(group)
        name = chosen if chosen in names else default
        if group not in PRESETS and name in choices:
            settings.append(f"{group}:  # {group}={name}\n{indent(_choice(name, choices), '  ')}")
    table = ["Choices, the default first:\n" + "\n".join(rows)] if rows else []
    command = "train" if config_name == "config" else config_name
    line = f"python -m fcnseg.{command}{' [group=choice ...]' if rows else ''} [setting=value ...]"
    return "\n\n".join([line, *table, "Settings:\n" + indent("\n".join(map(str.strip, settings)), "  ")])


def _choice(name: str, choices: Mapping[str, Path]) -> str:
    """The text of a choice, after the texts of its parts, such as `crop@crop`, whose values it may change."""
    texts, cfg = [], OmegaConf.load(choices[name])
    for inner, package in components(cfg) if isinstance(cfg, DictConfig) else ():
        if inner in choices:
            texts.append(f"{package}:\n{indent(_choice(inner, choices), '  ')}")
    return "".join([*texts, *_texts(choices[name], choices).values()])


def _texts(path: Path, choices: Mapping[str, Path]) -> dict[str, str]:
    """The text of every setting of a config, in the place of the setting in the config that it builds on, if there is one.

    The comment at its head has the key "".
    """
    settings = DEFAULTS.sub("", path.read_text(encoding="utf-8"))
    texts = {text[: text.find(":")] if text[0] != "#" else "": text for text in SETTING.split(settings) if text}
    cfg = OmegaConf.load(path)
    for base in cfg.get("defaults", ()) if isinstance(cfg, DictConfig) else ():
        file = CONF / f"{base[1:]}.yaml" if base.startswith("/") else choices.get(base)
        if file and file.is_file():
            texts = _texts(file, choices) | texts
    return texts


def _own(path: Path) -> tuple[list[str], dict[str, str | None]]:
    """The settings of a config's file and of the files it builds on, as text; and its groups' default choices."""
    texts = [DEFAULTS.sub("", path.read_text(encoding="utf-8"))]
    groups: dict[str, str | None] = {}
    for default in OmegaConf.load(path).defaults:
        if default == "config":
            inner, groups = _own(path.with_name("config.yaml"))
            texts += inner
        elif not isinstance(default, str):
            ((group, choice),) = default.items()
            if not group.startswith("override"):
                groups[group] = choice
    return texts, groups
