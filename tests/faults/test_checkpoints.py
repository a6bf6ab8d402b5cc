"""Checkpoints that are damaged, malicious or another run's, and disks that are full."""

import os
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from injection import at, content, differences, empty, evaluate, fill, kill, load, rows, run, tensorboard, truncate

from fcnseg import fit
from fcnseg.callbacks import checkpoints
from fcnseg.callbacks.checkpoints import Checkpoints
from fcnseg.callbacks.epoch_log import EpochLog
from fcnseg.learning.task import SegmentationTask
from fcnseg.machine.files import read_json
from fcnseg.runs.checkpoint_files import SUMS, damage, newest_good, save, sha256


def flip(path):
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 3)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


DAMAGES = {"truncated": truncate, "flipped bit": flip, "empty": empty}


@pytest.fixture(scope="session")
def killed(tmp_path_factory, args):
    """The folder of a run killed in its second epoch, whose last.ckpt is of step 5 and previous.ckpt of step 4."""
    folder = tmp_path_factory.mktemp("killed")
    inject = partial(at, SegmentationTask, "training_step", 6, kill)
    assert run(folder, *args, inject=inject).code == -9
    return folder


@pytest.fixture
def broken_off(killed, tmp_path):
    """A copy of it: the folder of its checkpoints."""
    shutil.copytree(killed / "runs", tmp_path / "runs")
    return tmp_path / "runs" / "run" / "checkpoints"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_last_checkpoint_is_named_and_passed_over(tmp_path, args, same, broken_off, damage):
    DAMAGES[damage](broken_off / "last.ckpt")
    good = newest_good(broken_off)
    assert (good.name, load(good)["global_step"]) == ("previous.ckpt", 4)
    outcome = run(tmp_path, *args)
    assert outcome.code == 0, outcome.err
    assert "last.ckpt" in outcome.err
    assert "skipped" in outcome.err
    same(tmp_path / "runs" / "run")


@pytest.mark.parametrize("names", [("last.ckpt", "previous.ckpt"), ("best.ckpt",)], ids=" and ".join)
def test_without_a_good_checkpoint_the_run_starts_anew_and_says_so(tmp_path, args, same, broken_off, names):
    for name in names:
        flip(broken_off / name)
    outcome = run(tmp_path, *args)
    assert outcome.code == 0, outcome.err
    assert all(name in outcome.err for name in names)
    same(tmp_path / "runs" / "run")


@pytest.mark.parametrize("harm", [empty, lambda path: path.write_bytes(b"\xff\xfe\n\0")], ids=["empty", "garbage"])
def test_damaged_checksums_are_told(tmp_path, args, same, broken_off, harm):
    harm(broken_off / SUMS)
    outcome = run(tmp_path, *args)
    assert outcome.code == 0, outcome.err
    assert SUMS in outcome.err
    same(tmp_path / "runs" / "run")


