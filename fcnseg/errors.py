"""The errors that a command answers each in its own way, and warnings."""

import signal
import sys


class RunFailedError(Exception):
    """A run failed on its own; its status.json has the traceback."""


class DivergedError(RuntimeError):
    """The loss or the logits are no longer numbers."""


class StopError(BaseException):
    """A signal asks the run to stop. No `Exception`, as KeyboardInterrupt is none: a sweep must not go on after it."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


def warn(message: str) -> None:
    """Print a warning on stderr, as every command words it."""
    print(f"fcnseg: {message}", file=sys.stderr, flush=True)
