"""The text of `--help`: the choices and the settings, as in the files of `conf/`, with their comments."""

import re
from collections.abc import Mapping
from pathlib import Path
from textwrap import indent

from omegaconf import DictConfig, OmegaConf

from fcnseg.cli.arguments import Arguments
from fcnseg.cli.configs import CONF, TRAIN, choices_of, components
from fcnseg.runs.identity import PRESETS

DEFAULTS = re.compile(r"^defaults:\n(?: .*\n)*\n?", re.M)  # matches the list at a config's head
SETTING = re.compile(r"^(?=\w)", re.M)  # matches the place where the text of a setting begins


def help_text(config_name: str, arguments: Arguments) -> str:
    """The help of one command. Hydra's own help takes more than a second and leaves out the comments.

    Args:
        config_name: The name of the command's file in `conf/`, without its ending.
        arguments: The command line. The help shows the settings of its choices in place of the default choices.
    """
    files = _files(config_name)
    settings, rows = [_text(path) for path in files], []
    for group, default in _default_choices(files).items():
        choices = choices_of(group, arguments)
        names = sorted(choices, key=lambda name: (name != default, name))
        rows.append(f"  {group:<11}{', '.join(names)}")
        chosen = arguments.values.get(group)
        name = chosen if chosen in names else default
        if group not in PRESETS and name in choices:
            settings.append(f"{group}:  # {group}={name}\n{indent(_choice(name, choices), '  ')}")
    table = ["Choices, the default first:\n" + "\n".join(rows)] if rows else []
    command = "train" if config_name == TRAIN else config_name
    line = f"python -m fcnseg.{command}{' [group=choice ...]' if rows else ''} [setting=value ...]"
    return "\n\n".join([line, *table, "Settings:\n" + indent("\n".join(map(str.strip, settings)), "  ")])


def _files(config_name: str) -> list[Path]:
    """The file of a command's config and, if it builds on that of `train`, the latter."""
    path = CONF / f"{config_name}.yaml"
    return [path, *([CONF / f"{TRAIN}.yaml"] if TRAIN in OmegaConf.load(path).defaults else [])]


def _default_choices(files: list[Path]) -> dict[str, str | None]:
    """The default choice of each group that configs have."""
    entries = (entry for path in files for entry in OmegaConf.load(path).defaults if isinstance(entry, DictConfig))
    choices = {str(group): choice for entry in entries for group, choice in entry.items()}
    return {group: choice for group, choice in choices.items() if not group.startswith("override ")}


def _choice(name: str, choices: Mapping[str, Path]) -> str:
    """The text of a choice, after the texts of its parts, such as `crop@crop`, whose values it may change."""
    nodes: dict[str, dict[str, str]] = {}
    for at, path in components(name, choices):
        # A setting stays in its place in the config that the choice builds on. The comment at a file's head has the key "".
        settings = (text for text in SETTING.split(_text(path)) if text)
        nodes.setdefault(at, {}).update({"" if text[0] == "#" else text.partition(":")[0]: text for text in settings})
    texts = ((at, "".join(settings.values())) for at, settings in nodes.items())
    return "".join(f"{at}:\n{indent(text, '  ')}" if at else text for at, text in texts)


def _text(path: Path) -> str:
    return DEFAULTS.sub("", path.read_text(encoding="utf-8"))
