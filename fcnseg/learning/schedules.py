"""Schedules of the learning rate that are updated after every step, and a warm-up for any schedule."""

from collections.abc import Callable
from inspect import signature
from math import inf
from typing import Any

from lightning.pytorch.utilities.types import LRSchedulerConfigType
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, PolynomialLR, ReduceLROnPlateau

from fcnseg.errors import check_number


def poly(optimizer: Optimizer, *, steps: int, power: float) -> PolynomialLR:
    """The learning rate times (1 - the share of steps done) to the power of `power`.

    Raises:
        ValueError: `power` is below 0: the learning rate would grow without bound.
    """
    check_number("schedule.power", power, 0, inf)
    return PolynomialLR(optimizer, total_iters=steps, power=power)


def onecycle(
    optimizer: Optimizer,
    *,
    steps: int,
    pct_start: float,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    cycle_momentum: bool = True,
) -> OneCycleLR:
    """Torch's OneCycleLR, whose highest learning rates are those of the optimiser.

    Raises:
        ValueError: `pct_start` is not a share, or there are too few steps for it.
    """
    check_number("schedule.pct_start", pct_start, 0, 1)
    if pct_start * steps == 1:  # OneCycleLR divides by zero
        raise ValueError(f"schedule.pct_start={pct_start} is one step of the run's {steps}: wanted a larger share")
    return OneCycleLR(
        optimizer,
        [group["lr"] for group in optimizer.param_groups],
        total_steps=steps,
        pct_start=pct_start,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
        cycle_momentum=cycle_momentum,
    )


class Warmup(LRScheduler):
    """A warm-up before another schedule: the learning rates rise from 0 to the schedule's in equal steps.

    It multiplies the other schedule's learning rates by a factor, so that any schedule may begin with a warm-up.

    Args:
        schedule: The schedule whose learning rates are scaled.
        steps: The number of steps of the warm-up; the last one is the first with the whole learning rate.
        every: The number of steps between two updates of the other schedule.
    """

    def __init__(self, schedule: LRScheduler, *, steps: int, every: int) -> None:
        # Without LRScheduler's own start, which would take a first step: the other schedule has taken it.
        self.schedule, self.steps, self.every = schedule, steps, every
        self.optimizer = schedule.optimizer
        self.last_epoch = 0
        self._set(1 / steps)

    def step(self, epoch: int | None = None) -> None:
        """Set the learning rates for the next step of the training."""
        self._set(1)  # the rates that the other schedule set and may compute from
        self.last_epoch += 1
        if self.last_epoch % self.every == 0:
            self.schedule.step()
        self._set(min(1, (self.last_epoch + 1) / self.steps))

    def _set(self, share: float) -> None:
        self._last_lr = [lr * share for lr in self.schedule.get_last_lr()]
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = lr

    def state_dict(self) -> dict[str, Any]:
        """The number of steps done, and the state of the other schedule."""
        return {"last_epoch": self.last_epoch, "last_lr": self._last_lr, "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from `state_dict`."""
        self.last_epoch, self._last_lr = state_dict["last_epoch"], state_dict["last_lr"]
        self.schedule.load_state_dict(state_dict["schedule"])


def scheduled(
    optimizer: Optimizer,
    epochs: int,
    epoch_steps: int,
    *,
    make: Callable[..., LRScheduler],
    warmup: float | None = None,
) -> LRSchedulerConfigType:
    """The schedule of a run, and whether it is updated every step or every epoch, in the form that Lightning takes.

    Args:
        optimizer: The optimiser whose learning rates are changed.
        epochs: The epochs of the run.
        epoch_steps: The steps of an epoch.
        make: Makes the schedule from the optimiser. If it takes `steps`, it gets the number of steps of the run, and the
            schedule is updated every step; else every epoch.
        warmup: The number of steps of the warm-up or, if below 1, their share of all steps; None or 0 for no warm-up.

    Raises:
        ValueError: The warm-up is as long as the run, or the schedule waits for a score.
    """
    by_step, steps = "steps" in signature(make).parameters, epochs * epoch_steps
    schedule = make(optimizer, steps=steps) if by_step else make(optimizer)
    if isinstance(schedule, ReduceLROnPlateau):
        raise ValueError(
            "schedule._target_: ReduceLROnPlateau waits for a score, and gets none; wanted one that counts steps or epochs"
        )
    if warmup:
        rising = max(1, round(warmup * steps)) if warmup < 1 else int(warmup)
        if rising >= steps:
            raise ValueError(f"schedule.warmup={warmup}: the run has {steps} steps; wanted fewer, or a share below 1")
        schedule = Warmup(schedule, steps=rising, every=1 if by_step else epoch_steps)
    return {"scheduler": schedule, "interval": "step" if by_step or warmup else "epoch"}
