"""Signals that ask a run to stop: noticed at once, obeyed between two batches."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType
from typing import Any

from fcnseg.errors import StopError

STOPPING = (signal.SIGINT, signal.SIGTERM)
ON_SLURM = (signal.SIGUSR1, signal.SIGUSR2)  # sent before a job is preempted or out of time


class StopRequest:
    """Whether a signal has come. Where nothing will look at it (`heeded` is False), it raises; so does a second Ctrl-C.

    Any other second signal changes nothing: SLURM sends two of them before it preempts a job.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.heeded = False
        self.warned = False  # by SLURM

    def receive(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal: Python's `signal` calls this."""
        first, self.signum = self.signum is None, self.signum or signum
        self.warned |= signum in ON_SLURM
        if signum == signal.SIGINT and not first:
            self.signum = signum
        elif self.heeded or not first:
            return
        raise StopError(signum)

    def watch(self) -> list[tuple[signal.Signals, Any]]:
        """Receive the signals from here on; (signal, handler before) of each. Nothing off the main thread."""
        if current_thread() is not main_thread():  # Python's signals belong to the main thread
            return []
        watched = STOPPING + (ON_SLURM if "SLURM_JOB_ID" in os.environ else ())
        return [(signum, signal.signal(signum, self.receive)) for signum in watched]

    def obey(self) -> None:
        """Stop here if a signal has come.

        Raises:
            StopError: it has.
        """
        if self.signum is not None:
            raise StopError(self.signum)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Notice Ctrl-C and SIGTERM, and on SLURM its warnings, in the `with` block.

    Whoever handled SLURM's warning before (submitit, which queues the job again) gets it once the block has ended,
    whichever of the signals came first.
    """
    request = StopRequest()
    before = request.watch()
    try:
        yield request
    finally:
        for signum, handler in before:
            signal.signal(signum, handler)
        if request.warned:
            for signum, handler in before:
                if signum in ON_SLURM and callable(handler):
                    signal.raise_signal(signum)
