"""The limits of the machine: its cores, and its memory, for which settings are to be lowered when a step needs too much."""

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

OUT_OF_MEMORY = (  # words in the RuntimeErrors of PyTorch, C++, CUDA, cuBLAS, cuDNN and oneDNN
    "can't allocate memory",
    "std::bad_alloc",
    "out of memory",
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "could not create a memory",
    "could not create a primitive",
    "unable to find an engine",
)


def cores() -> int:
    """The number of cores that this process may use, which taskset or a cluster may have limited."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS lacks it


@contextmanager
def limits_explained(batch_size: int, size: int | list[int], precision: str) -> Iterator[None]:
    """Say which settings to change if a batch in the `with` block takes too much memory, or is too small.

    Raises:
        MemoryError: There is too little memory.
        ValueError: Batch norm, or instance norm, is left with one value a channel.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" in str(error):
            raise ValueError(
                f"batch norm needs more than one value a channel, and data.batch_size={batch_size} at data.size={size} leaves"
                " one: raise either"
            ) from error
        if "more than 1 spatial element" in str(error):
            raise ValueError(f"instance norm needs more than one value a channel: raise data.size={size}") from error
        raise
    except (RuntimeError, MemoryError, OSError) as error:
        by_type = isinstance(error, MemoryError) or getattr(error, "errno", 0) == errno.ENOMEM
        if not by_type and not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        first_line, _, _ = str(error).partition("\n")
        smaller = "" if "16" in precision else ", or set trainer.precision=bf16-mixed"
        raise MemoryError(
            f"out of memory with data.batch_size={batch_size}, data.size={size}, trainer.precision={precision}: lower"
            " data.batch_size or compute it in parts with +trainer.accumulate_grad_batches=2, then lower data.size"
            f"{smaller} ({first_line})"
        ) from error


def keep_freed_memory() -> None:
    """Tell glibc to keep the memory that a step frees for the next step, instead of giving it back page by page.

    On the CPU this alone trains the FCN 1.4 times as fast. Without glibc, nothing happens.
    """
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # mallopt's parameters
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return
    for parameter, value in ((mmap_threshold, 2**30), (trim_threshold, 2**31 - 1), (top_pad, 2**26)):
        libc.mallopt(parameter, value)
