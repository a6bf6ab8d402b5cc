"""Train a network: `python -m fcnseg.train model=wilson aug=flip`."""

import sys
from functools import partial
from types import ModuleType

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from fcnseg.cli import messages
from fcnseg.cli.command import command
from fcnseg.cli.configs import usual_values
from fcnseg.errors import warn
from fcnseg.runs.folder import Run
from fcnseg.runs.settings import check_ranges
from fcnseg.signals import was_requeued


@command("config", can_sweep=True)
def train(cfg: DictConfig) -> float | None:
    """Train and test the run that `cfg` describes, or show it if it has finished; return its test mIoU."""
    check_ranges(cfg)
    if was_requeued():
        cfg.resume = "auto"  # resume=never would start over each time
    from fcnseg.fit import fit  # imports torch, which a refused command need not wait for
    from fcnseg.report.card import describe
    from fcnseg.runs.result import show

    run, console = Run.of(cfg, lambda: usual_values("config")), messages.console()
    for twin in run.twins(cfg):
        warn(f"{twin} is an unfinished run of these settings: name={twin.name} resumes it, {run.path.name} begins anew")
    if run.is_finished(cfg):
        run.close()
        console.print("This run has finished; resume=never repeats it.")
    else:
        settings = HydraConfig.get().overrides.task
        fit(cfg, run, console, partial(describe, settings=settings))
    result = run.result
    assert result is not None
    return show(result, run.path, console)


class _Callable(ModuleType):
    def __call__(self, *settings: str) -> Run:
        """`fcnseg.train("model=wilson", "aug=flip")`: what the command does, from Python; the run that it has trained."""
        return Run.of(train.in_python(*settings), dict)


sys.modules[__name__].__class__ = _Callable  # a module of this name cannot be beside a function of this name


if __name__ == "__main__":
    train()
