"""Compare this package with what people write, on this machine: `python -m fcnseg.benchmark model=wilson`."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from fcnseg.benchmark.process import call
from fcnseg.benchmark.tables import Figures, Tables, cases, markdown, measured, rows, tables
from fcnseg.cli import messages
from fcnseg.cli.arguments import parse
from fcnseg.cli.command import command
from fcnseg.cli.configs import compose, default_config
from fcnseg.data import check_whole_number
from fcnseg.machine.files import write_json, write_text


@command("benchmark")
def benchmark(cfg: DictConfig) -> None:
    """Measure and print tables; after every one, write all so far to `cfg.json` and, in Markdown, to a file beside it."""
    check_settings(cfg)
    from fcnseg import build  # which imports torch: a refused command need not wait for it
    from fcnseg.benchmark.growth import growth
    from fcnseg.benchmark.roofline import machine

    console, figures = messages.console(), {"The machine": [machine()]}
    kinds = {"gpu_day": gpu_day, "growth": growth, "augment": augment}
    measure = next((kind for key, kind in kinds.items() if cfg[key]), comparison)
    if not cfg.gpu_day:
        resolve(cfg)
        build.data(cfg).prepare_data()  # now, where its progress is seen and its errors are the user's
    elif cfg.json is None:
        cfg.json = "gpu_day.json"
    with console.status("measuring") as status:
        for number, found in enumerate(measure(cfg), 1):
            status.update(f"measuring; {number} done, the last for the table {', '.join(found)}")
            figures |= found
            if cfg.json is not None:
                write_json(Path(cfg.json), {"config": OmegaConf.to_container(cfg), **figures})
                write_text(Path(cfg.json).with_suffix(".md"), markdown(figures))
    console.print(*tables(figures))


def check_settings(cfg: DictConfig) -> None:
    """Refuse what cannot be measured.

    Raises:
        ValueError: A setting is out of its range, or does not go with another.
    """
    for key in ("repeats", "steps"):
        check_whole_number(key, cfg[key], 1)
    arms = default_config("benchmark").arms
    if unknown := set(cfg.arms) - set(arms):
        raise ValueError(f"arms: there is no arm {', '.join(sorted(unknown))}; wanted some of {', '.join(arms)}")
    if cfg.growth and cfg.choices.data != "shapes":
        raise ValueError(
            f"growth=true with data={cfg.choices.data}: wanted data=shapes, whose number of images can be set"
        )
    if len(kinds := [f"{key}=true" for key in ("gpu_day", "growth", "augment") if cfg[key]]) > 1:
        raise ValueError(f"{' and '.join(kinds)}: wanted one of them")
    given = parse(HydraConfig.get().overrides.task)
    if cfg.gpu_day and (chosen := [each.input_line for each in given if each.key_or_group in ("model", "experiment")]):
        raise ValueError(f"gpu_day=true trains every network and experiment: leave out {' '.join(map(str, chosen))}")


def resolve(cfg: DictConfig) -> DictConfig:
    """Make `cfg` one that another process can take, with the precision that this machine trains in, and give it back."""
    from fcnseg import build

    OmegaConf.resolve(cfg)
    cfg.trainer.precision = build.precision(cfg.trainer.precision, cfg.trainer.accelerator)
    return cfg


def comparison(cfg: DictConfig) -> Iterator[Tables]:
    """The arms in turns, their share of what the machine could do, and the parts by themselves."""
    from fcnseg.benchmark.arms import compare, first_steps, table
    from fcnseg.benchmark.parts import PARTS
    from fcnseg.benchmark.roofline import limits, operations

    (speeds,) = rows(partial(call, limits, cfg), {})
    if "failed" in speeds:
        yield {"The machine's limits": [speeds]}
    arms: list[Figures] = []  # with arms=[], only the parts are measured
    for arms in compare(cfg):
        yield {"Training: medians of turns": table(arms, speeds)}
    yield {"Seconds until the first step is done": first_steps(arms)}
    yield from measured("A step's operations", partial(call, operations, cfg))
    yield from measured("Parts", lambda part: call(PARTS[part], cfg), cases(part=PARTS))


def augment(cfg: DictConfig) -> Iterator[Tables]:
    """Every choice of `aug` beside a training step."""
    from fcnseg.benchmark.parts import augmentations

    choices = {name: cfg.copy() for name in GlobalHydra.instance().config_loader().get_group_options("aug")}
    for name in choices.keys() - {cfg.choices.aug}:  # the chosen one keeps what the command line sets of it
        choices[name].aug = compose(f"aug={name}").aug
    yield from measured("Augmentations of a batch", partial(call, augmentations, cfg, choices))


def gpu_day(cfg: DictConfig) -> Iterator[Tables]:
    """All that a GPU must show, of all networks."""
    import torch

    from fcnseg.benchmark.gpu_day import Day, measure

    settings = default_config("config")
    given = parse(HydraConfig.get().overrides.task)
    own = [str(each.input_line) for each in given if each.key_or_group.split(".")[0] in settings]
    on_gpu = cfg.trainer.accelerator != "cpu" and torch.cuda.is_available()
    with TemporaryDirectory() as folder:
        end = time.monotonic() + cfg.budget
        day = Day(lambda *overrides: resolve(compose(*overrides)), own, Path(folder), end, on_gpu)
        yield from measure(day)


if __name__ == "__main__":
    benchmark()
