"""Work in a process of its own, with a memory, and a peak of memory, of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeVar

T = TypeVar("T")


def call(work: Callable[..., T], *args: Any, seconds: int = 0, **named: Any) -> T:
    """Run `work(*args, **named)` silently in a new process, killed after `seconds` (0: never); return its value.

    The process is forked from a server that has imported torch and has done nothing else: it is as good as a fresh one,
    without the seconds that importing torch takes.

    Raises:
        Exception: `work` has raised it; a BrokenProcessPool if its process was killed.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["fcnseg.benchmark.parts"])
    with ProcessPoolExecutor(1, context, _start, (seconds,)) as pool:
        return pool.submit(work, *args, **named).result()


def _start(seconds: int) -> None:
    """Throw away what libraries print, progress bars and warnings; set the time of the process's end."""
    signal.alarm(seconds)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)


def python(*words: str, seconds: float, code: int) -> None:
    """Run a fresh Python with these words as its command line.

    Raises:
        RuntimeError: It did not end with the exit code `code`.
        TimeoutExpired: It did not end within `seconds`, and was killed.
    """
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=seconds)
    if done.returncode != code:
        raise RuntimeError(f"python {' '.join(words)} ended with exit code {done.returncode}: {done.stderr}")
