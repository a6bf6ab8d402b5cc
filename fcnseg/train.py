"""Train a network: `python -m fcnseg.train model=wilson aug=flip`."""

from typing import cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from fcnseg.cli import messages
from fcnseg.cli.command import command
from fcnseg.cli.configs import default_values
from fcnseg.machine.processes import only_the_first_prints
from fcnseg.machine.signals import was_requeued
from fcnseg.results.result import Result
from fcnseg.results.summary import show
from fcnseg.runs.folder import Run
from fcnseg.settings.lightning import check_one_device
from fcnseg.settings.table import check_ranges


@command("config", from_python=True)
def train(cfg: DictConfig) -> float | None:
    """Train and test the run that `cfg` describes, or show it if it has finished; return its test mIoU."""
    prepare(cfg)
    run, console = Run.of(cfg, default_values), messages.console()
    with only_the_first_prints(cfg.trainer):
        result = finished(run, console) if run.is_finished(cfg) else trained(cfg, run, console)
        return show(result, run.path, console)


def prepare(cfg: DictConfig) -> None:
    """Refuse settings that make no sense, and resume a job that SLURM has started again: resume=never would start over.

    Raises:
        ValueError: A setting is out of its range, or the job of a sweep asks for several devices.
    """
    check_ranges(cfg)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        check_one_device(cfg.trainer)
    if was_requeued():
        cfg.resume = "auto"


def finished(run: Run, console: Console) -> Result:
    """The result of a finished run."""
    console.print("This run has finished; resume=never repeats it.")
    return cast(Result, run.result)


def trained(cfg: DictConfig, run: Run, console: Console) -> Result:
    """Train and test a run; return its result."""
    from fcnseg.fit import fit

    return fit(cfg, run, console, HydraConfig.get().overrides.task)


if __name__ == "__main__":
    train()
