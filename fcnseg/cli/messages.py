"""The end of a command that cannot go on: one message and an exit code for each kind of error."""

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import NoReturn

from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from fcnseg.cli.arguments import HELP, Arguments
from fcnseg.errors import RunFailedError, StopError
from fcnseg.texts import drop, warn

EXIT_FAILED, EXIT_WRONG_USE, EXIT_INTERRUPTED = 1, 2, 130  # the exit codes of commands
FULL_ERROR = "HYDRA_FULL_ERROR"  # with 1, Hydra raises an error instead of printing it and exiting


@contextmanager
def one_message(arguments: Arguments, names: Callable[[], Iterable[str]]) -> Iterator[None]:
    """Turn an exception of the `with` block into one message and an exit code.

    Args:
        arguments: The command line, on which the advice to repeat it depends.
        names: The function that lists all settings and groups. It is slow, and called only if a name is wrong.
    """
    wants_traceback = os.environ.get(FULL_ERROR) == "1"
    os.environ[FULL_ERROR] = "1"
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads any longer
        drop(sys.stdout)
    except RunFailedError as error:
        leave(str(error), EXIT_FAILED)
    except StopError as error:
        leave(f"{error}: {_same_command(arguments)} resumes from the last save", 128 + error.signum)
    except KeyboardInterrupt:
        leave(f"interrupted: {_same_command(arguments)} resumes from the last save", EXIT_INTERRUPTED)
    except (ValueError, OSError, HydraException, OmegaConfBaseException) as error:
        if wants_traceback:
            raise
        leave(explanation(error, names), EXIT_WRONG_USE)


def leave(message: str, code: int) -> NoReturn:
    """Print the message on stderr and exit with the code."""
    warn(message)
    sys.exit(code)


class _Output(Console):
    def on_broken_pipe(self) -> None:
        drop(sys.stdout)  # rich would exit, and end the run


def console() -> Console:
    """The console for a command's output: the terminal, or 100 columns of text in a pipe or a file.

    Brackets and colons are printed as they are, since names of runs may have them, and numbers without colours.
    """
    return _Output(markup=False, emoji=False, highlight=False, width=None if sys.stdout.isatty() else 100)


def tell(line: str) -> None:
    """Print a line, which is not cut where the terminal ends: names of files in it can be copied."""
    console().print(line, soft_wrap=True)


def explanation(error: Exception, names: Callable[[], Iterable[str]] = list) -> str:
    """The message for an exception that a wrong command line raises: what was found, what was wanted, what to do."""
    if isinstance(error, InstantiationException):
        return _not_made(error)
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        return f"no {group}={choice}; {nearest(choice, error.options)}the choices are {', '.join(error.options)}"
    if isinstance(error, OverrideParseException):
        key, _, value = str(error.override).partition("=")
        quoted = f""" (if it is text with special characters: "{key}='{value}'")""" if value else ""
        return f"cannot read '{error.override}'{quoted}: {HELP}"
    if refused := re.search(r"Could not (override|delete|delete from config\.) '([^'@=]+)", str(error)):
        known, key = list(names()), refused[2]
        if key not in known:
            return no_setting(key, known)
        if refused[1] == "override":
            return f"no setting '{key}' with these choices; --help after the same choices lists all settings"
        return not_removable(key, or_null=True)  # Hydra deletes no setting that is null
    return str(error).strip() or type(error).__name__


def _not_made(error: InstantiationException) -> str:
    """The message about a node of a config of which Hydra cannot make an object."""
    cause, setting = error.__cause__, re.search(r"full_key: (\S+)", str(error))
    names_argument = isinstance(cause, ValueError) and re.match(r"[\w.]+=|terms\.", str(cause))
    group = setting[1].split(".")[0] if setting else ""
    if names_argument and setting and not str(cause).startswith(f"{group}."):  # else it is a full name already
        return f"{setting[1]}.{cause}"
    if cause is None or isinstance(cause, ValueError) or not setting:  # these name the setting themselves
        return _missing_name(cause) or str(cause or error)
    return f"{setting[1]}: {_missing_name(cause) or cause}"


def _missing_name(error: BaseException | None) -> str | None:
    """The message about a `_target_` of which Python finds no module, or no such name in it; None for another error."""
    reason = error.__cause__ if error else None
    if not isinstance(reason, ModuleNotFoundError):
        return None
    target = str(error).partition("'")[2].partition("'")[0]  # of Hydra's message: Error loading 'bad.Nope': ...
    if not f"{target}.".startswith(f"{reason.name}."):  # it is a module that the target's module imports
        return None
    module, _, name = str(reason.name).rpartition(".")
    found = f"the module {module} has no {name}" if module else f"there is no module {name}"
    known = dir(sys.modules[module]) if module else []
    return f"{found}; {nearest(name, known)}correct _target_: {target}"


def no_setting(key: str, names: Iterable[str]) -> str:
    """The message about a setting that does not exist, with the `names` of similar spelling."""
    return f"no setting '{key}'; {nearest(key, names)}--help lists all settings"


def not_removable(key: str, *, or_null: bool) -> str:
    """The message about a setting that `~` would remove, which may be null instead or not."""
    return f"~{key}: it cannot be removed; give {key}=<value>{', or null' if or_null else ''}"


def nearest(word: str, words: Iterable[str]) -> str:
    """A question with the one or two `words` spelled most like `word`, to put before other text; empty without any."""
    similar = get_close_matches(word, words, n=2, cutoff=0.6)
    return f"did you mean {' or '.join(similar)}? " if similar else ""


def _same_command(arguments: Arguments) -> str:
    return f"the same command{', without resume=never,' if arguments.values.get('resume') == 'never' else ''}"
