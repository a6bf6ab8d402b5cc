"""The cores that a process may use: as many threads decode images, draw them or write them."""

import os


def cores() -> int:
    """The number of cores that this process may use, which taskset or a cluster may have limited."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS lacks it
