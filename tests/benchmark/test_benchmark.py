"""The benchmark counts right, and runs; what it measures depends on the machine, so no test asserts a time."""

import json
import os
import re
import shlex
from functools import partial
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from fcnseg.benchmark import __main__, arms, step
from fcnseg.benchmark.__main__ import benchmark, growth
from fcnseg.benchmark.arms import beside_plain, image_loader, of_stock_layers
from fcnseg.benchmark.step import Operation, Operations, ideal_seconds, step_operations
from fcnseg.benchmark.tables import call, cases, measured, rows
from fcnseg.build import data as build_data
from fcnseg.cli.configs import CONF
from fcnseg.errors import RunFailedError
from fcnseg.models import FCN

META = torch.device("meta")
CPU = ["trainer.accelerator=cpu", "model.widths=[4,8]"]


def test_a_convolution_counted_by_hand():
    conv = nn.Conv2d(3, 8, 3, padding=1, bias=False, device="meta")
    image = torch.empty(2, 3, 10, 10, device="meta")
    with Operations(image.device) as operations:
        conv(image)
    flops = 2 * (2 * 8 * 10 * 10) * (3 * 3 * 3)  # a multiplication and an addition a tap, for every output
    nbytes = 4 * (2 * 3 * 10 * 10 + 8 * 3 * 3 * 3 + 2 * 8 * 10 * 10)  # image, weights, output
    (found,) = operations.counted
    assert found[:4] == ("convolution", ((2, 3, 10, 10), (8, 3, 3, 3)), flops, nbytes)


def test_a_view_moves_nothing():
    with Operations(META) as operations:
        torch.empty(4, 6, device="meta").t().reshape(3, 2, 4).permute(2, 0, 1)[0]
    assert sum(operation.nbytes for operation in operations.counted) == 0


def test_backward_is_twice_forward():
    net = nn.Sequential(nn.Conv2d(3, 5, 1, bias=False), nn.Conv2d(5, 5, 1, bias=False))

    class Sum(nn.Module):
        def forward(self, logits, mask):
            return logits.sum()

    counted = step_operations(net, Sum(), batch_size=2, size=8, dtype=torch.bfloat16)
    first, second = 2 * 2 * 64 * 5 * 3, 2 * 2 * 64 * 5 * 5
    assert sum(operation.flops for operation in counted) == first + second + 2 * second + first  # images want no gradient
    assert counted[-1] == Operation("adam", (), 0, 28 * (15 + 25), 0)


def test_the_ideal_takes_the_slower_of_the_two():
    operations = [Operation("", (), flops, nbytes, 0) for flops, nbytes in ((100, 1), (1, 30), (0, 10))]
    assert ideal_seconds(operations, flops=10, bandwidth=5) == 10 + 6 + 2


def test_an_operation_that_returns_nothing_writes_what_it_changes():
    weights, gradients = [torch.ones(3)], [torch.ones(3)]
    with Operations(torch.device("cpu")) as operations:
        torch._foreach_add_(weights, gradients)
    (found,) = operations.counted
    assert (found.nbytes, found.seconds > 0) == (3 * 3 * 4, True)


@pytest.mark.parametrize("limit", ["null", "5"])
def test_both_sides_see_the_same_images(root, compose, limit):
    few = ["data.source.train=8", "data.source.val=4", "data.batch_size=3", f"data.limit={limit}"]
    data = build_data(compose("data=shapes", f"data.root={root}", *few))
    data.prepare_data()
    ours, theirs = iter(data.train_dataloader()), iter(image_loader(data, torch.device("cpu")))
    for _ in range(2):
        batch = data.on_after_batch_transfer(next(ours), 0)
        image, mask = next(theirs)
        torch.testing.assert_close(batch.image, image, rtol=0, atol=1e-5)
        assert torch.equal(batch.mask.long(), mask)


def test_torchs_own_layers_compute_the_same():
    torch.manual_seed(0)
    net, image = FCN(21, widths=[4, 8]).eval(), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        ours = net(image)
        torch.testing.assert_close(of_stock_layers(net)(image), ours)
    assert nn.ConvTranspose2d in {type(module) for module in net.modules()}


def test_one_number_grows(monkeypatch):
    cfg = OmegaConf.create({"data": {"size": [32, 48], "source": {"train": 8}, "batch_size": 2}})
    monkeypatch.setattr(arms, "epoch", lambda point: OmegaConf.to_container(point.data))
    *_, tables = growth(cfg)
    (rows,) = tables.values()
    grown = {row.pop("growing"): row for row in rows}
    assert len(grown) == 9
    assert grown["data.source.train x 4"] == {"size": [32, 48], "source": {"train": 32}, "batch_size": 2}
    assert grown["data.size x 2"] == {"size": [64, 96], "source": {"train": 8}, "batch_size": 2}
    assert grown["data.batch_size x 4"] == {"size": [32, 48], "source": {"train": 8}, "batch_size": 8}


class Losses(arms.Clock):
    """Keeps the loss of every step."""

    def __init__(self, steps):
        super().__init__(torch.device("cpu"), steps)
        self.losses = []

    def step(self, loss):
        self.losses.append(loss.item())
        super().step(loss)


