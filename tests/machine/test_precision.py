"""Tests of the choice of a precision, by a measurement that is kept."""

import json

import pytest
import torch

from fcnseg import build
from fcnseg.machine import precision


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """`measured(gain, capabilities)` has a CPU measure this gain; the list that it gives grows with every measurement."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    times = []

    def measured(gain, capabilities):
        precision.bf16_gain.cache_clear()
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
        monkeypatch.setattr(precision, "_measured", lambda: times.append(gain) or gain)
        return times

    yield measured
    precision.bf16_gain.cache_clear()


@pytest.mark.parametrize(
    ("wanted", "gain", "capabilities", "expected"),
    [
        ("auto", 2.0, {"avx512_bf16": True}, "bf16-mixed"),
        ("auto", 1.3, {"amx_bf16": True, "avx512_bf16": False}, "bf16-mixed"),
        ("auto", 1.29, {"avx512_bf16": True}, "32-true"),
        ("auto", 0.6, {"avx512_bf16": True}, "32-true"),
        ("auto", 9.0, {"avx512_f": True}, "32-true"),
        ("32-true", 9.0, {"avx512_bf16": True}, "32-true"),
        ("bf16-mixed", 0.5, {}, "bf16-mixed"),
    ],
)
def test_bf16_is_taken_where_it_wins(measured, wanted, gain, capabilities, expected):
    measured(gain, capabilities)
    assert build.precision(wanted, "cpu") == expected


def test_it_is_measured_once_for_a_processor_and_its_threads(measured, tmp_path):
    times = measured(2.0, {"avx512_bf16": True})
    assert precision.bf16_gain(1) == precision.bf16_gain(1) == 2.0
    measured(3.0, {"avx512_bf16": True})  # another process
    assert (precision.bf16_gain(1), precision.bf16_gain(2)) == (2.0, 3.0)
    assert times == [2.0, 3.0]
    kept = json.loads((tmp_path / "fcnseg" / "precision.json").read_text())
    assert [key.split(", ")[1:] for key in kept] == [[f"{n} threads", f"torch {torch.__version__}"] for n in (1, 2)]


@pytest.mark.parametrize("content", ["", "[]", '{"a": "b"}', "\0"])
def test_a_damaged_cache_is_written_anew(measured, tmp_path, content):
    (tmp_path / "fcnseg").mkdir()
    (tmp_path / "fcnseg" / "precision.json").write_text(content)
    measured(2.0, {"avx512_bf16": True})
    assert precision.bf16_gain(1) == 2.0
    assert [*json.loads((tmp_path / "fcnseg" / "precision.json").read_text()).values()] == [2.0]


def test_without_a_place_to_keep_it_it_is_measured_all_the_same(measured, tmp_path):
    (tmp_path / "fcnseg").write_text("no folder")
    measured(2.0, {"avx512_bf16": True})
    assert precision.bf16_gain(1) == 2.0


def test_what_is_measured_is_a_ratio_and_draws_no_number_of_the_run():
    before = torch.get_rng_state()
    assert 0.05 < precision._measured() < 20
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_it_is_measured_where_no_gradient_is_kept(mode):
    """As where a network is loaded to predict for the report."""
    with mode():
        assert precision._measured() > 0


def test_a_run_says_what_was_measured(measured, command, tiny):
    from fcnseg.train import train

    measured(0.5, {"avx512_bf16": True})
    outcome = command(train, *tiny("model=fcn", "name=run", "trainer.precision=auto"))
    assert "8 images, 32-true, bf16 is 0.5 times as fast as fp32 on this CPU" in outcome.out


@pytest.mark.parametrize("precision", ["16-mixed", "16"])
def test_float16_is_refused_on_a_cpu(command, tiny, tmp_path, precision):
    """Lightning would train in bf16-mixed, and on a GPU go on in float16."""
    from fcnseg.benchmark.__main__ import benchmark
    from fcnseg.train import train

    for function, args in ((train, tiny("model=fcn", "name=run")), (benchmark, ["data=shapes", "data.root=data"])):
        outcome = command(function, *args, f"trainer.precision={precision}", "trainer.accelerator=cpu")
        assert (outcome.code, f"trainer.precision={precision}: a CPU has no float16" in outcome.err) == (2, True), outcome.err
    assert list(tmp_path.iterdir()) == []


def test_float16_is_not_refused_on_a_gpu(compose, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    build.check_device(compose("data=shapes", "trainer.precision=16-mixed").trainer)
