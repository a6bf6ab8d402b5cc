"""What every `python -m fcnseg.<verb>` goes through: Hydra, and a plain answer to what the user got wrong."""

import gc
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from rich.console import Console

from fcnseg.cli.help import usage
from fcnseg.cli.launchers import prepare_launcher
from fcnseg.cli.sweep import Journal, journalled
from fcnseg.errors import RunFailedError, StopError

CONF = Path(__file__).parents[2] / "conf"
FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130  # exit codes
MAY_BE_NULL = ("patience", "checkpoint.every_n_minutes", "model.weights")  # besides what is null by default
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list"}
MULTIRUN = ("-m", "--multirun", "hydra.mode=MULTIRUN")
HELP = {"-h", "--help"}
Job = Callable[[DictConfig], object]


def command(config_name: str) -> Callable[[Job], Callable[[], None]]:
    """Make `job` a command whose config is `conf/<config_name>.yaml`; with `-m`, a sweep of such jobs.

    It exits with 2 and one message for what the user got wrong (HYDRA_FULL_ERROR=1 shows the traceback instead), with 1
    for a run that failed on its own or a sweep with unfinished jobs, and with 130 for Ctrl-C.
    """

    def decorate(job: Job) -> Callable[[], None]:
        def opened() -> None:
            if HELP & set(sys.argv):
                print(usage(CONF, config_name, f"python -m {_module(job)}", sys.argv[1:]))
                return
            collect_rarely()
            command = partial(_run, job, config_name)
            with _plain_answers(config_name):
                if not set(MULTIRUN) & set(sys.argv):
                    command()
                elif config_name == "config":
                    _sweep(command)
                else:
                    raise ValueError("-m sweeps over runs: it is python -m fcnseg.train's alone")

        return opened

    return decorate


def _module(job: Job) -> str:
    """What `python -m` calls the module of a door."""
    file = Path(inspect.getfile(job)).relative_to(Path(__file__).parents[2])
    return ".".join(file.with_suffix("").parts).removesuffix(".__main__")


def _run(job: Job, config_name: str) -> None:
    """Have Hydra run `job`, or each job of a sweep; raise the first error that is not in the sweep's journal."""
    errors: list[Exception] = []

    def checked(cfg: DictConfig) -> object:
        def check() -> None:
            check_values(cfg, defaults := _defaults(config_name))
            if "name" in cfg:
                from fcnseg.runs.naming import run_name

                cfg.name = run_name(cfg, defaults=defaults, preset=_preset(config_name), shipped=_shipped())

        try:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                return journalled(cfg, check, job, lambda error: _explain(error, config_name))
            check()
            return job(cfg)
        except Exception as error:  # not Hydra's to print: raised again below
            errors.append(error)
        return None

    hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(checked)()
    for error in errors:
        raise error


@contextmanager
def _plain_answers(config_name: str) -> Iterator[None]:
    """Answer an error in the `with` block with one message and an exit code."""
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, where it would print and exit with 1
    try:
        yield
    except RunFailedError as error:
        _leave(str(error), FAILED)
    except StopError as error:
        _leave(f"{error}: {_same_command()} goes on", 128 + error.signum)
    except KeyboardInterrupt:
        _leave(f"interrupted: {_same_command()} goes on from the last checkpoint", INTERRUPTED)
    except (ValueError, OSError, HydraException, OmegaConfBaseException) as error:
        if wants_traceback:
            raise
        _leave(_explain(error, config_name), WRONG_USE)


def collect_rarely() -> None:
    """Importing torch makes a million objects that stay: at its usual rate, Python looks through them for over a second."""
    gc.set_threshold(100_000, 50, 100)


def _sweep(command: Callable[[], None]) -> None:
    """Run the jobs of a sweep, print the table of what became of them, and exit with 1 unless all have finished."""
    given = dict(arg.partition("=")[::2] for arg in sys.argv)
    journal, argv = Journal(Path(given.get("runs", "runs").strip("'\""))), sys.argv
    program, *rest = (arg for arg in argv if arg not in MULTIRUN)
    # Hydra takes flags before overrides only.
    sys.argv = [program, "--multirun", *rest, f"hydra.sweep.dir='{journal.folder.absolute()}'"]
    try:
        prepare_launcher(given.get("hydra/launcher", ""), journal)
        command()
    finally:
        sys.argv = argv
        finished = journal.close(console())
    if not finished:
        _leave("not every job has finished; the same command goes on with those", FAILED)


