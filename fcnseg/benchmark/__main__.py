"""Compare this package with what people write, on this machine: `python -m fcnseg.benchmark model=wilson`."""

import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from timeit import repeat

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from fcnseg.benchmark.process import Figures, Show, call
from fcnseg.benchmark.tables import tables
from fcnseg.cli.command import command
from fcnseg.cli.configs import default_config
from fcnseg.cli.messages import console
from fcnseg.data import check_whole_number
from fcnseg.files import write_json, write_text

OURS = "fcnseg.cli.command; fcnseg.cli.command.collect_rarely(); import fcnseg.fit"
IMPORTS = {  # by every arm, before anything else happens
    "plain": "torch, torchvision",
    "lightning": "torch, torchvision, torchmetrics, lightning",
    "fcnseg": OURS,
    "everything": OURS,
}
FACTORS = {"data.source.train": (1, 4, 16), "data.size": (1, 2, 4), "data.batch_size": (1, 2, 4)}  # times the config's
QUICK = ("arms=[plain,lightning,fcnseg]", "repeats=1", "steps=2", "data.size=32", "data.batch_size=4")
SHAPES = ("data=shapes", "choices.data=shapes", "data.source.train=8", "data.source.val=4")


@command("benchmark")
def benchmark(cfg: DictConfig) -> None:
    """Measure, print tables, and write the figures to `cfg.json`."""
    if cfg.quick:
        cfg = hydra.compose("benchmark", overrides=quick(HydraConfig.get().overrides.task))
    check(cfg)
    if cfg.gpu_day:
        gpu_day(cfg)
        return
    from fcnseg import build  # imports torch, which a refused command need not wait for

    cfg = decided(cfg)
    build.data(cfg).prepare_data()  # now, where its progress is seen and its errors are the user's
    screen = console()
    with screen.status("") as status:
        figures = (growth if cfg.growth else comparison)(cfg, status.update)
    screen.print(*tables(figures))
    if cfg.json is not None:
        write_json(Path(cfg.json), {"config": OmegaConf.to_container(cfg), **figures})


def gpu_day(cfg: DictConfig) -> None:
    """Measure what a GPU must show; after every row, write all so far to `cfg.json` and, as tables, to a file beside it.

    Raises:
        ValueError: A network or an experiment was chosen.
    """
    from fcnseg.benchmark.gpu_day import Day, gpu_day, machine
    from fcnseg.benchmark.tables import markdown

    def compose(overrides: Sequence[str]) -> DictConfig:
        return decided(hydra.compose("benchmark", overrides=list(overrides)))

    given = {override: override.partition("=")[0] for override in HydraConfig.get().overrides.task}
    if chosen := [override for override, key in given.items() if key in ("model", "experiment")]:
        raise ValueError(f"gpu_day=true trains every network and experiment: leave out {' '.join(chosen)}")
    theirs = default_config("config")
    own = [override for override, key in given.items() if key.lstrip("+").split(".")[0] in theirs]
    path, screen = Path(cfg.json or "gpu_day.json"), console()
    with TemporaryDirectory() as folder, screen.status("") as status:
        for figures in gpu_day(Day(compose, own, folder=Path(folder), seconds=cfg.budget), status.update):
            write_json(path, {"machine": machine(), **figures})
            write_text(path.with_suffix(".md"), markdown({"The machine": [machine()], **figures}))
    screen.print(path.with_suffix(".md").read_text(), soft_wrap=True, highlight=False, markup=False)


def decided(cfg: DictConfig) -> DictConfig:
    """`cfg` as another process can take it, with the precision that this machine trains in."""
    from fcnseg import build

    OmegaConf.resolve(cfg)
    cfg.trainer.precision = build.precision(cfg.trainer.precision, cfg.trainer.accelerator)
    return cfg


def quick(overrides: Sequence[str]) -> list[str]:
    """The overrides that `quick=true` stands for, then those of the command line, which win."""
    chosen = any(override.startswith("data=") for override in overrides)
    return [*(() if chosen else SHAPES), *QUICK, *overrides]


def check(cfg: DictConfig) -> None:
    """Refuse what cannot be measured.

    Raises:
        ValueError: A setting is out of its range.
    """
    for key in ("repeats", "steps"):
        check_whole_number(key, cfg[key], 1)
    if unknown := set(cfg.arms) - IMPORTS.keys():
        raise ValueError(f"arms: there is no arm {', '.join(sorted(unknown))}; wanted some of {', '.join(IMPORTS)}")
    images, least = cfg.data.source.get("train", 0), 3 * max(FACTORS["data.batch_size"]) * cfg.data.batch_size
    if cfg.growth and images < least:  # three of the largest batches: two to warm up, and one to time
        raise ValueError(
            f"growth=true with data={cfg.choices.data} and data.source.train={images}: wanted data=shapes, whose number of"
            f" images can be set, and data.source.train={least} or more"
        )


def comparison(cfg: DictConfig, show: Show) -> Figures:
    """The arms in turns, their share of what the machine could do, and the parts by themselves."""
    from fcnseg.benchmark.arms import compare
    from fcnseg.benchmark.parts import PARTS, limits

    show("the machine's limits")
    speeds = call(limits, cfg)
    arms = compare(cfg, speeds, show)
    for name, arm in arms.items():
        if "failed" not in arm and not cfg.quick:
            python = [sys.executable, "-c", f"import {IMPORTS[name]}"]
            start = min(repeat(partial(subprocess.run, python, check=True), number=1, repeat=2))
            arm["cold"] = {"start": start, **arm["cold"]}
    parts = {}
    for name, part in PARTS.items():
        show(name.replace("_", " "))
        parts[name] = call(part, cfg)
    return {"arms": arms, "limits": speeds, "operations": parts.pop("operations"), "parts": parts}


def growth(cfg: DictConfig, show: Show) -> Figures:
    """Epochs of more and more images, of larger ones and of larger batches, and a pack larger than the memory."""
    from fcnseg.benchmark.parts import beyond_memory, epoch

    rows = []
    for key, factors in FACTORS.items():
        for factor in factors:
            show(growing := f"{key} x {factor}")
            point = cfg.copy()
            OmegaConf.update(point, key, factor * OmegaConf.select(cfg, key))
            rows.append({"growing": growing, **epoch(point)})
    show(f"a pack larger than the memory, {cfg.data.size} px")
    return {"growth": rows, "beyond_memory": call(beyond_memory, cfg)}


if __name__ == "__main__":
    benchmark()
