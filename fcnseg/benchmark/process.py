"""Work in a process of its own: arms share no allocator and no peak of memory."""

import os
import traceback
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pkgutil import resolve_name
from typing import Any

from fcnseg.errors import RunFailedError


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        cfg: The whole config, resolved, as `build` takes it.
        repeats: Timed blocks of every arm.
        steps: Timed steps of a block.
        warmup: Steps before them.
        syncs: Whether a last block counts synchronisations with the GPU.
    """

    cfg: Any  # a DictConfig; only doors and `build` know what that is
    repeats: int
    steps: int
    warmup: int
    syncs: bool = False

    @property
    def blocks(self) -> int:
        """Blocks that every arm runs: a cold one, the timed ones, and perhaps one that counts synchronisations."""
        return 1 + self.repeats + self.syncs

    @property
    def batches(self) -> int:
        """Batches of a block."""
        return self.warmup + self.steps


@dataclass(frozen=True)
class Link:
    """A worker's end of its connection.

    Attributes:
        connection: To the process that started it.
    """

    connection: "Connection[Any, Any]"

    def send(self, message: Any) -> None:
        """Answer."""
        self.connection.send(message)

    def wait(self) -> Any:
        """The next thing that is asked for."""
        return self.connection.recv()


class WorkerError(RunFailedError):
    """A worker raised, or was killed; the message has its traceback."""


class Worker:
    """A process that runs `work(link, *args)`, silently.

    It is forked from a server that has imported what every worker needs and has done nothing else, no thread started: as
    good as a fresh process, at none of the seconds that importing torch takes.

    Args:
        work: Where the function is: "package.module:function". By name, so that this process need not import torch.
        args: What it is given.
    """

    def __init__(self, work: str, *args: Any) -> None:
        context = get_context("forkserver")
        context.set_forkserver_preload([f"fcnseg.benchmark.{name}" for name in ("parts", "loop", "operations")])
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(Link(theirs), work, args))
        self._process.start()
        theirs.close()  # so that the end of the process is the end of the connection

    def receive(self) -> Any:
        """Its next answer.

        Raises:
            WorkerError: it raised, or was killed.
        """
        try:
            answer = self._connection.recv()
        except EOFError as error:
            self._process.join()
            raise WorkerError(f"the process ended with exit code {self._process.exitcode}") from error
        if isinstance(answer, WorkerError):
            raise answer
        return answer

    def ask(self, request: Any) -> Any:
        """Its answer to `request`."""
        self._connection.send(request)
        return self.receive()

    def close(self) -> None:
        """End it, if it has not ended by itself."""
        self._connection.close()
        self._process.join(5)
        self._process.kill()
        self._process.join()


def call(work: str, *args: Any) -> Any:
    """The one answer that `work` sends from a process of its own."""
    worker = Worker(work, *args)
    try:
        return worker.receive()
    finally:
        worker.close()


def _run(link: Link, work: str, args: tuple[Any, ...]) -> None:
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # progress bars and warnings of libraries
        os.dup2(silence, stream)
    try:
        resolve_name(work)(link, *args)
    except (EOFError, BrokenPipeError):  # nobody wants to know any more
        pass
    except Exception:
        link.send(WorkerError(traceback.format_exc()))
