"""What every `python -m fcnseg.<verb>` goes through: Hydra, and a plain answer to what the user got wrong."""

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from fcnseg.runs import RunFailedError

CONF = Path(__file__).parent.parent / "conf"
FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130  # exit codes
MAY_BE_NULL = ("patience", "checkpoint.every_n_minutes", "model.weights")  # besides what is null by default
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list"}
Job = Callable[[DictConfig], object]


def door(config_name: str) -> Callable[[Job], Callable[[], None]]:
    """Make `job` a command whose config is `conf/<config_name>.yaml`.

    It exits with 2 and one message for what the user got wrong (HYDRA_FULL_ERROR=1 shows the traceback instead), with 1
    for a run that failed on its own, and with 130 for Ctrl-C.
    """

    def decorate(job: Job) -> Callable[[], None]:
        def opened() -> None:
            errors: list[Exception] = []

            def checked(cfg: DictConfig) -> object:
                try:
                    check_values(cfg, _defaults(config_name))
                    return job(cfg)
                except Exception as error:  # not Hydra's to print: raised again below
                    errors.append(error)
                    return None

            wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, where it would print and exit with 1
            try:
                hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(checked)()
                for error in errors:
                    raise error
            except RunFailedError as error:
                _leave(str(error), FAILED)
            except KeyboardInterrupt:
                _leave("interrupted: the same command goes on from the last checkpoint", INTERRUPTED)
            except (ValueError, OSError, HydraException, OmegaConfBaseException) as error:
                if wants_traceback:
                    raise
                _leave(_explain(error, config_name), WRONG_USE)

        return opened

    return decorate


def _leave(message: str, code: int) -> None:
    print(f"fcnseg: {message}", file=sys.stderr)
    sys.exit(code)


def _defaults(config_name: str) -> DictConfig:
    """The config of this command line's choices, before any value was changed."""
    hydra_cfg = HydraConfig.get()
    groups = hydra_cfg.runtime.choices
    chosen = [override for override in hydra_cfg.overrides.task if override.split("=")[0] in groups]
    return hydra.compose(config_name, overrides=chosen)


def _leaves(cfg: DictConfig, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every setting's full name and its value, unresolved; lists are values."""
    for key, node in cfg.items_ex(resolve=False) if isinstance(cfg, DictConfig) else ():
        if isinstance(node, DictConfig):
            yield from _leaves(node, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", node


def check_values(cfg: DictConfig, defaults: DictConfig) -> None:
    """Hold every value of `cfg` against the kind of its default; a number where text is wanted becomes text.

    Raises:
        ValueError: a value of another kind.
    """
    for key, default in _leaves(defaults):
        value, default = OmegaConf.select(cfg, key), OmegaConf.select(defaults, key)
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
        return f"no setting '{key}'; {_nearest(key, _settings(config_name))}--help lists all of them, +{key}=<value> adds one"
    return text


def _nearest(word: str, words: Iterable[str]) -> str:
    close = get_close_matches(word, words, n=2, cutoff=0.5)
    return f"{' or '.join(close)}? " if close else ""


def _settings(config_name: str) -> list[str]:
    """The full name of every setting and every group of choices there is."""
    groups = [path.name for path in CONF.iterdir() if path.is_dir()]
    keys: set[str] = set(groups)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        for path in [CONF / f"{config_name}.yaml", *CONF.glob("*/*.yaml")]:
            if path.parent == CONF:
                keys.update(key for key, _ in _leaves(hydra.compose(config_name)))
            elif path.parent.name not in ("experiment", "debug", "hydra"):
                loaded = OmegaConf.load(path)
                assert isinstance(loaded, DictConfig)
                keys.update(key for key, _ in _leaves(loaded, f"{path.parent.name}."))
    return sorted(keys)
