"""Compose a run's config in a program that does not train it."""

from contextlib import nullcontext

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from fcnseg.cli.command import CONF


def compose(*overrides: str) -> DictConfig:
    """The config of a run with these overrides, inside one of our commands or in a notebook."""
    started = GlobalHydra.instance().is_initialized()  # a notebook has not started Hydra
    with nullcontext() if started else hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", overrides=list(overrides))
