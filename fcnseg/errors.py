"""The errors that commands tell apart, and the one way to print a warning."""

import signal
import sys


class RunFailedError(Exception):
    """A run failed while it trained; its status.json has the traceback."""


class DivergedError(RuntimeError):
    """The loss or the logits became NaN or infinite."""


class StopError(BaseException):
    """A signal asks the run to stop. Like KeyboardInterrupt it is not an `Exception`: a sweep must stop, too.

    Args:
        signum: The number of the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


def warn(message: str) -> None:
    """Print a warning on stderr, in the form in which every command prints its messages."""
    print(f"fcnseg: {message}", file=sys.stderr, flush=True)
