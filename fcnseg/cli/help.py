"""What `--help` prints: the choices and the settings, as the files in `conf/` have them, comments included."""

import re
from collections.abc import Sequence
from pathlib import Path
from textwrap import indent

from omegaconf import OmegaConf

PRESETS = ("experiment", "debug")  # of other settings; they have none of their own
HEAD = re.compile(r"^defaults:\n(?: .*\n)*\n?", re.M)


def usage(conf: Path, config_name: str, command: str, args: Sequence[str]) -> str:
    """The help of one command; Hydra's own takes over a second, and leaves the comments out.

    Args:
        conf: The folder of configs.
        config_name: The command's config in it.
        command: What is typed before the settings.
        args: The command line, whose choices have their settings shown.
    """
    settings, defaults = _own(conf, config_name)
    chosen = dict(arg.split("=", 1) for arg in args if "=" in arg)
    for group, default in defaults.items():
        paths = [conf / group / f"{choice}.yaml" for choice in (chosen.get(group), default)]
        if group not in PRESETS:
            path = next(path for path in paths if path.is_file())
            settings.append(f"{group}:  # {group}={path.stem}\n{indent(path.read_text(encoding='utf-8'), '  ')}")
    rows = [f"  {group:<11}{', '.join(_choices(conf / group, default))}" for group, default in defaults.items()]
    choices = ["Choices, the default first:\n" + "\n".join(rows)] if rows else []
    line = f"{command}{' [group=choice ...]' if rows else ''} [setting=value ...]"
    return "\n\n".join([line, *choices, "Settings:\n" + indent("\n".join(map(str.strip, settings)), "  ")])


def _own(conf: Path, name: str) -> tuple[list[str], dict[str, str | None]]:
    """The settings in a config's own file and in those it builds on, as text; and its groups' default choices."""
    path = conf / f"{name}.yaml"
    cfg = OmegaConf.load(path)
    texts = [HEAD.sub("", path.read_text(encoding="utf-8"))]
    groups: dict[str, str | None] = {}
    for default in cfg.defaults:
        if default == "config":
            inner, groups = _own(conf, default)
            texts += inner
        elif not isinstance(default, str):
            ((group, choice),) = default.items()
            if not group.startswith("override"):
                groups[group] = choice
    return texts, groups


def _choices(folder: Path, default: str | None) -> list[str]:
    """The names of a group's files, the default first."""
    return sorted((path.stem for path in folder.glob("*.yaml")), key=lambda name: (name != default, name))
