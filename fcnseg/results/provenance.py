"""The origin of a result: code, versions, hardware and checkpoint."""

import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fcnseg.machine.files import sha256
from fcnseg.results.result import Code, Origin

if TYPE_CHECKING:
    from lightning import Trainer  # its import takes seconds, and reading a run does not need it

PACKAGES = ("fcnseg", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core")


def code() -> Code:
    """The commit of this package's checkout, and whether files differ from it; None without git or a checkout."""
    status = _git("status", "--porcelain")
    return {"commit": _git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def surroundings(trainer: "Trainer") -> dict[str, Any]:
    """The device, the threads, the precision and the versions, on which the last digits of a run's numbers depend."""
    device = trainer.strategy.root_device
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    cpu = f"CPU with {torch.backends.cpu.get_cpu_capability()}"  # the instructions that PyTorch's operations use
    several = f"{trainer.world_size} x " if trainer.world_size > 1 else ""
    return {
        "device": several + {"cuda": gpu, "cpu": cpu}.get(device.type, str(device)),
        "threads": torch.get_num_threads(),
        "precision": str(trainer.precision),
        "versions": {package: _version(package) for package in PACKAGES},
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The changes of the `surroundings` and the `code` since `before`, in words."""
    pairs = [(key, before.get(key), value) for key, value in now.items() if key != "versions"]
    pairs += [(name, before["versions"].get(name), value) for name, value in now["versions"].items()]
    return [f"{key} {new} (before: {old})" for key, old, new in pairs if old != new]


def origin(trainer: "Trainer", checkpoint: Path) -> Origin:
    """The versions, the hardware, the precision and the checkpoint behind a result."""
    here = surroundings(trainer)
    device = here["device"]
    return {
        "precision": here["precision"],
        "versions": here["versions"],
        "hardware": f"{device.partition(' with')[0]}, {here['threads']} threads" if "CPU with" in device else device,
        "checkpoint": {"file": checkpoint.name, "sha256": sha256(checkpoint)},
    }


def _version(package: str) -> str | None:
    """The installed version; None for this package in a checkout that is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*command: str) -> str | None:
    """The answer of git in this package's own checkout; None without git, or if the package is installed elsewhere."""
    checkout = Path(__file__).parents[2]
    if not (checkout / "pyproject.toml").exists():  # an environment may be inside another repository
        return None
    try:
        run = subprocess.run(["git", *command], cwd=checkout, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()
