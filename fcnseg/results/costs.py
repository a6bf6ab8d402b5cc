"""The costs of a network: its multiplications, its speed and its memory."""

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fcnseg.data.settings import Size, sides

PEAK = Path("/proc/self/clear_refs")  # writing a 5 to it makes Linux forget the peak of this process's memory


def giga_macs(net: nn.Module, size: Size) -> float | None:
    """Billions of multiplications with additions for an image of this size; None if they cannot be counted.

    The count uses a copy of the network on torch's meta device, whose tensors have no values and cost no memory or time.
    """
    bare: dict[int, object] = {id(value): value.detach().to("meta") for value in (*net.parameters(), *net.buffers())}
    with suppress(Exception), torch.inference_mode(), FlopCounterMode(display=False) as counter:  # the network may be any
        deepcopy(net, bare).eval()(torch.empty(1, 3, *sides(size), device="meta"))
        return float(counter.get_total_flops()) / 2e9  # a multiplication and an addition are two operations
    return None


@contextmanager
def timed(net: nn.Module) -> Iterator[list[tuple[int, float]]]:
    """Collect the images and the seconds of every forward pass of a network in the `with` block."""
    passes: list[tuple[int, float]] = []
    began = 0.0

    def begin(_: nn.Module, images: tuple[Tensor, ...]) -> None:
        nonlocal began
        began = now(images[0].device)

    def end(_: nn.Module, images: tuple[Tensor, ...], logits: Tensor) -> None:
        passes.append((len(logits), now(logits.device) - began))

    hooks = (net.register_forward_pre_hook(begin), net.register_forward_hook(end))
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()


def images_per_second(passes: Sequence[tuple[int, float]]) -> float | None:
    """The speed of passes that `timed` collected, in this process; the first of several is slower and left out.

    None without a pass: of several processes, one may have no image.
    """
    counted = passes[1:] or passes
    return round(sum(images for images, _ in counted) / sum(seconds for _, seconds in counted), 2) if counted else None


def now(device: torch.device) -> float:
    """The time in seconds, read when `device` has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def forget_peak(device: torch.device) -> None:
    """Reset the value of `peak_memory`: runs of a sweep may share a process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):  # only Linux has the file
        PEAK.write_text("5")


def peak_memory(device: torch.device) -> int:
    """The most bytes used since `forget_peak`: of the GPU's memory; on a CPU, of this process's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
