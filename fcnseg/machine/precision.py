"""Whether bfloat16 is the faster precision on a device: measured on a CPU, since its instructions do not show it."""

import platform
import statistics
import time
from functools import cache
from pathlib import Path

import torch
from filelock import FileLock
from torch import nn

from fcnseg.machine.files import read_json, user_cache, write_json

# How much faster bfloat16 must be to be taken: it is either much faster or slower, so that noise cannot decide.
LEAST_GAIN = 1.3
MOST_TURNS = 9  # the turns of a measurement that are counted; one before them only prepares


def bf16_wins(device: str) -> bool:
    """Whether networks train faster in bfloat16 than in float32 on a type of devices, "cpu" or "cuda".

    A GPU says so by itself. Among CPUs that multiply bfloat16 it takes from half to one and a half times as long, which is
    measured once for each processor, number of threads and version of torch, and kept in the user's cache.
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device == "cpu" and bf16_gain(torch.get_num_threads()) >= LEAST_GAIN


@cache
def bf16_gain(threads: int) -> float:
    """The speed of convolutions in bfloat16 over that in float32, on this CPU; 0 if it cannot multiply bfloat16."""
    instructions = torch.cpu.get_capabilities()
    if not (instructions.get("avx512_bf16") or instructions.get("amx_bf16")):
        return 0.0
    here = f"{processor()}, {threads} threads, torch {torch.__version__}"
    try:
        path = user_cache() / "precision.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            known = _known(path)
            if here not in known:
                known[here] = _measured()
                write_json(path, known)
        return known[here]
    except (OSError, ValueError):  # there is no place to keep it
        return _measured()


def processor() -> str:
    """The name of the CPU."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8", errors="replace") if info.exists() else ""
    return text.partition("model name\t: ")[2].partition("\n")[0] or platform.processor()


def _known(path: Path) -> dict[str, float]:
    try:
        return {here: float(gain) for here, gain in (read_json(path) or {}).items()}
    except (ValueError, TypeError):  # damaged: it is measured anew
        return {}


@torch.inference_mode(False)  # a network that is loaded to predict also measures
@torch.enable_grad()
def _measured() -> float:
    """Time a convolution and a transposed one forward and backward, in turns of both precisions: half a second."""
    with torch.random.fork_rng(devices=[]):  # a run that measures draws the numbers of one that does not
        layers = (nn.Conv2d(64, 64, 3, padding=1), nn.ConvTranspose2d(64, 32, 3, stride=2, padding=1, output_padding=1))
        net = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        image = torch.randn(1, 64, 40, 40).contiguous(memory_format=torch.channels_last)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    start = time.perf_counter()
    for turn in range(MOST_TURNS + 1):
        if turn > 3 and time.perf_counter() - start > 1:  # the machine is busy with other work
            break
        for in_bf16, times in seconds.items():
            began = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
                loss = net(image).sum()
            loss.backward()
            times.append(time.perf_counter() - began)
    full, half = (statistics.median(times[1:]) for times in seconds.values())  # the first turn prepares both
    return round(full / half, 2)
