"""Train a network: `python -m fcnseg.train model=wilson aug=flip`."""

import sys
from functools import partial
from types import ModuleType

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from fcnseg.cli import messages
from fcnseg.cli.command import command
from fcnseg.cli.configs import default_values
from fcnseg.machine import processes
from fcnseg.machine.signals import was_requeued
from fcnseg.runs.folder import Run
from fcnseg.runs.settings import check_ranges
from fcnseg.runs.trainer_settings import check_one_device


@command("config", can_sweep=True)
def train(cfg: DictConfig) -> float | None:
    """Train and test the run that `cfg` describes, or show it if it has finished; return its test mIoU."""
    check_ranges(cfg)
    if was_requeued():
        cfg.resume = "auto"  # resume=never would start over each time
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        check_one_device(cfg.trainer)
    rank = processes.rank_before_connecting(cfg.trainer)
    with processes.silent_unless_first(rank):
        return _train(cfg, is_first=rank == 0)


def _train(cfg: DictConfig, *, is_first: bool) -> float | None:
    from fcnseg.fit import fit  # imports torch, which a refused command need not wait for
    from fcnseg.report.card import describe
    from fcnseg.runs.summary import show

    run, console = Run.of(cfg, default_values), messages.console()
    if run.is_finished(cfg):
        if is_first:
            run.close()
        console.print("This run has finished; resume=never repeats it.")
    else:
        settings = HydraConfig.get().overrides.task
        fit(cfg, run, console, partial(describe, settings=settings))
    if not is_first:
        return None
    result = run.result
    assert result is not None
    return show(result, run.path, console)


class _Callable(ModuleType):
    def __call__(self, *settings: str) -> Run:
        """`fcnseg.train("model=wilson", "aug=flip")`: what the command does, from Python; the run that it has trained."""
        return Run.of(train.in_python(*settings), dict)


# Once this module is imported, `fcnseg.train` is the module, so the module itself can be called.
sys.modules[__name__].__class__ = _Callable


if __name__ == "__main__":
    train()
