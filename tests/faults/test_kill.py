"""SIGKILL at every kind of moment: the same command again ends as if nothing had happened."""

import os
import shutil
import signal
import tempfile
from functools import partial

import pytest
import torch
from injection import (
    TIME,
    at,
    content,
    differences,
    kill,
    kill_at_file_operation,
    load,
    rows,
    run,
    send,
    tiny,
    torn_save,
)
from torch.utils.tensorboard import SummaryWriter

from fcnseg import fit
from fcnseg.callbacks import checkpoints as resume
from fcnseg.callbacks.checkpoints import Checkpoints
from fcnseg.callbacks.epoch_log import EpochLog
from fcnseg.data.module import DataModule
from fcnseg.learning.divided_task import DividedTask
from fcnseg.learning.task import SegmentationTask
from fcnseg.machine.files import read_json
from fcnseg.results import scoring
from fcnseg.runs import checkpoint_files
from fcnseg.runs.checkpoint_files import newest_good
from fcnseg.runs.folder import Run
from fcnseg.runs.run_log import RunLog


def of_best(path, *_, **__):
    return path.name == "best.ckpt"


MOMENTS = {  # steps 1 to 3 are the first epoch's, 4 to 6 the second's
    "before anything": partial(at, DataModule, "prepare_data", 1, kill),
    "folder being made": partial(at, Run, "start", 1, kill, after=True),
    **{f"in step {n}": partial(at, SegmentationTask, "training_step", n, kill) for n in (1, 2, 3, 4, 6)},
    "optimiser has stepped": partial(at, torch.optim.AdamW, "step", 5, kill, after=True),
    "step saved": partial(at, Checkpoints, "on_train_batch_end", 5, kill, after=True),
    "before the first validation": partial(at, SegmentationTask, "on_validation_start", 1, kill),
    "in the first validation": partial(at, SegmentationTask, "validation_step", 1, kill, after=True),
    "in the last validation": partial(at, SegmentationTask, "validation_step", 2, kill),
    "after the last validation": partial(at, SegmentationTask, "on_validation_epoch_end", 2, kill, after=True),
    "before the first epoch's logs": partial(at, EpochLog, "after_epoch", 1, kill),
    "in the writing of TensorBoard": partial(at, SummaryWriter, "add_image", 2, kill),
    "between the first epoch's logs and its save": partial(at, Checkpoints, "after_epoch", 1, kill),
    "between the last epoch's logs and its save": partial(at, Checkpoints, "after_epoch", 2, kill),
    "between best.ckpt and last.ckpt": partial(at, resume, "save", 1, kill, after=True, when=of_best),
    "first epoch saved": partial(at, Checkpoints, "after_epoch", 1, kill, after=True),
    "last epoch saved": partial(at, Checkpoints, "after_epoch", 2, kill, after=True),
    "in the test": partial(at, scoring, "measure", 1, kill),
    "test logged": partial(at, RunLog, "finish", 1, kill, after=True),
    "before result.json": partial(at, fit, "write_json", 1, kill),
}


LIKE_OTHERS = ("in step 2", "in step 6", "optimiser has stepped", "before the first validation", "first epoch saved")


@pytest.mark.parametrize("moment", [pytest.param(m, marks=[pytest.mark.slow] * (m in LIKE_OTHERS)) for m in MOMENTS])
def test_a_killed_run_ends_as_an_unbroken_one(tmp_path, args, same, moment):
    assert run(tmp_path, *args, inject=MOMENTS[moment]).code == -9
    path = tmp_path / "runs" / "run"
    assert not (path / "result.json").exists()
    if path.exists():
        assert read_json(path / "status.json")["status"] == "running"
    outcome = run(tmp_path, *args)
    assert outcome.code == 0, outcome.err
    same(path)


def test_killed_after_its_result_a_run_has_finished(tmp_path, args, same):
    inject = partial(at, fit, "write_json", 1, kill, after=True)
    assert run(tmp_path, *args, inject=inject).code == -9
    assert "has finished" in run(tmp_path, *args).out
    same(tmp_path / "runs" / "run")


SELDOM = ["checkpoint.min_seconds=1000", "checkpoint.every_n_steps=null"]  # as where epochs are shorter than saves


