import gc
import json
import os
import signal
import subprocess
import sys
import time
import weakref

import hydra
import pytest
import torch
from hydra.plugins.sweeper import Sweeper

from fcnseg.cli import launchers, sweep
from fcnseg.cli.configs import CONF
from fcnseg.evaluate import evaluate
from fcnseg.learning.task import SegmentationTask
from fcnseg.machine.files import write_json
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


@pytest.fixture(autouse=True, scope="module")
def old_objects():
    """The search for garbage after each job leaves out the million objects of the imports, which takes half a second."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def launch(command, root, monkeypatch):
    monkeypatch.setattr(Sweeper, "validate_batch_is_legal", lambda *_: None)  # composes every job's config once more
    return lambda *overrides: command(train, "-m", "data=shapes", f"data.root={root}", *TINY, *overrides)


HOLDS_THE_LOCK = "import sys, time, filelock as f; a = f.FileLock(sys.argv[1]); a.acquire(); print(flush=True); time.sleep(60)"


def states(tmp_path):
    """The state of every run, in the order of their names."""
    return {path.parent.name: json.loads(path.read_text())["status"] for path in sorted(tmp_path.glob("runs/*/status.json"))}


def test_a_failed_job_takes_no_other_down_and_the_same_command_repeats_it(launch, tmp_path, monkeypatch):
    step = SegmentationTask.training_step

    def fails_with_weights(task, batch, batch_idx):
        if task.loss.weighted:
            raise RuntimeError("first line\nno luck")
        return step(task, batch, batch_idx)

    monkeypatch.setattr(SegmentationTask, "training_step", fails_with_weights)
    code, out, err = launch("loss=weighted,ce")
    assert code == 1
    assert sorted(states(tmp_path).values()) == ["failed", "finished"]
    table = out[out.index("2 jobs") :]
    assert table.count("finished") == table.count("failed") == 1
    assert "no luck" in table
    assert "first line" not in table
    assert "Traceback" not in err

    monkeypatch.undo()
    code, out, _ = launch("loss=weighted,ce")
    assert code == 0
    table = out[out.index("2 jobs") :]
    assert table.count("skipped") == table.count("finished") == 1
    assert not list(tmp_path.glob("runs/.sweeps"))


def test_a_job_with_wrong_settings_is_a_row_of_the_table(launch, tmp_path):
    code, out, err = launch("data.size=32,16", "optimizer.lr=0.001,-1")
    assert code == 1
    assert out[out.index("4 jobs") :].count("failed") == 3
    assert err.count("data.size=16: wanted") == 2
    assert "Traceback" not in err
    assert list(states(tmp_path).values()) == ["finished"]
    (result,) = tmp_path.glob("runs/*/result.json")
    assert json.loads(result.read_text())["size"] == 32


@pytest.mark.parametrize("devices", ["2", "[0,1]"])
def test_a_job_on_several_devices_is_refused_with_the_remedy(launch, devices):
    code, _, err = launch(f"trainer.devices={devices}")
    assert code == 1
    assert "hydra/launcher=gpus" in err


def test_an_unknown_choice_ends_before_any_job(command, tmp_path):
    code, out, err = command(train, "-m", "data=shapes", "model=fcn,wilsn")
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
    assert launch("seed=1")[0] == 0
    assert [*states(tmp_path).values()] == ["finished"] * 2


def test_nothing_leaks_from_job_to_job():
    os.environ.pop("LEFT_BEHIND", None)
    with sweep.isolated():
        os.environ["LEFT_BEHIND"] = "1"
        torch.use_deterministic_algorithms(True)
    assert "LEFT_BEHIND" not in os.environ
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_failed_job_s_network_is_gone_when_the_next_begins(launch, monkeypatch):
    """With the GPU memory that it would have held."""
    networks, gone = [], []

    def fails(task, batch, batch_idx):
        gone.append([network() is None for network in networks])
        networks.append(weakref.ref(task.net))
        raise RuntimeError("boom")

    monkeypatch.setattr(SegmentationTask, "training_step", fails)
    assert launch("seed=0,1")[0] == 1
    assert gone == [[], [True]]


def test_a_job_of_a_sweep_gives_what_it_gives_alone(launch, command, root, tmp_path):
    launch("aug=none,flip", "seed=4", "runs=swept")
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
    assert "another process trains the run" in err
    assert "skipped" in out


def test_only_training_sweeps(command):
    code, _, err = command(evaluate, "-m", "run=a,b")
    assert code == 2
    assert "fcnseg.train" in err


def test_what_is_wrong_before_a_job_begins_is_a_row_of_the_table(launch):
    code, out, err = launch("name=a/b,c")
    assert code == 1
    table = out[out.index("2 jobs") :]
    assert [table.count(f" {status} ") for status in ("failed", "finished")] == [1, 1]
    names = "".join(line.split("│")[1].strip() for line in table.splitlines() if "│" in line)
    assert names.endswith("name=a/bc")  # of both rows, wherever the column folds them
    assert "Traceback" not in err


def test_a_launcher_that_is_not_installed_is_refused_with_its_extra(launch, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = launch("seed=0", "hydra/launcher=gpus")
    assert (code, "hydra/launcher=gpus is not installed" in err, 'pip install ".[ray]"' in err) == (2, True, True)


def test_a_number_that_is_text_names_the_run_as_the_job_does(launch):
    assert launch("trainer.precision=32-true,32")[0] == 0
    out = launch("trainer.precision=32-true,32")[1]
    assert out[out.index("2 jobs") :].count(" skipped ") == 2


def test_an_error_with_brackets_is_shown_whole(launch, monkeypatch):
    def step(*_):
        raise RuntimeError("[enforce fail at alloc.cpp:1] no room [/here]")

    monkeypatch.setattr(SegmentationTask, "training_step", step)
    code, out, _ = launch("seed=0,1")
    assert code == 1
    assert out.count("[enforce") == out.count("[/here]") == 2  # jobs


def test_hydras_own_word_for_a_sweep_is_one(command, root):
    code, out, _ = command(train, "data=shapes", f"data.root={root}", *TINY, "hydra.mode=MULTIRUN")
    assert code == 0
    assert "1 jobs" in out


def test_a_job_whose_process_died_early_is_a_row(tmp_path, capsys):
    journal = sweep.Journal(tmp_path / "runs")
    journal.add_lost(0, ["seed=0"], RuntimeError("head\nno such module"))
    journal.add_lost(0, ["seed=0"], RuntimeError("a later word on it"))
    assert not journal.close()
    out = capsys.readouterr().out
    assert all(word in out for word in ("seed=0", "failed", "no such module"))
    assert "a later word" not in out


def test_a_folder_that_cannot_be_written_is_refused(launch, tmp_path):
    (tmp_path / "file").touch()
    code, _, err = launch("seed=0,1", "runs=file/runs")
    assert (code, "cannot write to file/runs" in err, "runs=" in err) == (2, True, True)


@pytest.mark.parametrize(("address", "fraction", "gpus"), [("null", None, 0), ("ray://there:1", None, 1), ("null", 0.25, 0.25)])
def test_a_gpu_a_job(tmp_path, address, fraction, gpus):
    """On this machine if it has one, on a cluster always, or as much of one as is asked for."""
    ray_core = pytest.importorskip("hydra_plugins.hydra_ray_launcher._core")
    before = dict(vars(ray_core))
    launchers.prepare_launcher("gpus", sweep.Journal(tmp_path).add_lost)
    vars(ray_core).update(before)
    overrides = ["hydra/launcher=gpus", f"hydra.launcher.ray.init.address={address}"]
    overrides += [f"hydra.launcher.ray.remote.num_gpus={fraction}"] if fraction else []
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        launcher = hydra.compose("config", overrides=overrides, return_hydra_config=True).hydra.launcher.ray
    assert launcher.remote.num_gpus == gpus
    assert (launcher.remote.max_calls, launcher.remote.max_retries) == (1, 0)
    assert launcher.init.object_store_memory is None  # on a cluster, Ray refuses any other


def test_slurms_launcher_is_refused_where_there_is_no_slurm(launch, monkeypatch, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = launch("seed=0", "hydra/launcher=slurm")
    assert (code, "found no srun on this machine" in err, "Traceback" in err) == (2, True, False)


def test_slurms_launcher_asks_for_a_gpu_and_to_be_queued_again():
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("config", overrides=["hydra/launcher=slurm"], return_hydra_config=True)
    launcher = cfg.hydra.launcher
    assert launcher._target_.endswith("SlurmLauncher")
    assert (launcher.gpus_per_node, launcher.tasks_per_node, launcher.max_num_timeout) == (1, 1, 20)


def in_processes(launcher, root, tmp_path, *overrides):
    """A sweep in a process of its own, whose jobs are in theirs."""
    settings = ["data=shapes", f"data.root={root}", *(o for o in TINY if not o.startswith("trainer.max_epochs"))]
    settings += ["trainer.max_epochs=60", "patience=null", f"hydra/launcher={launcher}", *overrides]
    out = (tmp_path / "out").open("w")
    command = [sys.executable, "-m", "fcnseg.train", "-m", *settings]
    return subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=out,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # these tests may run where Ctrl-C is ignored
    )


def status_of(tmp_path, run):
    """What status.json of a run says, once it has trained an epoch."""
    deadline = time.time() + 150
    while time.time() < deadline and not (rows := list(tmp_path.glob(f"runs/*{run}*/metrics.csv"))):
        time.sleep(0.2)
    return json.loads((rows[0].parent / "status.json").read_text())


def table(tmp_path):
    out = (tmp_path / "out").read_text()
    assert "jobs" in out, out
    rows = out[out.index(" jobs") :]
    words = ("finished", "skipped", "failed", "killed", "interrupted")
    return {status: count for status in words if (count := rows.count(f" {status} "))}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["gpus", "submitit_local"])
def test_jobs_in_processes_of_their_own_one_killed_one_failing(launcher, root, tmp_path):
    """The others go on, and the same command again repeats what failed and resumes what was killed."""
    choices = ["optimizer.lr=0.001,-1", "seed=0,1"]
    running = in_processes(launcher, root, tmp_path, *choices)
    os.kill(status_of(tmp_path, "seed1")["pid"], signal.SIGKILL)
    assert running.wait(timeout=280) == 1
    assert table(tmp_path) == {"finished": 1, "failed": 2, "killed": 1}
    assert in_processes(launcher, root, tmp_path, *choices).wait(timeout=280) == 1
    assert table(tmp_path) == {"finished": 1, "skipped": 1, "failed": 2}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["gpus", "submitit_local"])
def test_ctrl_c_stops_jobs_in_processes_of_their_own(launcher, root, tmp_path):
    running = in_processes(launcher, root, tmp_path, "seed=0,1", "trainer.max_epochs=100000")
    assert [status_of(tmp_path, run)["status"] for run in ("seed0", "seed1")] == ["running"] * 2
    running.send_signal(signal.SIGINT)
    try:
        assert running.wait(timeout=120) == 130
    finally:
        running.kill()
    assert set(states(tmp_path).values()) == {"interrupted"}
    assert table(tmp_path) == {"interrupted": 2}


def test_a_sweep_runs_in_any_folder(command, root, tmp_path):
    folder = tmp_path / "anna's [work]"
    folder.mkdir()
    outcome = command(train, "-m", "data=shapes", f"data.root={root}", *TINY, "seed=0", cwd=folder)
    assert outcome.code == 0, outcome.err
    assert len(list(folder.glob("runs/*/result.json"))) == 1


@pytest.mark.parametrize(
    ("status", "shown", "all_done"),
    [
        ("running", "killed", False),
        ("failed", "failed", False),
        ("interrupted", "interrupted", False),
        ("finished", "finished", True),
        ("skipped", "skipped", True),
    ],
)
def test_a_sweep_is_done_when_its_jobs_are(tmp_path, capsys, status, shown, all_done):
    """A job that still says "running" when the sweep ends was killed."""
    journal = sweep.Journal(tmp_path / "runs")
    write_json(journal.folder / "0.json", {**sweep.new_record(["seed=0"]), "status": "finished", "miou": 0.5})
    write_json(journal.folder / "1.json", {**sweep.new_record(["seed=1"]), "status": status})
    assert journal.close() == all_done
    assert f" {shown} " in capsys.readouterr().out.splitlines()[-2]
