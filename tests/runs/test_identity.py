"""When two configs are of one run."""

import pytest
from omegaconf import OmegaConf

from fcnseg.runs.identity import differences, without_watchers
from fcnseg.settings.table import flatten

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


def test_a_sum_with_another_part_is_another_run(compose):
    """A part of a sum that a stored run lacks is no setting of a later version; a setting of a part may be one."""
    whole = OmegaConf.masked_copy(compose("loss=ce_dice"), ["loss"])
    first, second = whole.copy(), whole.copy()
    for part in (first, second):
        OmegaConf.set_struct(part, False)
    del first.loss.terms.ce
    del second.loss.terms.ce.loss.weighted
    defaults = flatten(whole)
    assert differences(first, whole, lambda: defaults)["loss.terms.ce.weight"] == (None, 1.0)
    assert differences(second, whole, lambda: defaults) == {}
