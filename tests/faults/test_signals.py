"""Signals: the state is saved within a step, status.json is true, the exit code right, and no process is left."""

import os
import shutil
import signal
import time
from functools import partial

import pytest
from injection import at, evaluate, fill, kill, load, rows, run, send, start, wait_until

from fcnseg import fit, train
from fcnseg.data import packed
from fcnseg.errors import StopError
from fcnseg.learning.task import SegmentationTask
from fcnseg.machine.files import read_json
from fcnseg.machine.signals import StopRequest, stop_requests
from fcnseg.runs.checkpoint_files import newest_good

RARELY = "checkpoint.every_n_steps=null"
SLURM = {
    **{"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1"},
    **{"SLURM_NODEID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODELIST": "localhost"},
}


def in_step(n, signum):
    at(SegmentationTask, "training_step", n, send(signum))


def state(tmp_path):
    """(what status.json says, steps in the newest checkpoint)."""
    path = tmp_path / "runs" / "run"
    return read_json(path / "status.json")["status"], load(newest_good(path / "checkpoints"))["global_step"]


@pytest.mark.parametrize("step", [2, 5])
def test_a_signal_within_an_epoch(tmp_path, args, same, step):
    outcome = run(tmp_path, *args, RARELY, inject=partial(in_step, step, signal.SIGTERM))
    assert outcome.code == 128 + signal.SIGTERM
    assert "stopped by SIGTERM: the same command resumes" in outcome.err
    assert state(tmp_path) == ("interrupted", step)
    assert not (tmp_path / "runs" / "run" / "result.json").exists()
    assert run(tmp_path, *args, RARELY).code == 0
    same(tmp_path / "runs" / "run")


MOMENTS = {
    "in an epoch's last step": (partial(in_step, 3, signal.SIGTERM), 3, 0),
    "in a validation": (partial(at, SegmentationTask, "validation_step", 2, send(signal.SIGTERM)), 6, 1),
    "after a validation": (partial(at, SegmentationTask, "on_validation_epoch_end", 1, send(signal.SIGTERM)), 3, 1),
    "in the test": (partial(at, SegmentationTask, "test_step", 1, send(signal.SIGTERM)), 6, 2),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_between_epochs(tmp_path, args, same, moment):
    inject, step, logged = MOMENTS[moment]
    assert run(tmp_path, *args, RARELY, inject=inject).code == 143
    assert state(tmp_path) == ("interrupted", step)
    path = tmp_path / "runs" / "run" / "metrics.csv"
    assert (len(rows(path.parent)) if path.exists() else 0) == logged
    assert run(tmp_path, *args, RARELY).code == 0
    same(tmp_path / "runs" / "run")


def test_a_signal_while_images_are_packed(tmp_path, args, data, same):
    own = shutil.copytree(data, tmp_path / "data", ignore=shutil.ignore_patterns("packs"))
    args = [arg.replace(str(data), str(own)) for arg in args]
    slow = partial(at, packed, "_build", 1, lambda *_: (send(signal.SIGTERM)(), time.sleep(0.1)))
    assert run(tmp_path, *args, inject=slow).code == 143
    assert not list(tmp_path.rglob("pack.json"))
    assert run(tmp_path, *args).code == 0
    same(tmp_path / "runs" / "run")


@pytest.mark.parametrize(("times", "step"), [(1, 5), (2, 4)], ids=["once: save and stop", "twice: now"])
def test_ctrl_c(tmp_path, args, same, times, step):
    """The state of step 4 was saved; stopping "now", in step 5, there is no later one."""

    def press(*_):
        for _ in range(times):
            send(signal.SIGINT)()

    outcome = run(tmp_path, *args, inject=partial(at, SegmentationTask, "training_step", 5, press))
    assert outcome.code == 130
    assert state(tmp_path) == ("interrupted", step)
    assert run(tmp_path, *args).code == 0
    same(tmp_path / "runs" / "run")


def test_whoever_requeues_the_job_hears_nothing_of_a_run_without_a_warning(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    heard = []
    before = signal.signal(signal.SIGUSR2, lambda signum, _: heard.append(signum))
    try:
        with stop_requests():
            pass
        assert heard == []
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_ctrl_c_after_another_signal_stops_at_once_and_gives_the_exit_code():
    request = StopRequest()
    request.deferred = True
    request.receive(signal.SIGTERM, None)
    with pytest.raises(StopError, match="SIGINT"):
        request.receive(signal.SIGINT, None)
    assert request.signum == signal.SIGINT


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGUSR2])
def test_slurms_warnings(tmp_path, args, same, signum):
    def inject():
        os.environ.update(SLURM)
        in_step(5, signum)

    assert run(tmp_path, *args, RARELY, inject=inject).code == 128 + signum
    assert state(tmp_path) == ("interrupted", 5)
    assert run(tmp_path, *args, RARELY).code == 0
    same(tmp_path / "runs" / "run")