def test_every_arm_can_be_chosen():
    assert list(arms.ARMS) == OmegaConf.load(CONF / "benchmark.yaml").arms


def test_the_arms_train_the_same(root, compose):
    """Step by step: gradients that were not set to zero, or another optimiser, would show in the second one."""
    small = [
        "data.size=32",
        "data.batch_size=4",
        "data.source.train=8",
        "data.source.val=4",
        "trainer.precision=32-true",
    ]
    losses = {}
    for train in (arms.train_in_a_loop, arms.train_with_lightning, arms.train_as_a_run):
        cfg = compose("data=shapes", f"data.root={root}", *small, *CPU).copy()
        cfg.checkpoint.min_seconds, cfg.choices = 3600, dict.fromkeys(cfg.choices, "any")
        data, clock = build_data(cfg), Losses(steps=4)
        data.prepare_data()
        data.stages["train"] = ("train", torch.arange(16) % 8)
        train(cfg, data, step.task_of(cfg, data), clock)
        losses[train] = clock.losses
    assert len(set(losses[arms.train_in_a_loop])) == 4
    for train in (arms.train_with_lightning, arms.train_as_a_run):
        assert losses[train] == pytest.approx(losses[arms.train_in_a_loop], rel=1e-3)


@pytest.mark.parametrize(
    ("loss", "precision", "agree"),
    [
        (3.0002, "32-true", True),
        (3.001, "32-true", False),
        (3.02, "bf16-mixed", True),
        (3.04, "bf16-mixed", False),
        (float("nan"), "bf16-mixed", False),
        ("nan", "bf16-mixed", False),  # as a table has it
    ],
)
def test_first_losses_must_agree(loss, precision, agree):
    rows = [
        {"arm": "plain", "first_loss": 3.0, "precision": "32-true", "images_per_s": 1.0},
        {"arm": "lightning", "failed": "out of memory"},
        {"arm": "fcnseg", "first_loss": loss, "precision": precision, "images_per_s": 1.0},
    ]
    if agree:
        beside_plain(rows, {})
    else:
        with pytest.raises(RunFailedError, match=r"plain.*fcnseg"):
            beside_plain(rows, {})


def test_what_fails_in_a_process_is_said():
    assert rows(partial(call, dict), {"arm": "plain"}) == [{"arm": "plain"}]
    (failed,), (ended,) = rows(partial(call, divmod, 1, 0), {}), rows(lambda arm: call(os._exit, 3), {"arm": "plain"})
    assert "ZeroDivisionError" in failed["failed"].splitlines()[-1]
    assert "terminated abruptly" in ended["failed"]
    assert ended["arm"] == "plain"


def test_a_table_grows_case_by_case_in_their_order():
    tables = [*measured("Sums", lambda one, two: {"sum": one + two}, cases(one=(1, 2), two=(3,)), at_once=2)]
    (so_far,) = tables[-1].values()
    assert len(tables) == 2
    assert so_far == [{"one": 1, "two": 3, "sum": 4}, {"one": 2, "two": 3, "sum": 5}]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["steps=0"], ["steps=0", "1"]),
        (["arms=[plain,fast]"], ["fast", "fcnseg"]),
        (["growth=true"], ["growth", "data=shapes"]),
        (["growth=true", "gpu_day=true", "data=shapes"], ["growth=true and gpu_day=true: wanted one of them"]),
        (["growth=true", "data=shapes", "steps=3"], ["steps=3 has no effect with growth=true"]),
        (["gpu_day=true", "model=wilson"], ["gpu_day", "every network", "model=wilson"]),
        (["setps=3"], ["setps", "steps?"]),
        (["budget=5"], ["budget=5 has no effect on a comparison of arms: leave it out"]),
        (["patience=3"], ["patience=3 has no effect"]),
        (["logger=csv"], ["logger=csv has no effect"]),
        (["runs=here"], ["runs=here has no effect"]),
        (["trainer.max_epochs=2"], ["trainer.max_epochs=2 has no effect"]),
        (["gpu_day=true", "repeats=3"], ["repeats=3 has no effect with gpu_day=true"]),
        (["gpu_day=true", "resume=never"], ["resume=never has no effect"]),
        (["gpu_day=true", "debug=fast"], ["debug=fast has no effect"]),
    ],
)
def test_refused(command, args, words):
    outcome = command(benchmark, *args)
    assert outcome.code == 2
    assert all(word in outcome.err for word in words)


README = Path(__main__.__file__).with_name("README.md").read_text(encoding="utf-8")
RUN = ["ema=0.9", "callbacks=lr_monitor", "schedule=cosine", "checkpoint.every_n_steps=3", "aug=flip"]


