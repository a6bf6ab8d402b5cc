"""Compare this package with what people write, on this machine: `python -m fcnseg.benchmark model=wilson`."""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf

from fcnseg.benchmark.process import Figures, Show, call
from fcnseg.benchmark.tables import markdown, tables
from fcnseg.cli import messages
from fcnseg.cli.command import command
from fcnseg.cli.configs import default_config
from fcnseg.data import check_whole_number, spelled
from fcnseg.machine.files import write_json, write_text

Tables = dict[str, list[Figures]]  # rows by the title of their table
OURS = "fcnseg.cli.command; fcnseg.cli.command.prepare_process(); import fcnseg.fit"
IMPORTS = {  # by every arm, before anything else happens
    "plain": "torch, torchvision",
    "lightning": "torch, torchvision, torchmetrics, lightning",
    "fcnseg": OURS,
    "alternative": OURS,
    "everything": OURS,
}
FACTORS = {"data.source.train": (1, 4, 16), "data.size": (1, 2, 4), "data.batch_size": (1, 2, 4)}  # times the config's


@command("benchmark")
def benchmark(cfg: DictConfig) -> None:
    """Measure and print tables; after every one, write all so far to `cfg.json` and, in Markdown, to a file beside it."""
    check_settings(cfg)
    from fcnseg.benchmark.parts import machine  # imports torch, which a refused command need not wait for

    console, figures = messages.console(), {"The machine": [machine()]}
    if cfg.gpu_day and cfg.json is None:
        cfg.json = "gpu_day.json"
    with console.status("") as status:
        kinds = {"gpu_day": gpu_day, "growth": growth, "augment": augment}
        measure = next((kind for key, kind in kinds.items() if cfg[key]), comparison)
        for measured in measure(cfg, status.update):
            figures |= measured
            if cfg.json is not None:
                write_json(Path(cfg.json), {"config": OmegaConf.to_container(cfg), **figures})
                write_text(Path(cfg.json).with_suffix(".md"), markdown(figures))
    console.print(*tables(figures))


def check_settings(cfg: DictConfig) -> None:
    """Refuse what cannot be measured.

    Raises:
        ValueError: A setting is out of its range.
    """
    for key in ("repeats", "steps"):
        check_whole_number(key, cfg[key], 1)
    if unknown := set(cfg.arms) - IMPORTS.keys():
        raise ValueError(f"arms: there is no arm {', '.join(sorted(unknown))}; wanted some of {', '.join(IMPORTS)}")
    if cfg.growth and cfg.choices.data != "shapes":
        raise ValueError(
            f"growth=true with data={cfg.choices.data}: wanted data=shapes, whose number of images can be set"
        )


def resolve(cfg: DictConfig, *, prepare: bool = True) -> DictConfig:
    """Make `cfg` one that another process can take, with the precision that this machine trains in.

    Args:
        cfg: The config, which is changed and given back.
        prepare: Whether the data set is packed as well.
    """
    from fcnseg import build

    OmegaConf.resolve(cfg)
    cfg.trainer.precision = build.precision(cfg.trainer.precision, cfg.trainer.accelerator)
    if prepare:  # now, where its progress is seen and its errors are the user's
        build.data(cfg).prepare_data()
    return cfg


def comparison(cfg: DictConfig, show: Show) -> Iterator[Tables]:
    """The arms in turns, their share of what the machine could do, and the parts by themselves."""
    from fcnseg.benchmark.arms import compare, table
    from fcnseg.benchmark.parts import PARTS, limits, operations

    resolve(cfg)
    show("the machine's limits")
    speeds = call(limits, cfg)
    arms = compare(cfg, show)
    yield {"Training: medians of turns": table(arms, speeds)}
    cold = []
    for name, stages in ((name, arm["cold"]) for name, arm in arms.items() if "cold" in arm):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {IMPORTS[name]}"], check=True)
        stages = {"start": time.perf_counter() - start, **stages}
        cold.append({"arm": name, **stages, "all": sum(stages.values())})
    yield {"Seconds until the first step is done": cold}
    show("a step's operations")
    rows = call(operations, cfg)
    yield {"A step's operations": rows if isinstance(rows, list) else [rows]}
    parts: list[Figures] = []
    for name, part in PARTS.items():
        show(name)
        parts.append({"part": name, **call(part, cfg)})
        yield {"Parts": parts}


def growth(cfg: DictConfig, show: Show) -> Iterator[Tables]:
    """Epochs of more and more images, of larger ones and of larger batches, and a pack larger than the memory."""
    from fcnseg.benchmark.parts import beyond_memory, epoch

    resolve(cfg)
    rows: list[Figures] = []
    for key, factor in ((key, factor) for key, factors in FACTORS.items() for factor in factors):
        show(growing := f"{key} x {factor}")
        point = cfg.copy()
        value = OmegaConf.select(cfg, key)
        OmegaConf.update(
            point, key, [factor * side for side in value] if isinstance(value, ListConfig) else factor * value
        )
        rows.append({"growing": growing, **epoch(point)})
        yield {"Growth of a training epoch; data MB: memory beyond that of as many steps on two batches": rows}
    show(f"a pack larger than the memory, {spelled(cfg.data.size)} px")
    yield {"A pack larger than the memory": [call(beyond_memory, cfg)]}


def augment(cfg: DictConfig, show: Show) -> Iterator[Tables]:
    """Every choice of `aug` beside a training step."""
    from fcnseg.benchmark.parts import augmentations

    given = [word for word in HydraConfig.get().overrides.task if word.lstrip("+~").partition("=")[0] != "aug"]
    choices = {
        name: hydra.compose("benchmark", overrides=[*given, f"aug={name}"])
        for name in GlobalHydra.instance().config_loader().get_group_options("aug")
    }
    resolve(cfg)
    for choice in choices.values():
        resolve(choice, prepare=False)
    show(f"{len(choices)} augmentations")
    rows = call(augmentations, cfg, choices)
    yield {"Augmentations of a batch": rows if isinstance(rows, list) else [rows]}


def gpu_day(cfg: DictConfig, show: Show) -> Iterator[Tables]:
    """All that a GPU must show, of all networks.

    Raises:
        ValueError: A network or an experiment was chosen.
    """
    from fcnseg.benchmark.gpu_day import Day, measure

    def compose(overrides: Sequence[str]) -> DictConfig:
        return resolve(hydra.compose("benchmark", overrides=list(overrides)), prepare=False)

    given = {override: override.partition("=")[0] for override in HydraConfig.get().overrides.task}
    if chosen := [override for override, key in given.items() if key in ("model", "experiment")]:
        raise ValueError(f"gpu_day=true trains every network and experiment: leave out {' '.join(chosen)}")
    theirs = default_config("config")
    own = [override for override, key in given.items() if key.lstrip("+").split(".")[0] in theirs]
    with TemporaryDirectory() as folder:
        yield from measure(Day(compose, own, folder=Path(folder), seconds=cfg.budget), show)


if __name__ == "__main__":
    benchmark()
