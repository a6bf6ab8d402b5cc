"""The command line, read by the parsers that Hydra itself uses."""

from argparse import Namespace
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, cast

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

HELP = "settings are given as setting=value; --help lists all of them"


class Arguments:
    """The words of a command line, as flags and overrides. They are parsed when they are first asked for.

    Args:
        words: The words after the command's name.

    Raises:
        ValueError: From every property, if there is an unknown flag.
        OverrideParseException: From every property that reads overrides, if a word is no override.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words

    @cached_property
    def flags(self) -> Namespace:
        """Hydra's flags; `overrides` are the words between them. Unlike in Hydra's own commands, the order is free."""
        parser = get_args_parser()
        cast(Any, parser).error = _refuse  # in place of Hydra's usage, which takes a screen
        return parser.parse_intermixed_args(self.words)

    @cached_property
    def values(self) -> dict[str, Any]:
        """The value of every setting and group that is given; the last one counts. Of a sweep, it is Hydra's object."""
        return {override.key_or_group: override.value() for override in parse(self.flags.overrides)}

    @property
    def sweeps(self) -> bool:
        """Whether the command line asks for a sweep."""
        return self.flags.multirun or self.values.get("hydra.mode") == "MULTIRUN"

    @property
    def config_dirs(self) -> list[Path]:
        """The folder of the user's own configs (`--config-dir`), if one is given."""
        return [Path(self.flags.config_dir)] if self.flags.config_dir else []


def parse(overrides: Iterable[str]) -> list[Override]:
    """The parsed form of every override."""
    return OverridesParser.create().parse_overrides(list(overrides))


def _refuse(message: str) -> NoReturn:
    raise ValueError(f"{message}: {HELP}")
