"""The errors that commands distinguish, and the checks of single values."""

import signal
from collections.abc import Iterable
from math import inf

from fcnseg.texts import as_typed

# How messages name the types of values.
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list", type(None): "null"}


class RunFailedError(Exception):
    """A run failed while it trained; its status.json has the traceback."""


class DivergedError(RuntimeError):
    """The loss or the logits became NaN or infinite."""


class LostError(RuntimeError):
    """Another process of a run on several devices has ended."""


class StopError(BaseException):
    """A signal asks the run to stop. Like KeyboardInterrupt, it is not an `Exception`: a sweep must stop as well.

    Args:
        signum: The number of the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Refuse a setting whose value is not one of some words.

    Raises:
        ValueError: It is another one; the message names the setting and the words.
    """
    if value not in (words := [*choices]):
        raise ValueError(f"{name}={value}: wanted one of {', '.join(words)}")


def check_whole_number(name: str, value: object, least: int) -> None:
    """Refuse a setting whose value is not a whole number, or is less than `least`.

    Raises:
        ValueError: The value is not such a number; the message names the setting.
    """
    if type(value) is not int or value < least:  # `true` is an int as well, but not of this type
        raise ValueError(f"{name}={as_typed(value)}: wanted a whole number from {least} up")


def check_number(name: str, value: float, least: float, most: float) -> float:
    """The value of a setting, which is refused if it is outside least..most.

    Raises:
        ValueError: It is outside; the message names the setting.
    """
    if not least <= value <= most:
        raise ValueError(f"{name}={value}: wanted a number from {least} {'up' if most == inf else f'to {most}'}")
    return value