SENT = {"SIGUSR2": [signal.SIGUSR2], "SIGUSR1": [signal.SIGUSR1], "both": [signal.SIGTERM, signal.SIGUSR2]}


@pytest.mark.parametrize("sent", SENT)
def test_whoever_requeues_the_job_gets_slurms_warning_after_the_save(tmp_path, args, sent):
    """As submitit does: its handler was there before ours. SLURM preempts with SIGTERM as well."""

    def warn(*_):
        for signum in SENT[sent]:
            send(signum)()

    def inject():
        os.environ.update(SLURM)
        signal.signal(SENT[sent][-1], lambda *_: print("requeued:", *state(tmp_path)))
        at(SegmentationTask, "training_step", 5, warn)

    outcome = run(tmp_path, *args, RARELY, inject=inject)
    assert outcome.code == 128 + SENT[sent][0]
    assert outcome.out.count("requeued: interrupted 5") == 1


def test_a_second_sigterm_does_not_cost_the_save(tmp_path, args, same):
    inject = partial(at, SegmentationTask, "training_step", 5, lambda *_: [send(signal.SIGTERM)() for _ in range(2)])
    assert run(tmp_path, *args, RARELY, inject=inject).code == 143
    assert state(tmp_path) == ("interrupted", 5)
    assert run(tmp_path, *args, RARELY).code == 0
    same(tmp_path / "runs" / "run")


def test_a_job_queued_again_goes_on_whatever_its_command_says(tmp_path, args):
    outcome = run(tmp_path, *args, RARELY, "resume=never", inject=partial(in_step, 5, signal.SIGTERM))
    assert "the same command, without resume=never, resumes" in outcome.err

    def inject():
        os.environ["SLURM_RESTART_COUNT"] = "1"
        at(SegmentationTask, "training_step", 2, kill)  # one step is left

    assert run(tmp_path, *args, RARELY, "resume=never", inject=inject).code == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_evaluation_is_stopped(tmp_path, unbroken_run, signum):
    inject = partial(at, SegmentationTask, "test_step", 1, send(signum))
    outcome = run(tmp_path, f"run={unbroken_run()}", command=evaluate, inject=inject)
    assert (outcome.code, "Traceback" in outcome.err) == (128 + signum, False), outcome


def test_a_stop_whose_save_fails_says_so(tmp_path, args, same, small_disk):
    def inject():
        at(SegmentationTask, "training_step", 5, lambda *_: fill(small_disk))
        in_step(5, signal.SIGTERM)

    outcome = run(tmp_path, *args, "runs='small disk'", inject=inject)
    assert (outcome.code, "its state could not be saved" in outcome.err) == (1, True), outcome
    assert read_json(small_disk / "run" / "status.json")["status"] == "failed"
    (small_disk / "filler").unlink()
    assert run(tmp_path, *args, "runs='small disk'").code == 0
    same(small_disk / "run")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_from_outside_leaves_no_process(tmp_path, args, signum):
    """At an unforeseen moment of an endless run, after its first checkpoint."""
    process = start(tmp_path, *args, "trainer.max_epochs=100000", "patience=null")
    wait_until((tmp_path / "runs" / "run" / "metrics.csv").exists)
    process.send(signum)
    outcome = process.wait(10)
    assert outcome.code == 128 + signum
    assert process.children() == []
    status, step = state(tmp_path)
    assert status == "interrupted"
    assert step >= 3 * len(rows(tmp_path / "runs" / "run"))


def test_a_killed_run_leaves_no_process(tmp_path, args):
    process = start(tmp_path, *args, inject=partial(in_step, 3, signal.SIGKILL))
    assert process.wait().code == -9
    assert process.children() == []


def test_a_signal_ends_a_sweep_and_says_where(tmp_path, args):
    sweep = [*(arg for arg in args if arg != "name=run"), "-m", "seed=0,1"]
    outcome = run(tmp_path, *sweep, inject=partial(in_step, 2, signal.SIGTERM))
    assert outcome.code == 143
    assert "interrupted" in outcome.out
    assert len([path for path in (tmp_path / "runs").iterdir() if not path.name.startswith(".")]) == 1


def test_a_signal_after_the_result_does_not_undo_it(tmp_path, args, same):
    inject = partial(at, train, "show", 1, send(signal.SIGTERM))
    assert run(tmp_path, *args, inject=inject).code == -signal.SIGTERM
    same(tmp_path / "runs" / "run")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_with_its_result_has_finished(tmp_path, args, same, signum):
    outcome = run(tmp_path, *args, inject=partial(at, fit, "write_json", 1, send(signum), after=True))
    assert outcome.code == 128 + signum
    assert read_json(tmp_path / "runs" / "run" / "status.json")["status"] == "finished"
    assert "has finished" in run(tmp_path, *args).out
    same(tmp_path / "runs" / "run")