class Malice:
    """Unpickled without weights_only, it makes a folder."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.makedirs, (str(self.proof), 0o777, True)


@pytest.fixture
def malicious(tmp_path):
    """`malicious(path)` plants a file there; nobody may run what is in it."""
    proof = tmp_path / "proof"

    def plant(path):
        whole = load(path) if path.exists() else {}
        save(path, {**whole, "hyper_parameters": Malice(proof), "state_dict": Malice(proof)})
        return proof

    return plant


def test_the_malicious_file_is_one(tmp_path, malicious):
    proof = malicious(tmp_path / "bad.ckpt")
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        torch.load(tmp_path / "bad.ckpt", weights_only=True)
    assert not proof.exists()
    torch.load(tmp_path / "bad.ckpt", weights_only=False)
    assert proof.exists()


def test_resuming_runs_nothing_of_a_malicious_checkpoint(tmp_path, args, broken_off, malicious):
    proof = malicious(broken_off / "last.ckpt")
    outcome = run(tmp_path, *args)
    assert outcome.code == 2
    assert not proof.exists()


def test_evaluating_runs_nothing_of_a_malicious_checkpoint(tmp_path, unbroken_run, malicious):
    moved = shutil.copytree(unbroken_run(), tmp_path / "moved")
    proof = malicious(moved / "checkpoints" / "best.ckpt")
    outcome = run(tmp_path, f"run={moved}", "verify=false", command=evaluate)
    assert (outcome.code, "best.ckpt" in outcome.err) == (2, True)
    assert not proof.exists()


def test_pretrained_weights_run_nothing(tmp_path, data, malicious):
    proof = malicious(tmp_path / "weights.pth")
    args = ["data=shapes", f"data.root='{data}'", "model=transfer", "model.backbone=resnet18", "data.size=32"]
    outcome = run(tmp_path, *args, "data.source.train=24", "data.source.val=8", f"model.weights={tmp_path}/weights.pth")
    assert (outcome.code, "weights.pth" in outcome.err) == (2, True), outcome.err
    assert not proof.exists()


def reshaped(checkpoint):
    """As if of 5 classes."""
    state = checkpoint["state_dict"]
    state = {name: value[:5] if name.startswith("net.classifier") else value for name, value in state.items()}
    return {**checkpoint, "state_dict": state}


@pytest.mark.parametrize("other", ["wilson", "another number of classes"])
def test_evaluate_refuses_another_networks_checkpoint(tmp_path, unbroken_run, other):
    moved = shutil.copytree(unbroken_run(), tmp_path / "moved")
    best = moved / "checkpoints" / "best.ckpt"
    if other == "wilson":
        shutil.copy(unbroken_run("wilson") / "checkpoints" / "best.ckpt", best)
        told = "decoder.0.0.bias: found (4,), wanted (8,)"
    else:
        save(best, reshaped(load(best)))
        told = "classifier.weight: found (5, 4, 1, 1), wanted (21, 4, 1, 1)"
    outcome = run(tmp_path, f"run={moved}", "verify=false", command=evaluate)
    assert outcome.code == 2
    assert told in [line.strip() for line in outcome.err.splitlines()], outcome.err


@pytest.mark.parametrize("other", ["wilson", "another number of classes"])
def test_resuming_refuses_another_networks_checkpoint(tmp_path, args, unbroken_run, broken_off, other):
    if other == "wilson":
        shutil.rmtree(broken_off)
        shutil.copytree(unbroken_run("wilson") / "checkpoints", broken_off)
        told = "net.decoder.0.0.bias: found (4,), wanted (8,)"
    else:
        save(broken_off / "last.ckpt", reshaped(load(broken_off / "last.ckpt")))
        told = "net.classifier.weight: found (5, 4, 1, 1), wanted (21, 4, 1, 1)"
    outcome = run(tmp_path, *args)
    assert outcome.code in (1, 2)
    assert told in [line.strip() for line in outcome.err.splitlines()], outcome.err


def test_evaluate_refuses_a_checkpoint_that_does_not_hash_to_the_result(tmp_path, unbroken_run):
    moved = shutil.copytree(unbroken_run(), tmp_path / "moved")
    best = moved / "checkpoints" / "best.ckpt"
    changed = load(best)
    changed["state_dict"]["net.classifier.bias"] += 1
    save(best, changed)  # its own SHA256SUMS agree with it; only result.json does not
    outcome = run(tmp_path, f"run={moved}", command=evaluate)
    assert outcome.code == 2
    wanted = read_json(moved / "result.json")["checkpoint"]["sha256"]
    assert all(word in outcome.err for word in (sha256(best), wanted, "verify=false"))
    assert run(tmp_path, f"run={moved}", "verify=false", command=evaluate).code == 0
    assert run(tmp_path, f"run={unbroken_run()}", command=evaluate).code == 0


def test_evaluate_refuses_a_run_that_has_not_finished(tmp_path, broken_off):
    outcome = run(tmp_path, "run=runs/run", command=evaluate)
    assert (outcome.code, "result.json" in outcome.err) == (2, True)


def fill_between(disk, full, free):
    """Fill the disk before the save at step `full`; make room again before that at step `free`, if there is one."""

    def now_full(*_):
        fill(disk)

    def now_free(self, *_):
        good = newest_good(self.folder)
        print(f"kept {good.name} of step {load(good)['global_step']}")
        (disk / "filler").unlink()

    at(Checkpoints, "_save_last", 1, now_full, when=lambda _, trainer: trainer.global_step == full)
    at(Checkpoints, "_save_last", 1, now_free, when=lambda _, trainer: trainer.global_step == free)


def tries(outcome):
    return outcome.err.count("saving failed")


def test_a_disk_full_for_a_while_costs_nothing(tmp_path, args, same, small_disk):
    """Full from step 4 to step 5: one try fails."""
    inject = partial(fill_between, small_disk, 4, 5)
    outcome = run(tmp_path, *args, "runs='small disk'", inject=inject)
    assert outcome.code == 0, outcome.err
    assert tries(outcome) == 1
    assert "kept last.ckpt of step 3" in outcome.out
    same(small_disk / "run")


def test_a_disk_full_at_the_end_of_an_epoch_loses_no_row(tmp_path, args, unbroken_run, small_disk):
    """Full from step 2, over the end of the first epoch, to step 4: saves at 2, before and after the validation."""
    inject = partial(fill_between, small_disk, 2, 4)
    outcome = run(tmp_path, *args, "runs='small disk'", inject=inject)
    assert outcome.code == 0, outcome.err
    assert tries(outcome) == 3
    assert "kept last.ckpt of step 1" in outcome.out
    assert "logs of epoch 1 could not be written" in outcome.err
    assert rows(small_disk / "run") == rows(unbroken_run())
    found, wanted = content(small_disk / "run"), content(unbroken_run())
    assert differences(found["last"], wanted["last"]) == []
    assert differences(found["best"], wanted["best"]) == []
    scalars = [item for item in tensorboard(unbroken_run()) if item[0] != "predictions"]
    assert [item for item in tensorboard(small_disk / "run") if item[0] != "predictions"] == scalars


def test_a_disk_full_while_an_epoch_is_logged_loses_no_row_if_the_run_is_killed_then(tmp_path, args, small_disk):
    def inject():
        at(EpochLog, "after_epoch", 1, lambda *_: fill(small_disk))
        at(Checkpoints, "after_epoch", 1, lambda *_: (small_disk / "filler").unlink())
        at(Checkpoints, "after_epoch", 1, kill, after=True)

    assert run(tmp_path, *args, "runs='small disk'", inject=inject).code == -9
    assert not (small_disk / "run" / "metrics.csv").exists()
    outcome = run(tmp_path, *args, "runs='small disk'")
    assert outcome.code == 0, outcome.err
    assert [row["epoch"] for row in rows(small_disk / "run")] == ["0", "1"]
    wanted = [item for item in tensorboard(small_disk / "run") if item[0] == "val/miou"]
    assert [step for _, step, _ in wanted] == [0, 1]


@pytest.mark.parametrize("found", ["missing", "changed"])
def test_a_best_checkpoint_lost_while_the_run_goes_on_is_noticed(tmp_path, args, same, found):
    best = tmp_path / "runs" / "run" / "checkpoints" / "best.ckpt"

    def lose(*_):
        if found == "missing":
            best.unlink()
        else:
            best.write_bytes(best.read_bytes()[:-1] + b"?")

    outcome = run(tmp_path, *args, inject=partial(at, fit.Training, "test", 1, lose))
    assert (outcome.code, "best.ckpt" in outcome.err) == (1, True), outcome
    outcome = run(tmp_path, *args)
    assert (outcome.code, "from the beginning" in outcome.err) == (0, True), outcome
    same(tmp_path / "runs" / "run")


def test_a_disk_full_while_the_last_epoch_is_logged_loses_no_row(tmp_path, args, small_disk):
    def inject():
        at(EpochLog, "after_epoch", 2, lambda *_: fill(small_disk))
        at(Checkpoints, "after_epoch", 2, lambda *_: (small_disk / "filler").unlink())

    outcome = run(tmp_path, *args, "runs='small disk'", inject=inject)
    assert (outcome.code, "logs of epoch 2 could not be written" in outcome.err) == (0, True), outcome.err
    assert len(rows(small_disk / "run")) == 2
    wanted = [item for item in tensorboard(small_disk / "run") if item[0] == "val/miou"]
    assert [step for _, step, _ in wanted] == [0, 1]


def test_a_disk_full_to_the_end_is_told_by_the_exit_code(tmp_path, args, same, small_disk):
    inject = partial(fill_between, small_disk, 5, None)
    outcome = run(tmp_path, *args, "runs='small disk'", inject=inject)
    assert outcome.code == 1
    assert tries(outcome) == 3  # step 5, before and after the last validation
    assert "the last checkpoint could not be saved" in outcome.err
    assert not (small_disk / "run" / "result.json").exists()
    good = newest_good(small_disk / "run" / "checkpoints")
    assert load(good)["global_step"] == 4
    assert run(tmp_path, *args, "runs='small disk'").code in (1, 2)  # still full
    (small_disk / "filler").unlink()
    outcome = run(tmp_path, *args, "runs='small disk'")
    assert outcome.code == 0, outcome.err
    same(small_disk / "run")


def test_a_checkpoint_another_program_replaced_is_not_resumed(tmp_path, args, same, broken_off):
    """A good file, but not the one of the last save."""
    changed = load(broken_off / "last.ckpt")
    changed["state_dict"]["net.classifier.bias"] += 1
    torch.save(changed, broken_off / "last.ckpt")
    outcome = run(tmp_path, *args)
    assert (outcome.code, "skipped" in outcome.err) == (0, True)
    same(tmp_path / "runs" / "run")


@pytest.mark.parametrize("name", ["best.ckpt", "previous.ckpt"])
def test_a_checkpoint_under_another_name_is_not_resumed(tmp_path, args, same, broken_off, name):
    """Its hash is among those written, but it is not the hash of last.ckpt."""
    shutil.copy(broken_off / name, broken_off / "last.ckpt")
    outcome = run(tmp_path, *args)
    assert outcome.code == 0, outcome.err
    assert "last.ckpt does not have its hash in SHA256SUMS" in outcome.err
    same(tmp_path / "runs" / "run")


def test_a_checkpoint_kept_after_a_killed_save_is_known_to_be_whole(tmp_path):
    """Killed when the hash of the new file was listed and the old one still in place: both are last.ckpt's."""
    last, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    save(last, {"step": 1}, keep="previous.ckpt")
    with (tmp_path / SUMS).open("a") as file:
        file.write(f"{'0' * 64}  last.ckpt\n")
    for step in (2, 3):
        save(last, {"step": step}, keep="previous.ckpt")
        assert [damage(path) for path in (last, previous)] == [None, None]
        assert load(previous)["step"] == step - 1
    assert len((tmp_path / SUMS).read_text().splitlines()) == 2


