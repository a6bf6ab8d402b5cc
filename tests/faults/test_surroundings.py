"""What is around a run: other runs, disks that cannot be written, names, git, the network, the clock, other settings."""

import ctypes
import errno
import json
import os
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from injection import at, content, differences, evaluate, kill, load, mount, rows, run, send, start, tensorboard, wait_until

from fcnseg import fit
from fcnseg.callbacks.checkpoints import Checkpoints
from fcnseg.learning.task import SegmentationTask
from fcnseg.machine import precision
from fcnseg.machine.files import read_json, write_json
from fcnseg.results import provenance
from fcnseg.runs import folder as runs
from fcnseg.runs import status


def no_room(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def hold(*_, **__):
    """In the folder where the process was started."""
    Path("holding").touch()
    wait_until(Path("go").exists)


def test_a_second_process_at_a_run_is_refused_and_the_first_undisturbed(tmp_path, args, same):
    first = start(tmp_path, *args, inject=partial(at, SegmentationTask, "training_step", 4, hold))
    wait_until((tmp_path / "holding").exists)
    for again in ([], ["resume=never"]):
        second = run(tmp_path, *args, *again)
        assert (second.code, "another process trains the run" in second.err) == (2, True)
    (tmp_path / "go").touch()
    assert first.wait().code == 0
    same(tmp_path / "runs" / "run")


def test_of_two_started_at_once_one_trains(tmp_path, args, same):
    outcomes = [process.wait() for process in [start(tmp_path, *args) for _ in range(2)]]
    codes = sorted(outcome.code for outcome in outcomes)
    assert codes in ([0, 2], [0, 0])  # refused; or so late that the run had finished
    assert codes == [0, 2] or any("has finished" in outcome.out for outcome in outcomes)
    same(tmp_path / "runs" / "run")


def test_a_run_that_another_process_ends_meanwhile_is_not_trained_again(tmp_path, args, same):
    """The second has seen that there is no result and no checkpoint; before it locks the run, the first ends."""

    def of_run(lock, *_, **__):
        return lock.lock_file.endswith("/.lock")

    second = start(tmp_path, *args, inject=partial(at, FileLock, "acquire", 1, hold, when=of_run))
    wait_until((tmp_path / "holding").exists)
    assert run(tmp_path, *args).code == 0
    trained = (tmp_path / "runs" / "run" / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    (tmp_path / "go").touch()
    assert second.wait().code == 0
    assert (tmp_path / "runs" / "run" / "checkpoints" / "last.ckpt").stat().st_mtime_ns == trained
    same(tmp_path / "runs" / "run")


def test_read_only_output_is_told(tmp_path, args):
    disk = tmp_path / "disk"
    if why := mount(disk, 1):
        pytest.skip(f"this machine does not let us mount a tmpfs: {why}")
    try:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        outcome = run(tmp_path, *args, f"runs={disk}/runs")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    assert outcome.code == 2
    assert f"cannot write the run folder {disk}/runs/run" in outcome.err
    assert "choose another with runs=" in outcome.err


@pytest.mark.parametrize(
    ("action", "code", "status"),
    [(no_room, 1, "failed"), (send(signal.SIGTERM), 143, "interrupted")],
    ids=["no room", "SIGTERM"],
)
def test_a_run_that_ends_while_its_folder_is_made_says_so(tmp_path, args, same, action, code, status):
    """After its status said "running", before its config is written."""
    outcome = run(tmp_path, *args, inject=partial(at, runs, "write_text", 1, action))
    assert outcome.code == code, outcome.err
    assert ("make room there" in outcome.err) == (status == "failed")
    assert read_json(tmp_path / "runs" / "run" / "status.json")["status"] == status
    assert run(tmp_path, *args).code == 0
    same(tmp_path / "runs" / "run")


def test_an_output_folder_that_is_a_file_is_told(tmp_path, args):
    (tmp_path / "runs").touch()
    outcome = run(tmp_path, *args)
    assert (outcome.code, "cannot write the run folder runs/run" in outcome.err) == (2, True)


NAMES = ["two words é ü 猫", pytest.param("a=b", marks=pytest.mark.slow), "a=b,c"]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_all_kinds(tmp_path, args, unbroken_run, name):
    """For the run, the folder of runs, and the folder of data."""
    args = [arg for arg in args if not arg.startswith(("name=", "data.root="))]
    data = tmp_path / f"data {name}"
    mine = [*args, f"name='{name}'", f"runs='runs {name}'", f"data.root='{data}'"]
    assert run(tmp_path, *mine, inject=partial(at, SegmentationTask, "training_step", 5, kill)).code == -9
    outcome = run(tmp_path, *mine)
    assert outcome.code == 0, outcome.err
    path = tmp_path / f"runs {name}" / name
    found, wanted = content(path), content(unbroken_run())
    assert [differences(found[part], wanted[part]) for part in ("last", "rows")] == [[], []]
    outcome = run(tmp_path, f"run='runs {name}/{name}'", command=evaluate)
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("which", ["no git", "no checkout"])
def test_without_git_the_commit_is_unknown(tmp_path, args, which):
    def inject():
        if which == "no git":
            os.environ["PATH"] = str(tmp_path)
        else:
            os.environ["GIT_DIR"] = str(tmp_path / "none")

    outcome = run(tmp_path, *args, inject=inject, with_git=True)
    assert outcome.code == 0, outcome.err
    result = read_json(tmp_path / "runs" / "run" / "result.json")
    assert (result["commit"], result["dirty"]) == (None, None)
    outcome = run(tmp_path, *args, "name='with git'", with_git=True)
    commit = read_json(tmp_path / "runs" / "with git" / "result.json")["commit"]
    assert outcome.code == 0
    assert commit is None or len(commit) == 40  # None where this suite runs outside a checkout


def cut_off():
    """Give this process a network of its own, in which there is nothing, not even a loopback."""
    if ctypes.CDLL(None, use_errno=True).unshare(0x40000000):
        print("no unshare", flush=True)
        os._exit(77)


def test_without_a_network_shapes_train(tmp_path, args, same):
    outcome = run(tmp_path, *args, inject=cut_off)
    if outcome.code == 77:
        pytest.skip("this machine does not let us leave its network")
    assert outcome.code == 0, outcome.err
    same(tmp_path / "runs" / "run")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["data=voc2012"], ["no mirror sent VOCtrainval_11-May-2012.tar", "by hand and put it at"]),
        pytest.param(
            ["model=transfer", "model.backbone=resnet18"],
            ["cannot download model.weights=DEFAULT", "by hand"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["data", "weights"],
)
def test_without_a_network_what_to_fetch_by_hand_is_told(tmp_path, data, args, told):
    def inject():
        os.environ["TORCH_HOME"] = str(tmp_path / "torch")
        cut_off()

    root = data if "data=voc2012" not in args else "data"  # the default, into which VOC may be downloaded
    args = [*args, *([] if "data=voc2012" in args else ["data=shapes"]), f"data.root={root}"]
    outcome = run(tmp_path, *args, inject=inject)
    if outcome.code == 77:
        pytest.skip("this machine does not let us leave its network")
    assert outcome.code == 2
    assert all(words in outcome.err for words in told), outcome.err
    assert "Traceback" not in outcome.err


def backwards():
    """The clock shows a year ago, as after a dead battery; the monotonic one is what it was."""
    now = time.time
    time.time = lambda: now() - 365 * 86400


def test_a_clock_set_back_changes_no_result(tmp_path, args, unbroken_run):
    assert run(tmp_path, *args, inject=partial(at, SegmentationTask, "training_step", 5, kill)).code == -9
    outcome = run(tmp_path, *args, inject=backwards)
    assert outcome.code == 0, outcome.err
    found, wanted = content(tmp_path / "runs" / "run"), content(unbroken_run())
    for part in ("last", "best", "rows", "status"):
        assert differences(found[part], wanted[part]) == []
    assert all(row["seconds"] >= 0 for row in runs.Run(tmp_path / "runs" / "run").epochs)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_clock_set_back_repeats_no_epoch_in_tensorboard(tmp_path, args, epoch):
    """Killed when an epoch was logged and not yet saved; the file of the second part sorts before that of the first."""
    assert run(tmp_path, *args, inject=partial(at, Checkpoints, "after_epoch", epoch, kill)).code == -9
    assert run(tmp_path, *args, inject=backwards).code == 0
    steps = [step for tag, step, _ in tensorboard(tmp_path / "runs" / "run") if tag == "val/miou"]
    assert sorted(steps) == [0, 1]


def test_a_clock_set_back_within_a_run_does_not_stop_its_saves(tmp_path, args):
    """Saves by time, after every step; going by the wall clock, none would come for a year."""

    def often(checkpoints, *_):
        checkpoints.every_n_seconds = 1e-6

    def inject():
        at(Checkpoints, "on_train_start", 1, often)
        at(SegmentationTask, "training_step", 2, lambda *_: backwards())
        at(SegmentationTask, "training_step", 3, kill)

    assert run(tmp_path, *args, "checkpoint.every_n_steps=null", inject=inject).code == -9
    assert load(tmp_path / "runs" / "run" / "checkpoints" / "last.ckpt")["global_step"] == 2


OTHERS = {"seed": "seed=1", "model": "model=unet", "size": "data.size=48", "loss": "loss=weighted"}
OTHERS |= {"lr": "optimizer.lr=0.02", "eps": "+optimizer.eps=0.1", "clip": "+trainer.gradient_clip_val=2"}


def test_a_resume_with_other_settings_under_the_same_name_is_refused(tmp_path, args, same):
    assert run(tmp_path, *args, inject=partial(at, SegmentationTask, "training_step", 5, kill)).code == -9
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")}
    for setting, override in OTHERS.items():
        outcome = run(tmp_path, *args, override, with_hydra=override.startswith("+"))
        assert outcome.code == 2, setting
        key, _, value = override.lstrip("+").partition("=")
        row = f"choices.{key}: {value} now, " if setting in ("model", "loss") else f"{key}: {value} now, "
        assert any(line.strip().startswith(row) for line in outcome.err.splitlines()), outcome.err
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")} == files
    assert run(tmp_path, *args).code == 0
    same(tmp_path / "runs" / "run")


def test_a_finished_run_does_not_answer_for_other_settings(tmp_path, args, unbroken_run):
    shutil.copytree(unbroken_run(), tmp_path / "runs" / "run")
    outcome = run(tmp_path, *args, "seed=1")
    assert (outcome.code, "seed: 1 now, 0 then" in outcome.err) == (2, True), outcome
    outcome = run(tmp_path, *args, "-m", "seed=0,1")
    assert outcome.code == 1
    assert [outcome.out.count(f" {status} ") for status in ("skipped", "failed")] == [1, 1]


@pytest.mark.parametrize("moment", range(1, 5))
def test_starting_over_killed_while_it_clears_the_folder_mixes_nothing(tmp_path, args, unbroken_run, moment):
    """The old run's weights are never taken for the new one's."""
    path = shutil.copytree(unbroken_run(), tmp_path / "runs" / "run")
    other = [*args, "seed=1"]

    def inject():
        at(shutil, "rmtree", (moment + 1) // 2, kill, after=moment % 2 == 0)

    assert run(tmp_path, *other, "resume=never", inject=inject).code == -9
    assert read_json(path / "status.json")["status"] == "running"
    refused = run(tmp_path, *other)
    if refused.code == 2:  # the old run's config is still there
        assert "resume=never" in refused.err
        assert run(tmp_path, *other, "resume=never").code == 0
    assert run(tmp_path, *other, "runs=whole").code == 0
    assert differences(content(path), content(tmp_path / "whole" / "run")) == []


def test_a_resume_with_other_settings_and_no_name_is_a_run_of_its_own(tmp_path, args):
    args = [arg for arg in args if arg != "name=run"]
    for other in ([], *([OTHERS[setting]] for setting in ("seed", "model", "size"))):
        inject = partial(at, SegmentationTask, "training_step", 2, kill)
        assert run(tmp_path, *args, *other, inject=inject).code == -9
    assert len(list((tmp_path / "runs").iterdir())) == 4


@pytest.fixture
def longer(args):
    return [*(arg for arg in args if "max_epochs" not in arg), "trainer.max_epochs=3"]


def test_a_finished_run_extended_on_a_constant_schedule_is_the_longer_run(tmp_path, args, longer):
    for folder, commands in (("extended", (args, longer)), ("whole", (longer,))):
        for command in commands:
            outcome = run(tmp_path, *command, "schedule=constant", f"runs={folder}")
            assert outcome.code == 0, outcome.err
    found, wanted = (content(tmp_path / folder / "run") for folder in ("extended", "whole"))
    for part in ("last", "best", "rows", "result", "status"):
        if part == "last":  # the planned epochs of the schedule are the same, as are all weights and states
            assert differences(found[part]["state_dict"], wanted[part]["state_dict"]) == []
            assert differences(found[part]["optimizer_states"], wanted[part]["optimizer_states"]) == []
        else:
            assert differences(found[part], wanted[part]) == []


def test_a_finished_run_extended_on_a_cosine_follows_the_longer_one_and_says_so(tmp_path, args, longer):
    assert run(tmp_path, *args).code == 0
    outcome = run(tmp_path, *longer)
    assert outcome.code == 0, outcome.err
    assert "trainer.max_epochs is now 3: from epoch 3 on" in outcome.err
    assert "(0 becomes 0.0025)" in outcome.err
    found = rows(tmp_path / "runs" / "run")
    assert [float(row["lr"]) for row in found] == pytest.approx([0.01, 0.005, 0.0025])
    assert [row["epoch"] for row in found] == ["0", "1", "2"]
    assert read_json(tmp_path / "runs" / "run" / "result.json")["epochs"] == 3


def test_an_extension_killed_and_resumed_is_the_extension(tmp_path, args, longer):
    for folder in ("whole", "killed"):
        assert run(tmp_path, *args, f"runs={folder}").code == 0
    assert run(tmp_path, *longer, "runs=whole").code == 0
    inject = partial(at, SegmentationTask, "training_step", 2, kill)
    assert run(tmp_path, *longer, "runs=killed", inject=inject).code == -9
    assert not (tmp_path / "killed" / "run" / "result.json").exists()
    outcome = run(tmp_path, *longer, "runs=killed")
    assert outcome.code == 0, outcome.err
    assert differences(content(tmp_path / "killed" / "run"), content(tmp_path / "whole" / "run")) == []


def test_a_run_stopped_before_a_validation_can_be_extended(tmp_path, args, longer):
    """Its schedule has stepped already, its epoch does not count yet."""
    inject = partial(at, SegmentationTask, "validation_step", 2, send(signal.SIGTERM))
    assert run(tmp_path, *args, inject=inject).code == 143
    assert run(tmp_path, *longer).code == 0
    assert [float(row["lr"]) for row in rows(tmp_path / "runs" / "run")] == pytest.approx([0.01, 0.005, 0.0025])


def test_fewer_epochs_than_there_are_is_refused(tmp_path, args):
    assert run(tmp_path, *args, inject=partial(at, SegmentationTask, "test_step", 1, kill)).code == -9
    outcome = run(tmp_path, *args, "trainer.max_epochs=1")
    assert (outcome.code, "has 2 epochs behind it" in outcome.err) == (2, True), outcome
    assert run(tmp_path, *args).code == 0


def test_another_end_of_the_schedule_alone_is_another_run(tmp_path, args, unbroken_run):
    shutil.copytree(unbroken_run(), tmp_path / "runs" / "run")
    outcome = run(tmp_path, *args, "schedule.T_max=7")
    assert (outcome.code, "schedule.T_max: 7 now, 2 then" in outcome.err) == (2, True), outcome


def test_a_run_whose_patience_ran_out_goes_on_with_more(tmp_path, args):
    args = [*args, "optimizer.lr=0", "model=unet", "model.widths=[4,8]", "trainer.max_epochs=4", "schedule=constant"]
    assert run(tmp_path, *args, "patience=1").code == 0
    assert len(rows(tmp_path / "runs" / "run")) == 2
    longer = run(tmp_path, *args, "patience=1", "trainer.max_epochs=5")
    assert (longer.code, "patience=1 epochs" in longer.err, "follows" in longer.err) == (0, True, False)
    assert len(rows(tmp_path / "runs" / "run")) == 2
    assert run(tmp_path, *args, "patience=2", "trainer.max_epochs=5").code == 0
    assert len(rows(tmp_path / "runs" / "run")) == 3


def test_patience_that_ran_out_stays_so(tmp_path, args):
    """Stopped after the second of five epochs; killed in the test, it does not train on."""
    args = [*args, "optimizer.lr=0", "patience=1", "trainer.max_epochs=5", "model=unet", "model.widths=[4,8]"]
    assert run(tmp_path, *args, "runs=whole").code == 0
    last_saved = partial(at, Checkpoints, "after_epoch", 2, kill, after=True)
    assert run(tmp_path, *args, inject=last_saved).code == -9
    assert run(tmp_path, *args).code == 0
    assert [row["epoch"] for row in rows(tmp_path / "runs" / "run")] == ["0", "1"]
    assert differences(content(tmp_path / "runs" / "run"), content(tmp_path / "whole" / "run")) == []


def removed(run):
    shutil.rmtree(run.path)


def renamed(run):
    run.path.rename(run.path.with_name("renamed"))


def replaced(run):
    """By a process that has started the same run again, after its folder was removed."""
    copy = shutil.copytree(run.path, run.path.with_name("copy"))
    status = read_json(copy / "status.json")
    write_json(copy / "status.json", {**status, "pid": os.getppid()})
    removed(run)
    copy.rename(run.path)


@pytest.mark.parametrize(
    ("lose", "moment"),
    [
        *((lose, (Checkpoints, "_save_last", 5)) for lose in (removed, renamed, replaced)),
        (removed, (fit.Training, "test", 1)),
        (removed, (status, "end", 1)),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else value.__name__,
)
def test_a_run_whose_folder_is_removed_while_it_trains_has_failed(tmp_path, args, same, lose, moment):
    path = tmp_path / "runs" / "run"
    inject = partial(at, *moment, lambda *_, **__: lose(runs.Run(path)))
    outcome = run(tmp_path, *args, inject=inject)
    assert outcome.code == 1, outcome
    assert "has finished" not in outcome.out
    assert "runs/run" in outcome.err
    assert "Traceback" not in outcome.err
    if moment[1] == "_save_last":
        assert "was removed or replaced while its run trained" in outcome.err
        assert path.exists() == (lose == replaced)
    if lose == replaced:
        assert read_json(path / "status.json")["status"] == "running"  # the other process's
        shutil.rmtree(path)
    assert run(tmp_path, *args).code == 0
    same(path)


def threads(number):
    return partial(torch.set_num_threads, number)


def other_torch():
    version = provenance._version
    provenance._version = lambda package: "9.9" if package == "torch" else version(package)


def test_a_result_lists_its_sessions_and_what_they_ran_on(tmp_path, args, unbroken_run):
    (whole,) = read_json(unbroken_run() / "result.json")["sessions"]
    assert (whole["epochs"], whole["threads"], whole["precision"]) == ([1, 2], 1, "32-true")
    assert {"device", "versions", "commit", "dirty"} <= whole.keys()

    def stopped_in(step, change):
        def inject():
            change()
            at(SegmentationTask, "training_step", step, kill)

        return inject

    assert run(tmp_path, *args, inject=stopped_in(5, threads(1))).code == -9
    second = run(tmp_path, *args, inject=stopped_in(1, threads(2)))  # which saves nothing
    assert (second.code, second.err.count("is resumed with threads 2 (before: 1): ")) == (-9, 1), second
    third = run(tmp_path, *args, inject=other_torch)
    assert third.code == 0, third.err
    assert third.err.count("fcnseg: ") == 1
    before = whole["versions"]["torch"]
    assert f"is resumed with torch 9.9 (before: {before}): the last digits of its numbers may differ" in third.err
    sessions = read_json(tmp_path / "runs" / "run" / "result.json")["sessions"]
    assert [(session["epochs"], session["versions"]["torch"]) for session in sessions] == [([1, 2], before), ([2, 2], "9.9")]


def has_bf16(answer):
    def inject():
        precision.bf16_gain = fit.bf16_gain = lambda threads: 2.0 if answer else 0.0

    return inject


def test_a_resumed_run_keeps_its_precision(tmp_path, args):
    """The one that trainer.precision=auto had on the first machine; the second would have chosen another."""
    args = [*args, "trainer.precision=auto"]

    def killed():
        has_bf16(True)()
        at(SegmentationTask, "training_step", 5, kill)

    assert run(tmp_path, *args, inject=killed).code == -9
    outcome = run(tmp_path, *args, inject=has_bf16(False))
    assert (outcome.code, outcome.err) == (0, "")
    assert run(tmp_path, *args, "runs=whole", inject=has_bf16(True)).code == 0
    found, wanted = (content(tmp_path / folder / "run") for folder in ("runs", "whole"))
    assert differences(found, wanted) == []
    assert found["result"]["precision"] == "bf16-mixed"
    sessions = read_json(tmp_path / "runs" / "run" / "result.json")["sessions"]
    assert [session["precision"] for session in sessions] == ["bf16-mixed"] * 2


@pytest.mark.parametrize("theirs", ["auto", "64-true", ["32-true"]])
def test_a_precision_that_no_run_can_have_is_not_kept(tmp_path, args, theirs):
    """The folder may come from somebody else."""
    args = [*args, "trainer.precision=auto"]
    assert run(tmp_path, *args, inject=partial(at, SegmentationTask, "training_step", 5, kill)).code == -9
    status = tmp_path / "runs" / "run" / "status.json"
    status.write_text(json.dumps({**read_json(status), "precision": theirs}))
    outcome = run(tmp_path, *args)
    assert (outcome.code, outcome.err) == (0, "")


def test_a_resumed_run_says_from_where(tmp_path, args):
    first = run(tmp_path, *args, inject=partial(at, SegmentationTask, "training_step", 5, kill))
    assert first.code == -9
    assert first.out.startswith("run: reads the data set\nrun: 24 images, 32-true\n")
    second = run(tmp_path, *args, inject=partial(at, SegmentationTask, "test_step", 1, kill))
    assert "run: 24 images, 32-true, resumes from epoch 2\n" in second.out
    assert "run: 24 images, 32-true, has trained all its epochs\n" in run(tmp_path, *args).out


@pytest.mark.parametrize("streams", [(1,), (1, 2)], ids=["output", "output and errors"])
def test_a_run_goes_on_when_nobody_reads_its_output(tmp_path, args, same, streams):
    """As with `| head`, and with a terminal that is gone."""

    def closed():
        read, write = os.pipe()
        os.close(read)
        for stream in streams:
            os.dup2(write, stream)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python does at its start

    outcome = run(tmp_path, *args, inject=closed)
    assert (outcome.code, outcome.err) == (0, "")
    assert run(tmp_path, *args, "seed=-1", "name=other", inject=closed).code == 2
    same(tmp_path / "runs" / "run")


def test_a_stray_event_file_is_left_alone(tmp_path, args, same):
    assert run(tmp_path, *args, inject=partial(at, SegmentationTask, "training_step", 5, kill)).code == -9
    for stray in ("events.out.tfevents.backup", "events.out.tfevents.1x.old", "events.out.tfevents.12"):
        (tmp_path / "runs" / "run" / stray).touch()
    outcome = run(tmp_path, *args)
    assert outcome.code == 0, outcome.err
    same(tmp_path / "runs" / "run")
