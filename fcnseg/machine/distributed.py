"""Communication between the processes of a run: each has a device, and a part of every batch.

Lightning's DDP has connected them, and averages their gradients. In a run of one process, these functions return their
arguments.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from fcnseg.errors import DivergedError, LostError, RunFailedError

T = TypeVar("T")


def rank() -> int:
    """The number of this process in its run, from 0; only the first one writes and prints."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    """The number of processes of the run, once they are connected."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@contextmanager
def failures_explained() -> Iterator[None]:
    """Say in plain words which process of the run has failed in the `with` block.

    Raises:
        LostError: Another process has failed, so that the connection to it is broken.
        RunFailedError: This process has failed and is not the first, whose failures the run's folder records.
    """
    try:
        yield
    except (DivergedError, LostError):  # as in all processes
        raise
    except Exception as error:
        if world() > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise LostError("another process of the run has ended; if it printed a message, that says why") from error
        if rank():
            name = type(error).__name__
            raise RunFailedError(f"process {rank() + 1} of {world()} failed: {name}: {error}") from error
        raise


def result_of_first_process(function: Callable[[], T]) -> T:
    """The first process's result of a function, in all processes; if it raises there, the others exit silently."""
    results: list[T] = []
    try:
        if rank() == 0:
            results.append(function())
    finally:  # an error is raised after the others know of it
        results = gathered(results)[0]
    if not results:
        sys.exit(2)
    return results[0]


def highest(value: int) -> int:
    """The highest value of a number among all processes."""
    number = torch.tensor(int(value))
    if world() > 1:
        dist.all_reduce(number, dist.ReduceOp.MAX)
    return int(number)


def total(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, without a gradient; it does not wait for a GPU."""
    value = value.detach().clone()  # `all_reduce` writes into it
    if world() > 1:
        dist.all_reduce(value)
    return value


def gathered(item: T) -> list[T]:
    """The items of all processes, in the order of their numbers. A tensor in an item has to be on the CPU."""
    items: list[Any] = [item] * world()
    if world() > 1:
        dist.all_gather_object(items, item)
    return items


def interleaved(items: Iterable[T]) -> list[T]:
    """The items of all processes, which have equally many: the first of each, the second of each, ..."""
    return [*chain(*zip(*gathered([*items]), strict=True))]


def same_buffers(net: nn.Module) -> None:
    """Give a network the first process's statistics of batch norms, which differ where they are not synchronised."""
    if world() > 1:
        for buffer in net.buffers():
            dist.broadcast(buffer, 0)