def test_an_epoch_that_was_not_saved_comes_again(tmp_path, args, same):
    path = tmp_path / "runs" / "run"
    inject = partial(at, SegmentationTask, "training_step", 5, kill)
    assert run(tmp_path, *args, *SELDOM, inject=inject).code == -9
    assert newest_good(path / "checkpoints") is None
    assert run(tmp_path, *args, *SELDOM, inject=partial(at, scoring, "measure", 1, kill)).code == -9
    assert load(newest_good(path / "checkpoints"))["global_step"] == 6  # the last epoch is saved in any case
    outcome = run(tmp_path, *args, *SELDOM)
    assert outcome.code == 0, outcome.err
    same(path)


def test_a_signal_saves_what_was_not_saved(tmp_path, args, same):
    path = tmp_path / "runs" / "run"
    inject = partial(at, SegmentationTask, "training_step", 5, send(signal.SIGTERM))
    assert run(tmp_path, *args, *SELDOM, inject=inject).code == 143
    assert load(path / "checkpoints" / "last.ckpt")["global_step"] == 5
    assert (path / "checkpoints" / "best.ckpt").exists()
    assert run(tmp_path, *args, *SELDOM).code == 0
    same(path)


@pytest.fixture
def elsewhere(other_file_system):
    """TMPDIR on another file system, where a rename would be a copy."""

    def elsewhere():
        os.environ["TMPDIR"] = tempfile.tempdir = str(other_file_system)

    yield elsewhere
    assert list(other_file_system.iterdir()) == []


def test_a_checkpoint_torn_in_the_middle_leaves_the_one_before(tmp_path, args, same, elsewhere):
    def torn():
        elsewhere()
        torn_save(5)

    path = tmp_path / "runs" / "run"
    assert run(tmp_path, *args, inject=torn).code == -9
    assert (path / "checkpoints" / ".last.ckpt.draft").stat().st_size > 1000
    assert checkpoint_files.damage(path / "checkpoints" / "last.ckpt") is None
    outcome = run(tmp_path, *args)
    assert (outcome.code, "skipped" in outcome.err) == (0, False), outcome.err
    same(path)
    assert not list(path.rglob("*.draft"))


MID_SAVE = {"owner": Checkpoints, "name": "_save_last", "when": lambda _, trainer: trainer.global_step == 5}
END_OF_EPOCH = {"owner": EpochLog, "name": "after_epoch", "when": lambda *_: True}


@pytest.mark.parametrize(
    ("save", "operations", "steps", "finished"),
    [
        pytest.param(MID_SAVE, 15, (4, 5), (10, 11)),  # 10 and 11: between and after the two renames
        pytest.param(END_OF_EPOCH, 30, (3,), range(31), marks=pytest.mark.slow),
    ],
    ids=["within an epoch", "after an epoch"],
)
def test_killed_before_any_file_operation_of_a_save(tmp_path, args, same, elsewhere, save, operations, steps, finished):
    owner, name, when = save.values()
    runs = tmp_path / "runs"
    assert run(tmp_path, *args, inject=partial(at, owner, name, 1, kill, when=when)).code == -9
    before = runs.rename(tmp_path / "before")
    for n in range(1, operations + 1):

        def killed(n=n):
            elsewhere()
            at(owner, name, 1, lambda *_: kill_at_file_operation(n), when=when)

        shutil.copytree(before, runs)
        assert run(tmp_path, *args, inject=killed).code == -9
        whole = {path.name: checkpoint_files.damage(path) for path in (runs / "run" / "checkpoints").glob("[!.]*.ckpt")}
        assert set(whole.values()) == {None}, (n, whole)
        assert load(newest_good(runs / "run" / "checkpoints"))["global_step"] in steps, n
        if n in finished:
            outcome = run(tmp_path, *args)
            assert (outcome.code, "from the beginning" in outcome.err) == (0, False), (n, outcome.err)
            same(runs / "run")
        shutil.rmtree(runs)


@pytest.mark.parametrize("net", ["wilson", "unet", "dropping", "augmented"])
def test_every_network_resumes_exactly(tmp_path, data, same, net):
    """The FCN: above. In deterministic mode, with the weighted loss; and one that draws numbers."""
    args = tiny(data, net)
    assert run(tmp_path, *args, inject=partial(at, SegmentationTask, "training_step", 5, kill)).code == -9
    outcome = run(tmp_path, *args)
    assert outcome.code == 0, outcome.err
    same(tmp_path / "runs" / "run", net)


