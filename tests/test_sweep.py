import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from fcnseg import sweep
from fcnseg.evaluate import evaluate
from fcnseg.task import SegmentationTask
from fcnseg.train import train

TINY = [
    "data.size=32",
    "data.batch_size=4",
    "data.source.train=8",
    "data.source.val=4",
    "model.widths=[4,8]",
    "trainer.max_epochs=1",
    "trainer.accelerator=cpu",
]


@pytest.fixture
def launch(command, root):
    return lambda *overrides: command(train, "-m", "data=shapes", f"data.root={root}", *TINY, *overrides)


HOLDS_THE_LOCK = (
    "import sys, time, filelock as f; a = f.FileLock(sys.argv[1]); a.acquire(); print(flush=True); time.sleep(60)"
)


def states(tmp_path):
    """The state of every run, in the order of their names."""
    return {
        path.parent.name: json.loads(path.read_text())["status"] for path in sorted(tmp_path.glob("runs/*/status.json"))
    }


def test_a_failed_job_takes_no_other_down_and_the_same_command_repeats_it(launch, tmp_path, monkeypatch):
    step = SegmentationTask.training_step

    def fails_with_weights(task, batch, batch_idx):
        if task.loss.weighted:
            raise RuntimeError("first line\nno luck")
        return step(task, batch, batch_idx)

    monkeypatch.setattr(SegmentationTask, "training_step", fails_with_weights)
    code, out, err = launch("loss=weighted,ce", "seed=0,1")
    assert code == 1
    assert sorted(states(tmp_path).values()) == ["failed", "failed", "finished", "finished"]
    table = out[out.index("4 jobs") :]
    assert table.count("finished") == table.count("failed") == 2
    assert "no luck" in table
    assert "first line" not in table
    assert "Traceback" not in err

    monkeypatch.undo()
    code, out, _ = launch("loss=weighted,ce", "seed=0,1")
    assert code == 0
    table = out[out.index("4 jobs") :]
    assert table.count("skipped") == table.count("finished") == 2
    assert not list(tmp_path.glob("runs/.sweeps"))


def test_a_job_with_wrong_settings_is_a_row_of_the_table(launch, tmp_path):
    code, out, err = launch("data.size=32,16", "optimizer.lr=0.001,-1")
    assert code == 1
    assert out[out.index("4 jobs") :].count("failed") == 3
    assert "data.size=16: wanted" in err
    assert list(states(tmp_path).values()) == ["finished"]


@pytest.mark.parametrize("devices", ["2", "[0,1]", "auto", "-1"])
def test_a_job_on_several_devices_is_refused_with_the_reason(launch, devices):
    code, _, err = launch(f"trainer.devices={devices}", "seed=0,1")
    assert code == 1
    assert "the whole sweep again" in err


def test_an_unknown_choice_ends_before_any_job(launch, tmp_path):
    code, out, err = launch("model=fcn,wilsn")
    assert code == 2
    assert "wilson" in err
    assert not (tmp_path / "runs").exists()
    assert "jobs" not in out


def test_ctrl_c_stops_the_sweep_with_true_states(launch, tmp_path, monkeypatch):
    step = SegmentationTask.training_step

    def interrupted(task, batch, batch_idx):
        if task.trainer.datamodule.seed == 1:
            signal.raise_signal(signal.SIGINT)
        return step(task, batch, batch_idx)

    monkeypatch.setattr(SegmentationTask, "training_step", interrupted)
    code, out, _ = launch("seed=0,1,2")
    assert code == 128 + signal.SIGINT
    assert sorted(states(tmp_path).values()) == ["finished", "interrupted"]
    assert "interrupted" in out[out.index("2 jobs") :]
    monkeypatch.undo()
    code, out, _ = launch("seed=0,1,2")
    assert code == 0
    assert set(states(tmp_path).values()) == {"finished"}


def test_nothing_leaks_from_job_to_job():
    os.environ.pop("LEFT_BEHIND", None)
    with sweep.isolated():
        os.environ["LEFT_BEHIND"] = "1"
        torch.use_deterministic_algorithms(True)
    assert "LEFT_BEHIND" not in os.environ
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_job_of_a_sweep_gives_what_it_gives_alone(launch, command, root, tmp_path):
    launch("aug=none,flip", "seed=3,4", "runs=swept")
    command(train, "data=shapes", f"data.root={root}", *TINY, "aug=flip", "seed=4", "runs=alone")
    (alone,) = (tmp_path / "alone").glob("*/checkpoints/best.ckpt")
    swept = tmp_path / "swept" / alone.relative_to(tmp_path / "alone")
    states = [torch.load(path, weights_only=True)["state_dict"] for path in (alone, swept)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_two_launches_of_one_sweep_do_not_share_a_folder(launch, tmp_path):
    launch("seed=0,1")
    (first, *_) = sorted(path.parent for path in tmp_path.glob("runs/*/result.json"))
    (first / "result.json").unlink()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS_THE_LOCK, str(first / ".lock")],
        stdout=subprocess.PIPE,
    )
    holder.stdout.readline()
    try:
        code, out, err = launch("seed=0,1")
    finally:
        holder.kill()
    assert code == 1
    assert "another process is at the run" in err
    assert "skipped" in out


def test_only_training_sweeps(command):
    code, _, err = command(evaluate, "-m", "run=a,b")
    assert code == 2
    assert "fcnseg.train" in err


@pytest.mark.slow
def test_jobs_run_through_ray_one_killed_one_failing(root, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    overrides = ["seed=0,1,2", "hydra/launcher=gpus", "trainer.max_epochs=60", "patience=null"]
    settings = ["data=shapes", f"data.root={root}", *(o for o in TINY if not o.startswith("trainer.max_epochs"))]
    sweep_command = [sys.executable, "-m", "fcnseg.train", "-m", *settings, *overrides]
    with (tmp_path / "out").open("w") as out:
        running = subprocess.Popen(sweep_command, cwd=tmp_path, stdout=out, stderr=subprocess.STDOUT)
        deadline = time.time() + 150
        while time.time() < deadline and not (rows := list(tmp_path.glob("runs/*seed1*/metrics.csv"))):
            time.sleep(0.2)
        status = json.loads((rows[0].parent / "status.json").read_text())
        os.kill(status["pid"], signal.SIGKILL)
        code = running.wait(timeout=280)
    told = (tmp_path / "out").read_text()
    table = told[told.index("3 jobs") :]
    assert code == 1, told
    assert [table.count(f" {status} ") for status in ("finished", "killed")] == [2, 1]
