"""The decorator `@command`, which turns a function of a config into a command."""

import gc
import os
import re
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from functools import partial, update_wrapper
from pathlib import Path
from types import ModuleType

from hydra import version
from hydra._internal.utils import _run_hydra, get_args_parser  # `hydra.main` would read sys.argv by itself
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from fcnseg.cli.arguments import Arguments
from fcnseg.cli.configs import CONF, TRAIN, check_own_configs, setting_names
from fcnseg.cli.help import help_text
from fcnseg.cli.messages import FULL_ERROR, explanation, one_message
from fcnseg.cli.sweep import run_job, sweep
from fcnseg.cli.values import check_and_name
from fcnseg.runs.folder import Run
from fcnseg.texts import say

JobFunction = Callable[[DictConfig], object]


class Command:
    """A function that takes a config, as a command: called without arguments, it reads the command line.

    A mistake of the user ends with one message and exit code 2; HYDRA_FULL_ERROR=1 shows the traceback instead. A run
    that fails on its own, or a sweep with unfinished jobs, ends with exit code 1; Ctrl-C with 130.

    Args:
        function: The function that does the command's work with its config.
        config_name: The name of a file in `conf/`, without its ending.
    """

    def __init__(self, function: JobFunction, config_name: str) -> None:
        update_wrapper(self, function)
        self.function, self.config_name = function, config_name

    def __call__(self) -> None:
        """Run the command of the command line, and exit with its code."""
        prepare_process()
        arguments = Arguments(sys.argv[1:])
        with one_message(arguments, partial(setting_names, self.config_name, arguments)):
            check_own_configs(arguments)
            if arguments.flags.help:
                say(help_text(self.config_name, arguments), sys.stdout)
            elif not arguments.sweeps:
                arguments.check_no_sweep_settings()
                _launch(self.function, self.config_name, arguments.flags)
            elif self.config_name == TRAIN:
                sweep(arguments, partial(_launch, self.function, self.config_name))
            else:
                raise ValueError("only python -m fcnseg.train can sweep: leave out -m")

    def in_python(self, *settings: str) -> Run:
        """Run the command with these settings in this process, as `fcnseg.train("model=wilson", "aug=flip")` does.

        Args:
            settings: The settings, written as on the command line: "model=wilson".

        Returns:
            The run that the settings led to.

        Raises:
            ValueError: A setting is wrong, asks for a sweep, or is a flag other than --config-dir.
            RunFailedError: The run failed while it trained.
        """
        from unittest.mock import patch  # late: see `sweep.isolated`

        arguments = Arguments(settings)
        try:
            if arguments.sweeps:
                raise ValueError("a sweep is started on the command line: leave out -m")
            if flag := next((word for word in settings if re.match("-(?!-config-dir|cd)", word)), None):
                raise ValueError(f"{flag} is a flag of the command line: leave it out")
            arguments.check_no_sweep_settings()
            with patch.dict(os.environ, {FULL_ERROR: "1"}):
                (cfg,) = _launch(self.function, self.config_name, arguments.flags)
        except (HydraException, OmegaConfBaseException) as error:
            raise ValueError(explanation(error, partial(setting_names, self.config_name, arguments))) from error
        finally:
            GlobalHydra.instance().clear()
        return Run.of(cfg)


def command(config_name: str, *, from_python: bool = False) -> Callable[[JobFunction], Command]:
    """The decorator that turns a function into a `Command` with the config of this name.

    Args:
        config_name: The name of a file in `conf/`, without its ending.
        from_python: Whether its module can be called, as `fcnseg.train("model=wilson")`: once `fcnseg.train` is imported,
            Python takes this name for the module, and no function of the package can have it.
    """

    def decorate(function: JobFunction) -> Command:
        made = Command(function, config_name)
        if from_python:  # a module is called if its class can be called
            call = {"__call__": staticmethod(made.in_python)}
            sys.modules[function.__module__].__class__ = type("CallableModule", (ModuleType,), call)
        return made

    return decorate


def prepare_process() -> None:
    """Make a command independent of the place where it starts: a notebook, or a system without a home folder."""
    gc.set_threshold(100_000, 50, 100)  # importing torch makes a million lasting objects: searching them takes a second
    os.environ["MPLBACKEND"] = "Agg"  # figures go to files; a notebook's backend may not be installed here
    try:
        Path.home()
    except RuntimeError:  # as in containers that run under any user: caches go somewhere else
        os.environ["HOME"] = tempfile.gettempdir()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the stream was closed by >&-
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 (until the process ends)


def _launch(job: JobFunction, config_name: str, flags: Namespace) -> list[DictConfig]:
    """Have Hydra run `job`, or each job of a sweep; raise the error of one, or return the configs of those that ran here."""
    configs: list[DictConfig] = []
    errors: list[Exception] = []

    def checked(cfg: DictConfig) -> object:
        configs.append(cfg)
        try:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                return run_job(cfg, job)
            check_and_name(cfg, config_name)
            return job(cfg)
        except Exception as error:  # Hydra would print the error; it is raised again below
            errors.append(error)
        return None

    version.setbase("1.3")
    _run_hydra(flags, get_args_parser(), checked, config_path=str(CONF), config_name=config_name)
    for error in errors:
        raise error
    return configs