def best_of_the_second_epoch(*, killed, nth=2):
    """Let the second epoch be better than the first, and kill the run when best.ckpt is of it and last.ckpt is not."""

    def inject():
        at(Checkpoints, "after_epoch", nth, lambda self, *_: setattr(self, "best_score", -1.0))
        if killed:
            at(checkpoints, "save", 2, kill, after=True, when=lambda path, *_, **__: path.name == "best.ckpt")

    return inject


def test_a_best_checkpoint_of_an_epoch_that_does_not_come_again_is_not_taken(tmp_path, args):
    """Followed by a command with fewer epochs: the result would have the weights of one epoch and the name of another."""
    assert run(tmp_path, *args, inject=best_of_the_second_epoch(killed=True)).code == -9
    path = tmp_path / "runs" / "run"
    assert (load(path / "checkpoints" / "best.ckpt")["epoch"], load(path / "checkpoints" / "last.ckpt")["epoch"]) == (
        1,
        1,
    )
    fewer = [*args, "trainer.max_epochs=1"]
    outcome = run(tmp_path, *fewer)
    assert (outcome.code, "starts from the beginning" in outcome.err) == (0, True), outcome.err
    assert run(tmp_path, *fewer, "runs=whole").code == 0
    assert differences(content(path), content(tmp_path / "whole" / "run")) == []


