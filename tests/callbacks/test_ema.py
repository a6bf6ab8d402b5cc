"""The average of the weights: its numbers, and where it is used."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fcnseg import build
from fcnseg.callbacks.ema import EMA, validated_weights
from fcnseg.runs import reopen, stored_network
from fcnseg.runs.folder import Run


class Module(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.BatchNorm1d(1)


def trained(decay, values):
    """An EMA and its module, after a step to each of these values."""
    module, ema = Module(), EMA(decay)
    ema.on_train_start(None, module)
    for step, value in enumerate(values, start=1):
        with torch.no_grad():
            module.net.weight.fill_(value)
            module.net.running_var.fill_(value)
            module.net.num_batches_tracked.fill_(step)
        ema.on_train_batch_end(SimpleNamespace(global_step=step), module, None, None, 0)
    return ema, module


def test_its_decay_rises_with_the_steps():
    ema, _ = trained(0.999, [11.0, 0.0])
    first = 0.1 * 1 + 0.9 * 11  # 1/10 of the first weight, which is 1
    assert ema.average["weight"].item() == pytest.approx(2 / 11 * first)
    assert ema.average["running_var"].item() == pytest.approx(2 / 11 * first)  # a statistic of a batch norm
    assert ema.average["num_batches_tracked"].item() == 2


def test_its_decay_rises_to_the_one_given_and_no_further():
    values = torch.randn(40).tolist()
    ema, _ = trained(0.5, values)
    average = 1.0
    for n, value in enumerate(values):
        decay = min(0.5, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * value
    assert ema.average["weight"].item() == pytest.approx(average, rel=1e-5, abs=1e-6)  # a sum may be near 0


def test_a_network_has_the_average_while_it_validates_and_not_in_what_is_saved():
    ema, module = trained(0.9, [11.0])
    ema.on_validation_start(None, module)
    assert module.net.weight.item() == ema.average["weight"].item() == pytest.approx(10)
    checkpoint = {"state_dict": dict(module.state_dict())}
    ema.on_save_checkpoint(None, module, checkpoint)
    assert checkpoint["state_dict"].keys() == module.state_dict().keys()
    assert checkpoint["state_dict"]["net.weight"].item() == 11
    ema.on_validation_end(None, module)
    assert module.net.weight.item() == 11
    for callbacks, weight in (([ema], 10), ([], 11)):
        weights = validated_weights(SimpleNamespace(callbacks=callbacks), module)
        assert weights["net.weight"].item() == pytest.approx(weight)


def test_a_validation_without_a_training_is_of_the_network_itself():
    ema, module = EMA(0.9), Module()
    ema.on_validation_start(None, module)
    ema.on_validation_end(None, module)
    assert module.net.weight.item() == 1


@pytest.fixture(scope="module")
def run(tmp_path_factory, train_in):
    return train_in(tmp_path_factory.mktemp("runs"), "ema=0.9", "optimizer.lr=0.05", "trainer.max_epochs=1")


def load(run, name):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def test_the_best_weights_are_the_average_and_the_last_ones_both(run):
    best, last = load(run, "best")["state_dict"], load(run, "last")
    average = last["callbacks"]["EMA"]["average"]
    assert all(torch.equal(best[f"net.{name}"], value) for name, value in average.items())
    assert not any(torch.equal(best[name], last["state_dict"][name]) for name in best if name.endswith("0.weight"))
    assert best.keys() == last["state_dict"].keys()


def test_what_is_validated_and_tested_is_the_average(run):
    cfg, net, *_ = stored_network.load(run)
    assert torch.equal(net.state_dict()["classifier.weight"], load(run, "best")["state_dict"]["net.classifier.weight"])
    data = reopen.data(cfg)
    found = build.trainer(cfg).validate(reopen.task(run, data), data, verbose=False)[0]
    (row,) = Run(run).epochs
    assert found == pytest.approx({name: row[name] for name in found}, rel=1e-6)
    assert Run(run).result["metrics"]["test/loss"] == pytest.approx(row["val/loss"], rel=1e-6)  # val is test
