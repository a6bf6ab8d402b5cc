"""When two configs are of one run."""

import pytest
from omegaconf import OmegaConf

from fcnseg.runs.identity import differences, without_watchers

ORDERS = [["blur", "crop"], ["crop", "blur"]]


def steps(order):
    return ["aug=none", *(f"+aug@aug.{name}={name}" for name in order)]


def test_another_order_of_augmentations_is_another_run(compose):
    first, second = (OmegaConf.masked_copy(compose(*steps(order)), ["aug", "data"]) for order in ORDERS)
    assert differences(first, second, dict) == {"aug._order_": tuple(ORDERS)}
    assert differences(first, first, dict) == {}


@pytest.mark.parametrize(("factor", "total_iters"), [(1.0, 0), (0.5, 5)])
def test_a_constant_schedule_of_an_earlier_version_is_what_it_was(compose, factor, total_iters):
    """Its factor ended after PyTorch's five epochs; a factor of 1 is the same in any number of them."""
    now, old = (OmegaConf.masked_copy(compose(f"schedule.factor={factor}"), ["schedule"]) for _ in range(2))
    OmegaConf.set_struct(old, False)
    del old.schedule.total_iters
    assert without_watchers(old)["schedule"]["total_iters"] == total_iters
    assert differences(old, now, dict) == ({"schedule.total_iters": (5, 0)} if total_iters else {})
