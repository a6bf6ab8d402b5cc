"""All that a GPU must show is measured on the CPU here, with small networks; no test asserts a time."""

import json
import signal
import time
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from fcnseg.benchmark import gpu_day
from fcnseg.benchmark.__main__ import benchmark
from fcnseg.benchmark.tables import call, cases, markdown

NARROW = ["model.widths=[4,8]"]


def day_of(seconds, folder):
    return gpu_day.Day(lambda *overrides: None, [], folder, time.monotonic() + seconds, on_gpu=False)


@pytest.fixture
def small(monkeypatch):
    """One narrow network, one experiment, and nothing compiled."""
    monkeypatch.setattr(gpu_day, "NETWORKS", {"fcn": NARROW})
    monkeypatch.setattr(gpu_day, "PAPER", {"baseline": NARROW})
    monkeypatch.setattr(gpu_day, "COMPARED", ("plain", "lightning", "fcnseg"))


@pytest.mark.usefixtures("small")
def test_without_time_every_row_says_so(command, tmp_path):
    outcome = command(benchmark, "gpu_day=true", "budget=0", "trainer.accelerator=cpu", "json=day.json")
    assert outcome.code == 0, outcome.err
    figures = json.loads((tmp_path / "day.json").read_text())
    assert figures.pop("config")["budget"] == 0
    assert figures.pop("The machine")[0]["cores"] > 0
    assert [len(rows) for rows in figures.values()] == [2, 1, 1, 1, 1, 1]
    assert all("skipped" in row["failed"] for rows in figures.values() for row in rows)
    assert outcome.out.count("baseline") == (tmp_path / "day.md").read_text().count("| baseline") == 1


def test_a_row_that_fails_says_why_and_the_others_go_on(tmp_path):
    def work(day, divisor):
        return {"quotient": 1 / int(divisor), "rest": float("nan")}

    *_, figures = day_of(60, tmp_path).table("Quotients", work, cases(divisor=["0", "2"]))
    failed, divided = figures["Quotients"]
    assert failed["failed"].strip().endswith("ZeroDivisionError: division by zero")
    assert divided == {"divisor": "2", "quotient": 0.5, "rest": "nan"}
    assert "ZeroDivisionError: division by zero |" in markdown(figures)


def test_a_row_that_hangs_leaves_the_others_their_time(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_day, "MOST_SECONDS", 1)
    day = day_of(50, tmp_path)
    *_, figures = day.table("Sleep", lambda day, sleep: {"slept": day.call(time.sleep, int(sleep))}, cases(sleep=["60", "0"]))
    killed, other = figures["Sleep"]
    assert killed["failed"].strip().endswith("TimeoutError: killed after 2 s")
    assert other == {"sleep": "0", "slept": None}
    assert day.end - time.monotonic() > 20


def test_a_process_ends_with_its_time():
    with pytest.raises(TimeoutError, match="killed after 1 s"):
        call(time.sleep, 60, seconds=1)


def test_a_command_that_ends_otherwise_than_wanted_is_said(tmp_path):
    day = day_of(60, tmp_path)
    assert day.command("a", "model=wilsn", code=2) == tmp_path / "a"
    with pytest.raises(RuntimeError, match=r"fcnseg.train model=wilsn .*exit code 2: .*did you mean wilson"):
        day.command("a", "model=wilsn")


def test_exactness_compares_a_second_and_a_resumed_run_with_the_first(tmp_path):
    commands, weights, miou = [], iter((1.0, 1.0, 2.0, 1 + 2e-7)), iter(("0.5", "0.5", "0.5", "null"))

    class Recorded(gpu_day.Day):
        def command(self, name, *settings, code=0):
            commands.append((name, code, any(".killer" in word for word in settings)))
            (run := tmp_path / name / "checkpoints").mkdir(parents=True, exist_ok=True)
            torch.save({"state_dict": {"w": torch.tensor(next(weights))}, "optimizer_states": []}, run / "last.ckpt")
            result = f'{{"metrics": {{"test/miou": {next(miou)}}}, "confusion": [[1, 2]]}}'
            (run.parent / "result.json").write_text(result)
            return run.parent

    day = Recorded(lambda *overrides: None, [], tmp_path, time.monotonic() + 60, on_gpu=False)
    assert gpu_day.exactness(day, "fcn") == {
        **{"tensors_and_numbers": 4, "differ_in_a_second_run": 0},
        **{"killed_in_step": 13, "differ_when_resumed": 2},
    }
    runs = [("fcn-once", 0, False), ("fcn-again", 0, False), ("fcn-killed", -9, True), ("fcn-killed", 0, False)]
    assert commands == runs


def test_a_run_is_killed_after_its_step_and_no_other(monkeypatch):
    steps, kill = [], gpu_day.killer(3)
    for step in range(1, 6):
        monkeypatch.setattr(gpu_day.os, "kill", lambda _, number, step=step: steps.append((step, number)))
        kill.on_train_batch_end(SimpleNamespace(global_step=step), None)
    assert steps == [(3, signal.SIGKILL)]


def test_the_host_s_calls_are_those_of_a_step(monkeypatch):
    cfg = SimpleNamespace(data=SimpleNamespace(batch_size=4))
    calls = {"cudaLaunchKernel": 7, "cudaMemcpyAsync": 2, "cudaStreamSynchronize": 1, "aten::add": 9}
    monkeypatch.setattr(gpu_day, "train", lambda cfg, arm, steps: {"images_per_s": 40.0})
    monkeypatch.setattr(gpu_day, "fabric_of", lambda cfg: SimpleNamespace(device=torch.device("cuda")))
    monkeypatch.setattr(gpu_day, "_calls", lambda _, steps: Counter({key: 5 + n * steps for key, n in calls.items()}))
    assert gpu_day.host_step(cfg, 3) == {"host_ms": 100.0, "kernels": 7, "copies": 2, "synchronisations": 1}
    monkeypatch.setattr(gpu_day, "_calls", lambda _, steps: Counter({"aten::add": steps}))
    with pytest.raises(RuntimeError, match="has seen no kernel"):
        gpu_day.host_step(cfg, 3)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_gpu_day_fills_every_table_on_a_cpu_too(command, tmp_path):
    outcome = command(benchmark, "gpu_day=true", "trainer.accelerator=cpu")
    assert outcome.code == 0, outcome.err
    figures = json.loads((tmp_path / "gpu_day.json").read_text())
    _, _, *tables = figures.values()
    assert [row for rows in tables for row in rows if "failed" in row] == []
    losses, exact, images, arms, (host,), (experiment,) = tables
    assert [(row["precision"], row["holds"]) for row in losses] == [("32-true", "yes"), ("bf16-mixed", "yes")]
    assert exact[0]["tensors_and_numbers"] > 500  # the confusion matrix alone has 462 numbers
    assert (exact[0]["differ_in_a_second_run"], exact[0]["differ_when_resumed"]) == (0, 0)
    assert images[0]["train"] == 32
    assert [row["arm"] for row in arms] == ["plain", "lightning", "fcnseg"]
    assert all(row["images_per_s"] > 0 and row["roofline"] > 0 and row["host_mb"] > 0 for row in arms)
    assert host["host_ms"] > 0
    assert (experiment["epochs"], experiment["precision"]) == (2, arms[2]["precision"])
    assert "| killed in step" in (tmp_path / "gpu_day.md").read_text()
