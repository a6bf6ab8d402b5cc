"""Signals that ask a run to stop: noticed at once, acted on between two batches, when the run's state is saved."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType
from typing import Any

from fcnseg.errors import StopError

STOPPING = (signal.SIGINT, signal.SIGTERM)
ON_SLURM = (signal.SIGUSR1, signal.SIGUSR2)  # SLURM sends one of them before a job is preempted or out of time


def was_requeued() -> bool:
    """Whether SLURM has started this job again, after a preemption or the end of its time."""
    return os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


class StopRequest:
    """Tells whether a signal has asked the run to stop.

    A signal raises a `StopError` at once unless it is `deferred`, that is, unless a callback looks for it between two
    batches. A second Ctrl-C raises in any case. Any other second signal changes nothing: SLURM sends two of them.

    Attributes:
        signum: The number of the first signal; None before a signal.
        deferred: Whether somebody looks for signals and saves the run's state first.
        warned: Whether SLURM has sent one of its warnings.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.deferred = False
        self.warned = False

    def receive(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal: this is what `signal.signal` is given."""
        first, self.signum = self.signum is None, self.signum or signum  # the first signal gives the exit code
        self.warned |= signum in ON_SLURM
        if signum == signal.SIGINT and not first:
            self.signum = signum
        elif self.deferred or not first:
            return
        raise StopError(signum)

    def watch(self) -> list[tuple[signal.Signals, Any]]:
        """Handle the signals from here on.

        Returns:
            Each signal with its handler before. Empty off the main thread, to which Python's signals belong.
        """
        if current_thread() is not main_thread():
            return []
        watched = STOPPING + (ON_SLURM if "SLURM_JOB_ID" in os.environ else ())
        return [(signum, signal.signal(signum, self.receive)) for signum in watched]


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Handle Ctrl-C and SIGTERM, and on SLURM its warnings, in the `with` block.

    The handler of SLURM's warning before (submitit's, which queues the job again) is called once the block has ended,
    whichever of the signals came first.
    """
    request = StopRequest()
    before = request.watch()
    try:
        yield request
    finally:
        for signum, handler in before:
            signal.signal(signum, handler)
        if request.warned:  # now that the run is saved, and by its own handlers again
            for signum, handler in before:
                if signum in ON_SLURM and callable(handler):
                    signal.raise_signal(signum)