def test_a_best_checkpoint_of_an_epoch_that_comes_again_is_written_anew(tmp_path, args):
    assert run(tmp_path, *args, inject=best_of_the_second_epoch(killed=True)).code == -9
    for folder, nth in (("runs", 1), ("whole", 2)):
        outcome = run(tmp_path, *args, f"runs={folder}", inject=best_of_the_second_epoch(killed=False, nth=nth))
        assert (outcome.code, outcome.err) == (0, "")
    whole = content(tmp_path / "whole" / "run")
    assert whole["result"]["best_epoch"] == 1
    assert differences(content(tmp_path / "runs" / "run"), whole) == []


def test_an_epoch_that_comes_again_and_is_no_longer_the_best_one_is_noticed(tmp_path, args, same):
    """As on another machine, whose last digits are others."""
    assert run(tmp_path, *args, inject=best_of_the_second_epoch(killed=True)).code == -9
    worse = partial(at, Checkpoints, "after_epoch", 1, lambda self, *_: setattr(self, "best_score", 2.0))
    outcome = run(tmp_path, *args, inject=worse)
    assert (outcome.code, "best.ckpt was of another epoch than the best one" in outcome.err) == (1, True), outcome
    outcome = run(tmp_path, *args)
    assert (outcome.code, "from the beginning" in outcome.err) == (0, True), outcome
    same(tmp_path / "runs" / "run")


@pytest.mark.parametrize("moment", ["in the second epoch", "in the test"])
@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"\xff\xfe\0,,\n1")], ids=["lost", "garbage"])
def test_a_lost_table_of_epochs_is_written_anew(tmp_path, args, same, moment, harm):
    step = partial(at, SegmentationTask, "training_step" if moment == "in the second epoch" else "test_step")
    assert run(tmp_path, *args, inject=partial(step, 5 if moment == "in the second epoch" else 1, kill)).code == -9
    harm(tmp_path / "runs" / "run" / "metrics.csv")
    outcome = run(tmp_path, *args)
    assert outcome.code == 0, outcome.err
    same(tmp_path / "runs" / "run")


def test_a_run_saved_by_an_earlier_version_is_refused(tmp_path, args, broken_off):
    """One that did not save the rows of metrics.csv beside the callbacks' states."""
    last = load(broken_off / "last.ckpt")
    del last["run_log"]
    save(broken_off / "last.ckpt", last)
    outcome = run(tmp_path, *args)
    assert outcome.code == 2
    assert "last.ckpt was saved by an earlier version of fcnseg: resume it with that, or give resume=never" in outcome.err
    assert load(broken_off / "last.ckpt").keys() == last.keys()
