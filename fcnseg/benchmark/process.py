"""Work in a process of its own, which shares neither its memory nor the peak of it with other work."""

import os
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

Figures = dict[str, Any]
Work = Callable[..., Figures]
Show = Callable[[str], None]  # shows what is being measured


def call(work: Work, *args: Any, **settings: Any) -> Figures:
    """Run `work(*args)` silently in a new process.

    The process is forked from a server that has imported torch and has done nothing else: it is as good as a fresh one,
    without the seconds that importing torch takes.

    Returns:
        What `work` returns; {"failed": the traceback or the exit code} if it raises an error or is killed.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["fcnseg.benchmark.parts"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, partial(work, *args, **settings)))
    process.start()
    theirs.close()  # now the end of the process is the end of the connection
    try:
        figures: Figures = ours.recv()
    except EOFError:
        process.join()
        figures = {"failed": f"the process ended with exit code {process.exitcode}"}
    finally:
        process.join(5)  # seconds
        process.kill()
        process.join()
    return figures


def _answer(connection: "Connection[Any, Any]", work: Work) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # libraries print progress bars and warnings there
        os.dup2(nowhere, stream)
    try:
        figures = work()
    except Exception:
        figures = {"failed": traceback.format_exc()}
    connection.send(figures)
