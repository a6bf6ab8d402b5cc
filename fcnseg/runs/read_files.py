"""The config and the table of a run, read from files that may be damaged or come from somebody else."""

import csv
import io
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf

from fcnseg.machine.files import read_text

LARGEST_CONFIG, MOST_BRACKETS = 1 << 17, 1000  # the most bytes, and the most [ and {: more would take over two seconds


def config(path: Path) -> DictConfig:
    """The config in a file: plain values without interpolations.

    Raises:
        ValueError: The file is damaged, or holds more than plain values.
    """
    try:
        return _plain(read_text(path, LARGEST_CONFIG))
    except Exception as error:  # a damaged file may raise any error
        raise _damaged(path, str(error).partition("\n")[0] or type(error).__name__) from error


def table(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv, one an epoch.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        text = io.StringIO(read_text(path), newline="")
        rows = [{key: _number(cell) for key, cell in row.items() if cell} for row in csv.DictReader(text)]
    except (ValueError, TypeError, AttributeError, csv.Error) as error:  # not text, or more cells than the header
        raise _damaged(path, str(error)) from error
    if not all("epoch" in row for row in rows):
        raise _damaged(path, "a row has no epoch")
    return rows


def _damaged(path: Path, reason: str) -> ValueError:
    """The error that a file of a run cannot be read."""
    return ValueError(f"{path} is damaged ({reason}): restore it, or start over with resume=never")


def _plain(text: str) -> DictConfig:
    """A stored config, which may come from somebody else: it can neither read the environment nor grow when it is read.

    Raises:
        ValueError: It holds no settings, an interpolation, a YAML alias, or more than the config of a run may hold.
    """
    if text.count("[") + text.count("{") > MOST_BRACKETS:
        raise ValueError(f"it holds more than {MOST_BRACKETS} brackets, wanted a config as fcnseg writes it")
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it holds a YAML alias, wanted plain values")
        if isinstance(event, yaml.ScalarEvent) and "${" in event.value:
            raise ValueError(f"it holds the interpolation {event.value[:60]}, wanted plain values")
    cfg = OmegaConf.create(text)
    if not isinstance(cfg, DictConfig) or not isinstance(cfg.get("choices"), DictConfig):
        raise ValueError("it holds no settings")
    return cfg


def _number(text: str) -> float:
    return int(text) if text.isdigit() else float(text)
