"""The decorator `@command` makes a command of a function that takes a config."""

import gc
import inspect
import sys
from argparse import Namespace
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path

from hydra import version
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from fcnseg.cli.arguments import Arguments
from fcnseg.cli.configs import CONF as CONF
from fcnseg.cli.configs import PACKAGE, default_config, setting_names
from fcnseg.cli.help import help_text
from fcnseg.cli.messages import WRONG_USE as WRONG_USE
from fcnseg.cli.messages import console as console
from fcnseg.cli.messages import one_message
from fcnseg.cli.sweep import recorded, sweep
from fcnseg.cli.values import check_values

Job = Callable[[DictConfig], object]


def command(config_name: str, *, can_sweep: bool = False) -> Callable[[Job], Callable[[], None]]:
    """Make `job` a command whose config is `conf/<config_name>.yaml`; with `-m`, a sweep of such jobs.

    It exits with 2 and one message for what the user got wrong; HYDRA_FULL_ERROR=1 shows the traceback instead. It exits
    with 1 for a run that failed on its own or a sweep with unfinished jobs, and with 130 for Ctrl-C.

    Args:
        config_name: The name of a config in `conf/`.
        can_sweep: Whether `-m` is accepted.
    """

    def decorate(job: Job) -> Callable[[], None]:
        @wraps(job)
        def run() -> None:
            collect_rarely()
            arguments = Arguments(sys.argv[1:])
            with one_message(arguments, lambda: setting_names(config_name, [CONF, *arguments.config_dirs])):
                if arguments.flags.help:
                    print(help_text(_typed(job), config_name, arguments, [CONF, *arguments.config_dirs]))
                elif not arguments.sweeps:
                    _launch(job, config_name, arguments.flags)
                elif can_sweep:
                    sweep(arguments, partial(_launch, job, config_name))
                else:
                    raise ValueError("only python -m fcnseg.train can sweep: leave out -m")

        return run

    return decorate


def collect_rarely() -> None:
    """Collect garbage seldom: importing torch makes a million objects that stay, and looking through them takes a second."""
    gc.set_threshold(100_000, 50, 100)


def _typed(job: Job) -> str:
    """What a user types to run the command."""
    file = Path(inspect.getfile(job)).relative_to(PACKAGE.parent)
    return f"python -m {'.'.join(file.with_suffix('').parts).removesuffix('.__main__')}"


def _launch(job: Job, config_name: str, flags: Namespace) -> None:
    """Have Hydra run `job`, or each job of a sweep; raise the first error that is not in the sweep's journal."""
    errors: list[Exception] = []

    def check(cfg: DictConfig) -> None:
        check_values(cfg, default_config(config_name))

    def checked(cfg: DictConfig) -> object:
        try:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                return recorded(cfg, check, job)
            check(cfg)
            return job(cfg)
        except Exception as error:  # Hydra would print it; it is raised again below
            errors.append(error)
        return None

    version.setbase("1.3")
    _run_hydra(flags, get_args_parser(), checked, config_path=str(CONF), config_name=config_name)
    for error in errors:
        raise error
