"""Compare this package with what people write, on this machine: `python -m fcnseg.benchmark model=wilson`."""

import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from fcnseg.benchmark.tables import Tables, call, cases, markdown, measured, rows, tables
from fcnseg.cli import messages
from fcnseg.cli.arguments import parse
from fcnseg.cli.command import command
from fcnseg.cli.configs import compose, default_config
from fcnseg.errors import check_whole_number
from fcnseg.machine.files import write_json, write_text

# What each measurement is called in messages, and a pattern of the settings that, like `UNUSED`, have no effect on it.
MODES = {
    "gpu_day": ("with gpu_day=true, which trains every network and experiment", "arms|repeats|steps|model|experiment|debug"),
    "growth": ("with growth=true", r"arms|repeats|steps|budget|patience|trainer\.max_epochs"),
    "arms": ("on a comparison of arms", r"budget|patience|trainer\.max_epochs"),
}
UNUSED = r"resume|name|runs|logger\b.*"  # no training of the benchmark is resumed, named, kept or logged
# The settings that growth=true multiplies, each with its factors.
FACTORS = {"data.source.train": (1, 4, 16), "data.size": (1, 2, 4), "data.batch_size": (1, 2, 4)}


@command("benchmark")
def benchmark(cfg: DictConfig) -> None:
    """Measure and print tables; after every one, write all so far to `cfg.json` and, in Markdown, to a file beside it."""
    mode = check_settings(cfg)
    from fcnseg import build
    from fcnseg.benchmark.step import machine

    console, figures = messages.console(), {"The machine": [machine()]}
    if cfg.gpu_day:
        cfg.json = cfg.json or "gpu_day.json"
    else:
        build.data(resolve(cfg)).prepare_data()  # not in another process: here, its progress and its errors are seen
    measure = {"gpu_day": gpu_day, "growth": growth, "arms": comparison}[mode]
    with console.status("measuring") as status:
        for number, found in enumerate(measure(cfg), 1):
            status.update(f"measuring; {number} done, the last for the table {', '.join(found)}")
            figures |= found
            if cfg.json is not None:
                write_json(Path(cfg.json), {"config": OmegaConf.to_container(cfg), **figures})
                write_text(Path(cfg.json).with_suffix(".md"), markdown(figures))
    console.print(*tables(figures))


def check_settings(cfg: DictConfig) -> str:
    """Refuse what cannot be measured; return the mode, one of `MODES`.

    Raises:
        ValueError: A setting is out of its range, contradicts another, or has no effect.
    """
    for key in ("repeats", "steps"):
        check_whole_number(key, cfg[key], 1)
    arms = default_config("benchmark").arms
    if unknown := set(cfg.arms) - set(arms):
        raise ValueError(f"arms: there is no arm {', '.join(sorted(unknown))}; wanted some of {', '.join(arms)}")
    if cfg.growth and cfg.gpu_day:
        raise ValueError("growth=true and gpu_day=true: wanted one of them")
    if cfg.growth and cfg.choices.data != "shapes":
        raise ValueError(f"growth=true with data={cfg.choices.data}: wanted data=shapes, whose number of images can be set")
    mode = "gpu_day" if cfg.gpu_day else "growth" if cfg.growth else "arms"
    where, unused = MODES[mode]
    for override in parse(HydraConfig.get().overrides.task):
        if re.fullmatch(f"{unused}|{UNUSED}", override.key_or_group):
            raise ValueError(f"{override.input_line} has no effect {where}: leave it out")
    return mode


def resolve(cfg: DictConfig) -> DictConfig:
    """Make `cfg` fit for another process, with the precision that this machine trains in, and return it.

    Loggers are left out: they would write into the folder of a run, and there is no run.

    Raises:
        ValueError: This machine cannot train in the precision of `cfg`.
    """
    from fcnseg import build
    from fcnseg.settings.parameters import check_parameters

    cfg.logger = {}
    OmegaConf.resolve(cfg)
    check_parameters(cfg)
    build.check_device(cfg.trainer)
    cfg.trainer.precision = build.precision(cfg.trainer.precision, cfg.trainer.accelerator)
    return cfg


def comparison(cfg: DictConfig) -> Iterator[Tables]:
    """The arms in turns, their share of what the machine could do, and the parts by themselves."""
    from fcnseg.benchmark.arms import take_turns, train
    from fcnseg.benchmark.parts import PARTS
    from fcnseg.benchmark.step import limits, operations

    (speeds,) = rows(partial(call, limits, cfg), {})  # if that fails, the arms are still compared with one another
    if "failed" in speeds:
        yield {"The machine's limits": [speeds]}
    for arms in take_turns(list(cfg.arms), partial(call, train, cfg, steps=cfg.steps), speeds, cfg.repeats):
        yield {"Training: medians of turns": arms}
    yield from measured("A step's operations", partial(call, operations, cfg))
    yield from measured("Parts", lambda part: call(PARTS[part], cfg), cases(part=PARTS))


def growth(cfg: DictConfig) -> Iterator[Tables]:
    """Epochs of more and more images, of larger ones, and of larger batches."""
    from fcnseg.benchmark.arms import epoch

    points = {}
    for key, factors in FACTORS.items():
        value = OmegaConf.select(cfg, key)
        for factor in factors:
            point = points[f"{key} x {factor}"] = cfg.copy()
            OmegaConf.update(point, key, factor * value if isinstance(value, int) else [factor * side for side in value])
    title = "Growth of a training epoch; data MB: memory beyond that of as many steps on two batches"
    yield from measured(title, lambda growing: epoch(points[growing]), cases(growing=points))


def gpu_day(cfg: DictConfig) -> Iterator[Tables]:
    """All measurements for a GPU, of all networks."""
    import torch

    from fcnseg.benchmark.gpu_day import Day, measure

    given, own = parse(HydraConfig.get().overrides.task), default_config("config")
    training = [str(each.input_line) for each in given if each.key_or_group.split(".")[0] in own]
    on_gpu = cfg.trainer.accelerator != "cpu" and torch.cuda.is_available()
    with TemporaryDirectory() as folder:
        end = time.monotonic() + cfg.budget
        yield from measure(Day(lambda *given: resolve(compose(*given)), training, Path(folder), end, on_gpu))


if __name__ == "__main__":
    benchmark()
