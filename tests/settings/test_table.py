"""Settings out of their ranges, each refused by name; tests/cli/test_cli.py has some as commands."""

import pytest
from lightning import Callback
from omegaconf import OmegaConf

from fcnseg import build
from fcnseg.cli.arguments import parse
from fcnseg.settings.table import check_ranges


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("data.size=[64]", ["data.size=[64]", "whole number"]),
        ("data.size=[64,64,3]", ["data.size=[64, 64, 3]", "whole number"]),
        ("data.size=[64,x]", ["data.size=x", "whole number"]),
        ("data.size=0", ["data.size=0", "32"]),
        ("data.size=-5", ["data.size=-5", "32"]),
        ("data.batch_size=0", ["data.batch_size=0", "1"]),
        ("data.split=thirds", ["data.split=thirds", "official", "halves"]),
        ("data.limit=0", ["data.limit=0", "from 1 up"]),
        ("data.limit=half", ["data.limit=half", "whole number"]),
        ("optimizer.lr=-1", ["-1", "learning rate"]),
        ("trainer.precision=foo", ["foo"]),
        ("trainer.max_epochs=0", ["trainer.max_epochs=0", "1"]),
        ("trainer.devices=-1", ["trainer.devices=-1", "from 1 up"]),
        ("+trainer.accumulate_grad_batches=3", ["data.batch_size=4", "accumulate_grad_batches=3", "3 or 6"]),
        ("ema=often", ["ema=often", "a number"]),
        ("optimizer.backbone_lr=0", ["optimizer.backbone_lr=0", "above 0"]),
        ("optimizer.decay_norms=1", ["optimizer.decay_norms=1", "true or false, or null"]),
        ("schedule.warmup=1.5", ["schedule.warmup=1.5", "whole number of steps"]),
        ("schedule.warmup=-1", ["schedule.warmup=-1", "whole number of steps"]),
        ("schedule.warmup=yes", ["schedule.warmup=", "whole number of steps"]),
        ("data.size=[32]", ["data.size=[32]: wanted a whole number from 32 up, or [height,width]"]),
        (
            "data.pack_size=[40,50,60]",
            ["data.pack_size=[40, 50, 60]: wanted a whole number from 32 up, or [height,width]"],
        ),
        ("checkpoint.min_seconds=-1", ["checkpoint.min_seconds=-1", "0"]),
        ("patience=0", ["patience=0", "1"]),
        ("schedule.total_iters=5", ["schedule.total_iters=5 has no effect by itself: give schedule.factor, too"]),
        ("seed=4294967296", ["seed=4294967296", "from 0 to 4294967295"]),
        ("checkpoint.every_n_steps=2.5", ["checkpoint.every_n_steps=2.5", "whole number"]),
        ("trainer.precision=64-true", ["trainer.precision=64-true", "32-true, bf16-mixed, 16-mixed"]),
        ("trainer.precision=bf16-true", ["trainer.precision=bf16-true", "32-true, bf16-mixed, 16-mixed"]),
        ("trainer.precision=16-true", ["trainer.precision=16-true", "32-true, bf16-mixed, 16-mixed"]),
        ("trainer.precision=64", ["trainer.precision=64", "32-true, bf16-mixed, 16-mixed"]),
        (
            "trainer.precision=transformer-engine",
            ["trainer.precision=transformer-engine", "32-true, bf16-mixed, 16-mixed"],
        ),
    ],
)
def test_a_value_out_of_its_range_is_refused(compose, argument, words):
    cfg = compose("data=shapes", "data.batch_size=4").copy()
    OmegaConf.set_struct(cfg, False)
    check_ranges(cfg)
    (override,) = parse([argument])
    OmegaConf.update(cfg, override.key_or_group, override.value())
    with pytest.raises(ValueError, match=r"=.*: ") as refused:
        check_ranges(cfg)
    assert [word for word in words if word not in str(refused.value)] == []


def test_freeze_and_weights_of_ones_own_network_are_its_own(compose):
    own = ["+model.freeze=true", "+model.weights=null"]
    check_ranges(compose("data=shapes", "model._target_=own.Network", *own))
    with pytest.raises(ValueError, match="would keep random weights"):
        check_ranges(compose("data=shapes", *own))


@pytest.mark.parametrize("name", ["1", "a.b", "true"])
def test_a_callback_of_any_name_is_made(compose, name):
    entry = "{_target_: lightning.Callback, only_watches: true}"
    cfg = compose(f"+callbacks={{{name}: {entry}}}", "data=shapes")
    check_ranges(cfg)
    assert [type(callback) for callback in build.callbacks(cfg)] == [Callback]
    wrong = compose(f"+callbacks={{{name}: {entry.replace('true', 'maybe')}}}", "data=shapes")
    with pytest.raises(ValueError, match="only_watches=maybe: wanted true or false"):
        check_ranges(wrong)


def test_a_learning_rate_may_be_left_to_an_optimiser_of_ones_own(compose):
    cfg = compose("data=shapes").copy()
    cfg.optimizer.lr = None
    check_ranges(cfg)


@pytest.mark.parametrize("target", ["fcnseg.learning.losses.Sum", "mine.OwnSum"])
def test_a_part_of_any_sum_weighs_more_than_nothing(compose, target):
    cfg = compose("loss=ce_dice", "data=shapes", f"loss._target_={target}").copy()
    cfg.loss.terms.ce.weight = 0
    with pytest.raises(ValueError, match=r"loss\.terms\.ce\.weight=0: wanted a number above 0"):
        check_ranges(cfg)