def console() -> Console:
    """Where a command prints: the terminal, or 100 columns of text in a pipe or a file."""
    return Console() if sys.stdout.isatty() else Console(width=100)


def _same_command() -> str:
    return f"the same command{', without resume=never,' if 'resume=never' in sys.argv else ''}"


def _leave(message: str, code: int) -> None:
    print(f"fcnseg: {message}", file=sys.stderr)
    sys.exit(code)


def _defaults(config_name: str) -> DictConfig:
    """The config of this command line's choices, before any value was changed."""
    hydra_cfg = HydraConfig.get()
    groups = hydra_cfg.runtime.choices
    chosen = [override for override in hydra_cfg.overrides.task if override.split("=")[0] in groups]
    return hydra.compose(config_name, overrides=chosen)


def _preset(config_name: str) -> DictConfig:
    choices = HydraConfig.get().runtime.choices
    presets = [f"{g}={choices[g]}" for g in ("experiment", "debug") if choices[g]]
    return hydra.compose(config_name, overrides=presets, return_hydra_config=True).hydra.runtime.choices


def _shipped() -> set[str]:
    return {f"{path.parent.name}/{path.stem}" for path in CONF.glob("*/*.yaml")}


def _leaves(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    """Every setting's full name; a list is one setting."""
    for key, node in cfg.items_ex(resolve=False):
        if isinstance(node, DictConfig):
            yield from _leaves(node, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def check_values(cfg: DictConfig, defaults: DictConfig) -> None:
    """Hold every value of `cfg` against the kind of its default; a number where text is wanted becomes text.

    Raises:
        ValueError: a value of another kind, or a setting added (+key=value) where no class takes it.
    """
    known = set(_leaves(defaults))
    for key in set(_leaves(cfg)) - known:
        owner = OmegaConf.select(cfg, key.rpartition(".")[0]) if "." in key else cfg
        if "_target_" not in owner:
            raise ValueError(f"no setting '{key}'; {_nearest(key, known)}--help lists all of them")
    for key in known:
        value: Any = OmegaConf.select(cfg, key)
        default: Any = OmegaConf.select(defaults, key)
        if value == default or default is None or key == "trainer.devices":
            continue
        if isinstance(default, str) and type(value) in (int, float):
            OmegaConf.update(cfg, key, str(value))
        elif not (_of_kind(value, default) or (value is None and key in MAY_BE_NULL)):
            kind = KINDS[list if isinstance(default, ListConfig) else type(default)]
            raise ValueError(f"{key}={value}: wanted {kind}, such as {default}")


def _of_kind(value: object, default: object) -> bool:
    if isinstance(default, ListConfig):
        return isinstance(value, ListConfig) and all(_of_kind(item, default[0]) for item in value)
    return type(value) is type(default) or (type(value) is int and type(default) is float)


def _explain(error: Exception, config_name: str) -> str:
    """What was found, what was wanted and what to do, from one of the exceptions a wrong command line leads to."""
    if isinstance(error, InstantiationException):
        return str(error.__cause__ or error)
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is missing: give {error.full_key}=<value>"
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        return f"no {group}={choice}: wanted {_nearest(choice, error.options)}one of {', '.join(error.options)}"
    text = str(error)
    if found := re.search(r"Could not (?:override|append to config) '([^'@]+)", text):
        key = found[1].split("=")[0]
        return f"no setting '{key}'; {_nearest(key, _settings(config_name))}--help lists all of them"
    return text


def _nearest(word: str, words: Iterable[str]) -> str:
    close = get_close_matches(word, words, n=2, cutoff=0.6)
    return f"{' or '.join(close)}? " if close else ""


def _settings(config_name: str) -> list[str]:
    """The full name of every setting there is, and of every group of choices, presets left out."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        keys = {"experiment", "debug", *_leaves(hydra.compose(config_name))}
    for path in CONF.glob("*/*.yaml"):
        cfg = OmegaConf.load(path)
        if isinstance(cfg, DictConfig) and "_target_" in cfg:
            keys.update({path.parent.name, *_leaves(cfg, f"{path.parent.name}.")})
    return sorted(keys)