def test_a_value_logged_before_the_kill_is_in_the_epochs_row(tmp_path, args):
    """A monitor of Lightning's logs the learning rate at an epoch's start, and the run is killed within the epoch."""
    args = [*args, "callbacks=lr_monitor", "name=whole"]
    assert run(tmp_path, *args).code == 0
    args[-1] = "name=killed"
    assert run(tmp_path, *args, inject=partial(at, SegmentationTask, "training_step", 5, kill)).code == -9
    assert run(tmp_path, *args).code == 0
    whole, killed = (rows(tmp_path / "runs" / name) for name in ("whole", "killed"))
    assert [row["lr-AdamW"] for row in killed] == [row["lr"] for row in killed]
    assert killed == whole


def note(path, inject):
    """Write down all that loggers get, a line for a step, a name and a value; and break the run by `inject`."""
    log_metrics = RunLog.log_metrics

    def noting(log, metrics, step=None):
        with path.open("a") as file:
            file.writelines(f"{step} {name} {value}\n" for name, value in metrics.items() if name not in TIME)
        log_metrics(log, metrics, step)

    RunLog.log_metrics = noting
    inject()


SIGTERM = send(signal.SIGTERM)


def breaks_of(task):
    """The ends of the sessions of one run, after its checkpoint.every_n_steps; `task` is the class of its task."""
    return {
        "after an epoch": ("null", partial(at, task, "training_step", 4, kill)),
        "after two epochs": ("null", *(partial(at, task, "training_step", n, kill) for n in (5, 4))),
        "within an epoch": (2, partial(at, task, "training_step", 6, kill)),
        "before a validation": ("null", partial(at, task, "on_validation_start", 2, SIGTERM)),
        "between epochs, then within one": (
            *(1, partial(at, EpochLog, "on_train_epoch_start", 2, SIGTERM)),
            partial(at, task, "training_step", 3, kill),
        ),
    }


@pytest.mark.parametrize(("interval", "parts", "task"), [("step", 1, SegmentationTask), ("epoch", 2, DividedTask)])
def test_a_resumed_run_logs_under_the_steps_of_an_unbroken_one(tmp_path, args, interval, parts, task):
    """As every logger gets them; Lightning's monitor logs the learning rate of every other step, or of every epoch."""
    every = ["+trainer.log_every_n_steps=2"] if interval == "step" else []
    args = [*args, "callbacks=lr_monitor", f"callbacks.lr_monitor.logging_interval={interval}", *every]
    args = [*args, "schedule=poly", "trainer.max_epochs=4", f"+trainer.accumulate_grad_batches={parts}"]
    logged, contents, moments = {}, {}, breaks_of(task)
    for moment, (steps, *breaks) in {"never": (1,), **moments}.items():
        notes, own = tmp_path / f"{moment}.txt", (f"runs='{moment}'", f"checkpoint.every_n_steps={steps}")
        for end in breaks:
            assert run(tmp_path, *args, *own, inject=partial(note, notes, end)).code in (-9, 143)
        outcome = run(tmp_path, *args, *own, inject=partial(note, notes, bool))
        assert outcome.code == 0, outcome.err
        logged[moment] = set(notes.read_text().splitlines())  # killed epochs are logged twice
        contents[moment] = content(tmp_path / moment / "run")
    for moment in moments:
        assert differences(contents[moment], contents["never"]) == [], moment
        assert logged[moment] == logged["never"], moment


def test_the_transfer_net_resumes_exactly(tmp_path, data, same):
    """By SIGTERM in the second step: its files are too large to save after every one."""
    args = tiny(data, "transfer")
    inject = partial(at, SegmentationTask, "training_step", 2, send(signal.SIGTERM))
    assert run(tmp_path, *args, inject=inject).code == 143
    assert load(tmp_path / "runs" / "run" / "checkpoints" / "last.ckpt")["global_step"] == 2
    outcome = run(tmp_path, *args)
    assert outcome.code == 0, outcome.err
    same(tmp_path / "runs" / "run", "transfer")


def test_a_run_disturbed_in_one_weight_is_told_apart(tmp_path, args, unbroken_run):
    """What `same` compares changes if one step is trained differently: it is able to fail."""

    def disturb(task, batch, index):
        with torch.no_grad():
            next(task.parameters()).mul_(1.5)

    outcome = run(tmp_path, *args, inject=partial(at, SegmentationTask, "training_step", 5, disturb))
    assert outcome.code == 0, outcome.err
    found = differences(content(tmp_path / "runs" / "run"), content(unbroken_run()))
    assert {path.split("/")[1] for path in found} >= {"last", "rows"}
