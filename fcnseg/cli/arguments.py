"""The command line, read by the parsers that Hydra itself uses."""

import os
import re
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn, cast

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from fcnseg.settings.table import setting

# A whole value, or an entry of a list or a sweep, that Hydra would read as a number; or text, which stays.
NUMBER_OR_TEXT = re.compile(
    r"""
    '(?:\\.|[^'])*' | "(?:\\.|[^"])*" | \\.[^],[]*
    | (?<![^,[]) \s* (?P<number> [+-]? (?:\.?\d[\w.+-]* | inf | nan)) \s* (?![^],])
    """,
    re.VERBOSE | re.IGNORECASE,
)
HELP = "settings are given as setting=value; --help lists all of them"


@dataclass(frozen=True)
class Arguments:
    """A command line: flags such as -m, and overrides such as seed=1. The words are parsed when a property is first used.

    Args:
        words: The words after the command's name.
    """

    words: Sequence[str]

    @cached_property
    def flags(self) -> Namespace:
        """Hydra's flags, and the words between them as `overrides`.

        Raises:
            ValueError: There is a flag that Hydra does not have, or that would replace the package's configs.
        """
        parser = get_args_parser()
        cast(Any, parser).error = _raise  # argparse would print all of Hydra's flags and exit
        words = [_with_text(_with_home(word)) for word in self.words]
        flags = parser.parse_intermixed_args(words)  # flags may follow overrides here, unlike in Hydra
        if flags.config_name or flags.config_path:
            raise ValueError("--config-name and --config-path would replace the package's configs: add yours by --config-dir")
        return flags

    @cached_property
    def values(self) -> dict[str, Any]:
        """The value of each setting or group on the command line, the last of several; a sweep's is an object of Hydra's.

        Raises:
            OverrideParseException: A word is not an override.
        """
        return {override.key_or_group: override.value() for override in parse(self.flags.overrides)}

    @property
    def sweeps(self) -> bool:
        """Whether the command line asks for a sweep."""
        return self.flags.multirun or self.values.get("hydra.mode") == "MULTIRUN"

    def check_no_sweep_settings(self) -> None:
        """Refuse settings of a sweep if no sweep is asked for: they would have no effect.

        Raises:
            ValueError: There is such a setting.
        """
        for key in self.values:
            if key.startswith(("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweep")):
                raise ValueError(f"{key} has an effect only on a sweep (python -m fcnseg.train -m): leave it out")


def parse(overrides: Iterable[str]) -> list[Override]:
    """The parsed form of every override."""
    return OverridesParser.create().parse_overrides(list(overrides))


def quoted(text: str) -> str:
    """A text as a value of an override, with any characters in it."""
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + (found[2] and "\\'"), text)
    return f"'{escaped}'"


def _with_home(word: str) -> str:
    """The word with the home folder in place of ~, which Hydra cannot read and not every shell replaces after a =."""
    path = r"(?<=[=,])(['\"]?)(~(?:/[^,'\"]*)?)\1(?=,|$)"
    return re.sub(path, lambda found: quoted(os.path.expanduser(found[2])), word)


def _with_text(word: str) -> str:
    """The word with quotes around names and paths that look like numbers: the number would lose underscores and zeros.

    `name=2024_01_05` becomes `name='2024_01_05'`, and `compare=[007,b]` becomes `compare=['007',b]`; `seed=007` is left alone.
    """
    key, equals, value = word.partition("=")
    if not setting(key.lstrip("+")).text or "(" in value:  # a function of Hydra's, such as range(1,9)
        return word
    return key + equals + NUMBER_OR_TEXT.sub(lambda found: quoted(found["number"]) if found["number"] else found[0], value)


def _raise(message: str) -> NoReturn:
    raise ValueError(f"{message}: {HELP}")
