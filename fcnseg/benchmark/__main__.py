"""This package against what people write, on this machine: `python -m fcnseg.benchmark model=wilson`."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fcnseg.benchmark import tables
from fcnseg.benchmark.compare import Tell, compare
from fcnseg.benchmark.process import Plan, WorkerError, call
from fcnseg.cli.command import command, console
from fcnseg.files import write_json

ARMS = ("plain", "lightning", "fcnseg", "everything")
STARTS = {  # what an arm imports before anything else happens
    "plain": "torch, torchvision",
    "lightning": "torch, torchvision, torchmetrics, lightning",
    "fcnseg": "fcnseg.cli.command; fcnseg.cli.command.collect_rarely(); import fcnseg.fit",
}
GROWTH = {"images": (1, 4, 16), "size": (1, 2, 4), "batch_size": (1, 2, 4)}  # times what the config has
PARTS = {  # and where they are
    "operations": "operations",
    "data_path": "parts",
    "packing": "parts",
    "metrics": "parts",
    "loop": "loop",
}
QUICK = ("arms=[plain,lightning,fcnseg]", "repeats=1", "steps=2", "data.size=32", "data.batch_size=4")
QUICK_SHAPES = ("data=shapes", "data.source.train=8", "data.source.val=4")


@command("benchmark")
def benchmark(cfg: DictConfig) -> None:
    """Measure, print tables, and write the figures to `cfg.json`."""
    check(cfg)
    OmegaConf.resolve(cfg)
    screen = console()
    plan = Plan(cfg, cfg.repeats, cfg.steps, cfg.warmup)
    with screen.status("") as status:
        figures = growth(plan, status.update) if cfg.growth else comparison(plan, cfg, status.update)
    if cfg.growth:
        screen.print(*tables.growth(figures["growth"], figures["beyond_memory"]))
    else:
        screen.print(tables.arms(figures["arms"]), tables.cold(figures["arms"]))
    if figures.get("parts"):
        screen.print(tables.operations(figures["operations"]), tables.parts(figures["parts"]))
    if cfg.json is not None:
        write_json(Path(cfg.json), {"config": OmegaConf.to_container(cfg), **figures})


def check(cfg: DictConfig) -> None:
    """Refuse what cannot be measured.

    Raises:
        ValueError: a setting out of its range.
    """
    for key in ("repeats", "steps", "warmup"):
        if cfg[key] < 1:
            raise ValueError(f"{key}={cfg[key]}: wanted a whole number from 1 up")
    if strange := set(cfg.arms) - set(ARMS):
        raise ValueError(
            f"arms={list(cfg.arms)}: no arm {', '.join(sorted(strange))}; wanted some of {', '.join(ARMS)}"
        )
    if cfg.growth and "train" not in cfg.data.source:
        raise ValueError("growth=true wants a data set of any size: data=shapes")
    least = 2 * max(GROWTH["batch_size"]) * cfg.data.batch_size  # two batches of the largest
    if cfg.growth and cfg.data.source.train < least:
        raise ValueError(
            f"data.source.train={cfg.data.source.train}: growth=true wants {least} images of train, or more"
        )


def comparison(plan: Plan, cfg: DictConfig, tell: Tell) -> dict[str, Any]:
    """The arms in turns, their share of the machine's limit, and the parts by themselves."""
    tell("the machine's limits")
    limits = call("fcnseg.benchmark.parts:limits", plan)
    on_gpu = limits.pop("device") == "cuda"
    plan = replace(plan, syncs=on_gpu)
    cfg.trainer.max_epochs = plan.blocks
    arms = compare(plan, cfg.arms, tell)
    tell("the machine's limits, again")  # a busy moment must not pass for the machine's limit
    again = call("fcnseg.benchmark.parts:limits", plan)
    limits = {name: max(limits[name], again[name], key=lambda limit: limit["images_per_s"]) for name in limits}
    for name, figures in arms.items():
        if "failed" not in figures:
            figures["cold"] = {"start": None if cfg.quick else start_seconds(name), **figures["cold"]}
            figures["roofline"] = figures["images_per_s"] / limits[figures["precision"]]["images_per_s"]
    figures = {"arms": arms, "limits": limits}
    if not cfg.parts:
        return figures
    parts: dict[str, Any] = {}
    for part, module in PARTS.items():
        tell(part.replace("_", " "))
        parts[part] = _or_failure(f"fcnseg.benchmark.{module}:{part}", plan)
    return {**figures, "operations": parts.pop("operations"), "parts": parts}


def start_seconds(arm: str) -> float:
    """Seconds until a fresh Python has imported what an arm needs, the second time: the first compiles it."""
    with TemporaryDirectory() as cache:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache, "PYTHONDONTWRITEBYTECODE": ""}
        for _ in range(2):
            start = time.perf_counter()
            command = [sys.executable, "-c", f"import {STARTS.get(arm, STARTS['fcnseg'])}"]
            subprocess.run(command, env=environment, check=True)
            seconds = time.perf_counter() - start
    return seconds


def growth(plan: Plan, tell: Tell) -> dict[str, Any]:
    """Whole epochs of more and more images, of larger ones and of larger batches, and a pack larger than the memory."""
    data = plan.cfg.data
    rows = []
    for growing, factors in GROWTH.items():
        for factor in factors:
            point = plan.cfg.copy()
            node = point.data.source if growing == "images" else point.data
            key = "train" if growing == "images" else growing
            node[key] = factor * node[key]
            tell(f"{growing} x {factor}")
            setting = {"growing": growing, "size": point.data.size, "batch_size": point.data.batch_size}
            rows.append({**setting, **_or_failure("fcnseg.benchmark.growth:epoch", replace(plan, cfg=point))})
    tell(f"a pack larger than the memory, {data.size} px")
    return {"growth": rows, "beyond_memory": _or_failure("fcnseg.benchmark.growth:beyond_memory", plan)}


def _or_failure(work: str, plan: Plan) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = call(work, plan)
    except WorkerError as error:
        return {"failed": str(error)}
    return answer


def spell_out(args: list[str]) -> list[str]:
    """The command line with `quick` spelt out as the settings that it stands for, before all others, which win."""
    if not {"--quick", "quick=true"} & set(args):
        return args
    shapes = () if any(arg.startswith("data=") for arg in args) else QUICK_SHAPES
    return ["quick=true", *shapes, *QUICK, *(arg for arg in args if arg not in ("--quick", "quick=true"))]


if __name__ == "__main__":
    sys.argv[1:] = spell_out(sys.argv[1:])
    benchmark()
