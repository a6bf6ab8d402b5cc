"""Learning rates step by step, held against hand-worked ones and torch's own."""

import math
import warnings
from functools import partial

import pytest
import torch
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR, ReduceLROnPlateau

from fcnseg.learning.schedules import onecycle, poly, scheduled

pytestmark = pytest.mark.filterwarnings("ignore:Detected call of")  # nothing is optimised here


def optimizer_of(*rates, kind=SGD):
    return kind([{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in rates], lr=0)


def rates(optimizer, steps, config, every=1):
    """The rates of the groups in each step, where the schedule is stepped as Lightning would."""
    found = []
    for step in range(steps):
        found.append([group["lr"] for group in optimizer.param_groups])
        if config["interval"] == "step" or (step + 1) % every == 0:
            config["scheduler"].step()
    return found


def test_poly_comes_down_to_zero_after_the_last_step():
    optimizer = optimizer_of(8.0, 0.8)
    config = scheduled(optimizer, 2, 2, make=partial(poly, power=2.0))
    assert config["interval"] == "step"
    # (1 - s/4)^2
    assert rates(optimizer, 5, config) == [pytest.approx([x, x / 10]) for x in (8, 4.5, 2, 0.5, 0)]


@pytest.mark.parametrize("kind", [partial(SGD, momentum=0.9), AdamW])
def test_onecycle_is_torch_s_for_every_group(kind):
    optimizer, twin = optimizer_of(1.0, 0.1, kind=kind), optimizer_of(1.0, 0.1, kind=kind)
    config = scheduled(optimizer, 2, 5, make=partial(onecycle, pct_start=0.3))
    torchs = OneCycleLR(twin, [1.0, 0.1], total_steps=10)
    for _ in range(10):  # the step after the last as well
        for group, wanted in zip(optimizer.param_groups, twin.param_groups, strict=True):
            assert {**group, "params": 0} == {**wanted, "params": 0}
        config["scheduler"].step()
        torchs.step()
    assert config["interval"] == "step"


def test_onecycle_of_one_step_up_is_refused():
    with pytest.raises(ValueError, match=r"schedule\.pct_start=0\.5 .* larger share"):
        scheduled(optimizer_of(1.0, kind=AdamW), 1, 2, make=partial(onecycle, pct_start=0.5))


def test_a_warm_up_is_linear_and_ends_with_the_whole_rate():
    optimizer = optimizer_of(8.0)
    config = scheduled(optimizer, 4, 2, make=partial(LambdaLR, lr_lambda=lambda epoch: 1), warmup=4)
    assert config["interval"] == "step"
    assert rates(optimizer, 8, config) == [[x] for x in (2, 4, 6, 8, 8, 8, 8, 8)]


def test_a_warm_up_multiplies_the_schedule_after_it():
    optimizer = optimizer_of(4.0)
    config = scheduled(optimizer, 2, 2, make=partial(poly, power=1.0), warmup=2)
    assert rates(optimizer, 5, config) == [pytest.approx([x]) for x in (4 * 1 / 2, 3, 2, 1, 0)]


@pytest.mark.parametrize(("warmup", "steps"), [(3, 3), (0.25, 3), (0.01, 1), (1, 1)])
def test_a_cosine_with_a_warm_up_stays_a_step_an_epoch(warmup, steps):
    optimizer, twin = optimizer_of(1.0), optimizer_of(1.0)
    make = partial(CosineAnnealingLR, T_max=4, eta_min=0.125)  # not a mere factor of the rate
    found = rates(optimizer, 12, scheduled(optimizer, 4, 3, make=make, warmup=warmup))
    plain = scheduled(twin, 4, 3, make=make)
    assert plain["interval"] == "epoch"
    paper_s = rates(twin, 12, plain, every=3)
    assert paper_s[3] == [pytest.approx(0.125 + 0.875 / 2 * (1 + math.cos(math.pi / 4)))]
    assert found == [pytest.approx([lr * min(1, (step + 1) / steps)]) for step, (lr,) in enumerate(paper_s)]


@pytest.mark.parametrize("warmup", [8, 9, 0.99])
def test_a_warm_up_as_long_as_the_run_is_refused(warmup):
    with pytest.raises(ValueError, match=rf"schedule\.warmup={warmup}: the run has 8 steps"):
        scheduled(optimizer_of(1.0), 4, 2, make=partial(poly, power=1.0), warmup=warmup)


def test_a_restored_warm_up_goes_on_where_it_was():
    make = partial(poly, power=0.9)
    first, second = optimizer_of(1.0), optimizer_of(1.0)
    config = scheduled(first, 2, 5, make=make, warmup=6)
    rates(first, 4, config)
    other = scheduled(second, 2, 5, make=make, warmup=6)
    other["scheduler"].load_state_dict(config["scheduler"].state_dict())
    second.load_state_dict(first.state_dict())
    with warnings.catch_warnings(action="ignore"):
        assert rates(second, 6, other) == rates(first, 6, config)
    assert second.param_groups[0]["lr"] == 0


def test_a_schedule_that_waits_for_a_score_is_refused():
    with pytest.raises(ValueError, match="ReduceLROnPlateau waits for a score"):
        scheduled(optimizer_of(1.0), 4, 2, make=ReduceLROnPlateau)