@pytest.mark.parametrize(
    "args",
    [
        ["arms=[plain]", "repeats=2", "steps=2", "+trainer.gradient_clip_val=1", *RUN],
        ["growth=true", "data=shapes", "data.source.train=8", "trainer.deterministic=true", *RUN],
        ["gpu_day=true", "budget=5", "patience=2", "trainer.max_epochs=2", *RUN],
        *(shlex.split(words, comments=True) for words in re.findall(r"^python -m fcnseg\.benchmark (.*)$", README, re.M)),
    ],
)
def test_what_has_an_effect_is_not_refused(command, monkeypatch, args):
    def measured(*_):
        raise RunFailedError("here it would be measured")

    for name in ("resolve", "gpu_day"):
        monkeypatch.setattr(__main__, name, measured)
    outcome = command(benchmark, *args)
    assert (outcome.code, outcome.err.strip()) == (1, "fcnseg: here it would be measured")


def test_a_logger_of_an_experiment_is_left_out(compose):
    cfg = compose("data=shapes", "logger=csv", "trainer.precision=32-true").copy()
    cfg.choices = {}
    assert __main__.resolve(cfg).logger == {}


def test_the_readme_names_what_there_is():
    package = Path(__main__.__file__).parents[1]
    assert all((package / name).is_file() for name in re.findall(r"`([\w/]+\.py)`", README))
    named = re.findall(r"`(\w+)` in `([\w/]+\.py)`", README)
    assert [name for name, path in named if f"def {name}(" not in (package / path).read_text()] == []
    assert len(named) >= 3


def with_small_peaks(work, *args, **named):
    """What `work` returns in a process that measures the machine's peaks on small matrices: those of a user take seconds."""
    step.MATMUL["cpu"], step.COPIED["cpu"] = 64, 2**16
    return work(*args, **named)


def test_comparison(command, root, tmp_path, monkeypatch):
    names = ["plain", "lightning", "fcnseg", "alternative"]
    monkeypatch.setattr(__main__, "call", partial(call, with_small_peaks))
    few = ["data=shapes", f"data.root={root}", "data.source.train=8", "data.source.val=4", "data.size=[32,48]"]
    small = [
        *few,
        "trainer.precision=32-true",
        "data.batch_size=4",
        "repeats=2",
        "steps=2",
        f"arms=[{','.join(names)}]",
    ]
    outcome = command(benchmark, *small, *CPU, "json=figures.json")
    assert outcome.code == 0, outcome.err
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures.pop("config")["data"]["size"] == [32, 48]
    (machine,), trained, operations, parts = figures.values()
    assert machine["cores"] > 0
    assert [row["arm"] for row in trained] == names
    assert [row["precision"] for row in trained] == ["32-true", "32-true", "32-true", "bf16-mixed"]
    for row in trained:
        assert row.keys() >= {"images_per_s", "spread", "times_plain", "roofline", "host_mb", "gpu_mb", "precision"}
        assert row["first_step_s"] > 0
        assert row["first_loss"] == pytest.approx(trained[0]["first_loss"], rel=1e-2)
        assert min(row["spread"]) <= row["images_per_s"] <= max(row["spread"])
        assert row["times_plain"] == row["images_per_s"] / trained[0]["images_per_s"]
    *_, rest, whole, step = operations
    assert [row["name"] for row in (rest, whole, step)] == ["the others", "all", "the step"]
    for key in ("calls", "ms", "ideal_ms", "lost_ms"):
        assert sum(row[key] for row in operations[:-2]) == pytest.approx(whole[key])
    assert {row["name"] for row in operations} >= {"convolution", "convolution_backward"}
    assert all(row["ms"] > 0 for row in operations)
    assert [row["part"].split()[0] for row in parts] == ["batches", "packing,", "scores", "the"]
    for row in parts:
        assert row["images"] in (4, 8)
        assert row["times"] == pytest.approx(row["other_ms"] / row["fcnseg_ms"])
    assert "convolution_backward" in outcome.out
    assert "\n| fcnseg " in (tmp_path / "figures.md").read_text()


def test_a_row_for_each_arm():
    trained = [
        {"arm": "plain", "images_per_s": 2.0, "precision": "32-true", "first_loss": 3.0},
        {"arm": "lightning", "failed": "out of memory"},
        {"arm": "fcnseg", "images_per_s": 6.0, "precision": "bf16-mixed", "first_loss": 3.0},
    ]
    plain, lightning, fcnseg = beside_plain(trained, {"32-true": 4.0, "bf16-mixed": 8.0})
    assert (plain["times_plain"], plain["roofline"]) == (1, 0.5)
    assert lightning == {"arm": "lightning", "failed": "out of memory"}
    assert (fcnseg["times_plain"], fcnseg["roofline"]) == (3, 0.75)


@pytest.mark.slow
def test_growth(command, tmp_path):
    small = ["data=shapes", "data.source.train=24", "data.source.val=4", "data.size=32", "data.batch_size=2"]
    outcome = command(benchmark, *small, *CPU, "growth=true", "json=figures.json")
    assert outcome.code == 0, outcome.err
    figures = json.loads((tmp_path / "figures.json").read_text())
    _, _, growth = figures.values()
    assert [row["images"] for row in growth] == [24, 96, 384, *[24] * 6]
    assert [row["size"] for row in growth[3:6]] == [32, 64, 128]
    assert all(row["epoch_s"] > 0 for row in growth)
