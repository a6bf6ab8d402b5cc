"""Runs that tell the truth: no number where there is none, and the reason and the remedy where a run cannot go on."""

import os
import re
import resource
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from injection import at, evaluate, load, rows, run, send
from PIL import Image

from fcnseg.callbacks.finite_loss import FiniteLoss
from fcnseg.data import voc
from fcnseg.errors import DivergedError
from fcnseg.learning.task import SegmentationTask
from fcnseg.machine.files import read_json
from fcnseg.machine.limits import limits_explained
from fcnseg.results import provenance
from fcnseg.runs.checkpoint_files import save

PLAIN = ["model=fcn", "model.widths=[4,8]", "data.size=32", "trainer.max_epochs=2", "trainer.accelerator=cpu"]
PLAIN += ["trainer.precision=32-true", "name=run"]


def names(numbers):
    return [f"shapes_{number:06d}" for number in numbers]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_loss_that_is_no_number_stops_the_run(tmp_path, args, precision):
    """A learning rate of 1e30: the weights after step 0 are huge, so the loss of step 1 is infinite or NaN."""
    seen = tmp_path / "seen"

    def note(task, batch, _):
        seen.write_text(" ".join(names(batch[2].tolist())))

    args = [*args, "optimizer.lr=1e30", f"trainer.precision={precision}"]
    inject = partial(at, SegmentationTask, "training_step", 2, note)
    outcome = run(tmp_path, *args, inject=inject)
    assert outcome.code == 1
    (told,) = [line for line in outcome.err.splitlines() if "NaN or infinite" in line]
    assert "step 1 (epoch 1)" in told
    assert "Learning rate: 1e+30" in told
    assert sorted(re.findall(r"shapes_\d{6}", told)) == sorted(seen.read_text().split())
    assert all(remedy in told for remedy in ("optimizer.lr", "trainer.precision=32-true", "python -m fcnseg.check"))
    path = tmp_path / "runs" / "run"
    assert (read_json(path / "status.json")["status"], (path / "result.json").exists()) == ("failed", False)
    assert not (path / "metrics.csv").exists()
    again = run(tmp_path, *args)
    assert (again.code, "NaN or infinite" in again.err) == (1, True)


def spoil(task, *_):
    task.net.register_forward_hook(lambda _, __, logits: logits * torch.nan)


@pytest.mark.parametrize(("step", "rate"), [(3, "0.01"), (6, "0.005")])
def test_the_rate_told_is_that_of_the_step(tmp_path, args, step, rate):
    """The last of an epoch, after which a cosine over two epochs has gone down to a half, and then to 0."""
    outcome = run(tmp_path, *args, inject=partial(at, SegmentationTask, "training_step", step, spoil))
    assert outcome.code == 1
    assert f"the loss of step {step - 1} " in outcome.err
    assert f"Learning rate: {rate}. " in outcome.err


def test_logits_that_are_no_numbers_stop_the_run_at_the_validation(tmp_path, args):
    """One step an epoch: the training's loss was a number, and the weights after it give none."""
    outcome = run(tmp_path, *args, "data.batch_size=24", "optimizer.lr=1e30")
    assert outcome.code == 1
    (told,) = [line for line in outcome.err.splitlines() if "NaN or infinite" in line]
    assert "the validation's loss or logits after step 1 are NaN or infinite" in told
    assert "Learning rate: 1e+30" in told
    assert all(remedy in told for remedy in ("optimizer.lr", "trainer.precision=32-true", "python -m fcnseg.check"))
    path = tmp_path / "runs" / "run"
    assert not (path / "metrics.csv").exists()
    assert not (path / "checkpoints" / "best.ckpt").exists()
    assert not (path / "result.json").exists()


def test_a_run_resumed_in_the_validation_tells_the_rate_of_the_step_before(tmp_path, args):
    inject = partial(at, SegmentationTask, "validation_step", 2, send(signal.SIGTERM))
    assert run(tmp_path, *args, inject=inject).code == 128 + signal.SIGTERM
    outcome = run(tmp_path, *args, inject=partial(at, SegmentationTask, "validation_step", 1, spoil))
    assert outcome.code == 1
    assert "logits after step 6 are NaN or infinite" in outcome.err
    assert "Learning rate: 0.005. " in outcome.err


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_infinite_logits_of_void_pixels_alone_stop_the_run(tmp_path, args, data, value):
    """No loss sees them. Four batches of two; the third has them."""
    seen = tmp_path / "seen"

    def infinite(task, batch, _):
        seen.write_text(" ".join(map(str, batch[2].tolist())))
        batch[1][0, 0, 0] = voc.VOID
        task.net.register_forward_hook(lambda _, __, logits: with_one(logits))

    def with_one(logits):
        logits = logits.clone()
        logits[0, 3, 0, 0] = value
        return logits

    args = [*args, "data.batch_size=2"]
    outcome = run(tmp_path, *args, inject=partial(at, SegmentationTask, "validation_step", 3, infinite))
    assert outcome.code == 1
    (told,) = [line for line in outcome.err.splitlines() if "NaN or infinite" in line]
    assert "logits after step 12 are NaN or infinite" in told
    samples = [int(sample) for sample in seen.read_text().split()]
    lists = [path.read_text().split() for path in data.rglob("val.txt")]  # other tests' data sets lie there, too
    named = [[ids[sample] for sample in samples] for ids in lists if len(ids) > max(samples)]
    assert re.findall(r"shapes_\d{6}", told) in named


def test_weights_that_are_no_numbers_have_no_scores_and_no_iou(tmp_path, unbroken_run):
    moved = shutil.copytree(unbroken_run(), tmp_path / "moved")
    best = load(moved / "checkpoints" / "best.ckpt")
    best["state_dict"]["net.classifier.bias"][:] = torch.nan
    save(moved / "checkpoints" / "best.ckpt", best)
    outcome = run(tmp_path, f"run={moved}", "verify=false", command=evaluate)
    lines = [line for line in outcome.out.splitlines() if "│" in line]
    scores = [line.split("│")[2].strip() for line in lines[:6]]
    assert scores == ["-"] * 6, outcome.out
    assert "background  " not in outcome.out, outcome.out  # of the table of classes


@pytest.fixture
def folder(tmp_path):
    """Makes a data set of VOC's layout from the masks of its two image sets."""

    def made(train, val):
        sets = {"train": train, "val": val}
        names = {image_set: [f"{image_set}_{i}" for i in range(len(masks))] for image_set, masks in sets.items()}
        made = voc.new_folder(tmp_path / "VOC2012", names)
        for image_set, masks in sets.items():
            for i, (name, mask) in enumerate(zip(names[image_set], masks, strict=True)):
                noise = np.random.default_rng(i).integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
                Image.fromarray(noise).save(made.image(name))
                Image.fromarray(mask).save(made.mask(name))
        return ["data=voc2012", "data.root=VOC2012", *PLAIN]

    return made


def filled(label):
    return np.full((40, 40), label, dtype=np.uint8)


VOID = filled(voc.VOID)
HALF = np.concatenate([filled(0)[:20], filled(15)[:20]])


@pytest.mark.parametrize("loss", ["ce", "weighted"])
def test_a_batch_of_void_trains_nothing_and_harms_nothing(tmp_path, folder, loss):
    args = folder([VOID, VOID, VOID, HALF], [HALF])
    outcome = run(tmp_path, *args, "data.batch_size=1", f"loss={loss}")
    assert outcome.code == 0, outcome.err
    assert all(float(row["train/loss"]) > 0 for row in rows(tmp_path / "runs" / "run"))


def test_a_training_set_of_void_has_no_loss(tmp_path, folder):
    args = folder([VOID, VOID], [HALF])
    for loss in ("ce", "weighted"):
        outcome = run(tmp_path, *args, "data.batch_size=2", f"loss={loss}", f"name={loss}")
        assert outcome.code == 0, outcome.err
        assert {row["train/loss"] for row in rows(tmp_path / "runs" / loss)} == {"0.0"}


def test_a_validation_set_of_void_has_no_scores(tmp_path, folder):
    outcome = run(tmp_path, *folder([HALF, HALF], [VOID, VOID]), "data.batch_size=2")
    assert outcome.code == 0, outcome.err
    path = tmp_path / "runs" / "run"
    for row in rows(path):
        assert {row[f"val/{name}"] for name in ("miou", "pixel_acc", "mean_acc")} == {"nan"}
    result = read_json(path / "result.json")
    assert {result["metrics"][f"test/{name}"] for name in ("miou", "pixel_acc", "mean_acc")} == {None}
    assert set(result["iou"].values()) == {None}


def test_a_class_absent_from_a_split_has_no_iou(tmp_path, folder):
    """In val there are background and person; what else may get an IoU was predicted, and has 0."""
    person = voc.CLASSES.index("person")
    outcome = run(tmp_path, *folder([HALF, filled(7)], [HALF, HALF]), "data.batch_size=2", "loss=weighted")
    assert outcome.code == 0, outcome.err
    result = read_json(tmp_path / "runs" / "run" / "result.json")
    confusion = np.array(result["confusion"])
    predicted = {label for label in range(voc.NUM_CLASSES) if confusion[:-1, label].any()}
    for label, name in enumerate(voc.CLASSES):
        iou = result["iou"][name]
        if label not in (0, person):
            assert iou == (0 if label in predicted else None)
        else:
            assert iou is not None
    shown = [iou for iou in result["iou"].values() if iou is not None]
    assert result["metrics"]["test/miou"] == pytest.approx(sum(shown) / len(shown))


def test_out_of_memory_says_what_to_lower(tmp_path, folder):
    """Really: the process may have 300 MB more than it has now, and the first feature map of a 512 px batch takes more."""
    args = folder([HALF] * 8, [HALF])

    def limit(*_):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + 300 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    args += ["data.size=512", "data.batch_size=8", "model.widths=[256,256]"]
    outcome = run(tmp_path, *args, inject=partial(at, SegmentationTask, "training_step", 1, limit))
    assert outcome.code == 1
    told = "out of memory with data.batch_size=8, data.size=512, trainer.precision=32-true: lower data.batch_size"
    assert told in outcome.err
    assert read_json(tmp_path / "runs" / "run" / "status.json")["error"].startswith("MemoryError")


SAID = [
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    RuntimeError("std::bad_alloc"),
    RuntimeError("could not create a memory object"),
    RuntimeError("could not create a primitive"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    OSError(12, "Cannot allocate memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", SAID, ids=str)
def test_out_of_memory_is_known_whoever_says_it(error):
    with (
        pytest.raises(MemoryError, match=r"data.batch_size=8, data.size=512.*: lower .* or set trainer.precision=bf16-mixed"),
        limits_explained(8, 512, "32-true"),
    ):
        raise error


def test_out_of_memory_in_half_precision_does_not_advise_it():
    with pytest.raises(MemoryError) as caught, limits_explained(8, 512, "bf16-mixed"):
        raise MemoryError
    assert "or set" not in str(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: an illegal memory access"), OSError(2, "no such file")])
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as caught, limits_explained(8, 512, "32-true"):
        raise error
    assert caught.value is error


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository of one commit in the place of this package's; `checkout(*command)` runs git there."""
    path = tmp_path / "checkout"
    path.mkdir()
    for name, value in {"GIT_DIR": path / ".git", "GIT_WORK_TREE": path, "GIT_CONFIG_GLOBAL": os.devnull}.items():
        monkeypatch.setenv(name, str(value))
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "somebody")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "somebody@example.org")

    def git(*command):
        return subprocess.run(["git", *command], check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message=first")
    return git


def test_the_code_is_a_commit_and_whether_there_is_more(tmp_path, checkout):
    commit = checkout("rev-parse", "HEAD")
    assert provenance.code() == {"commit": commit, "dirty": False}
    (tmp_path / "checkout" / "new.py").touch()
    assert provenance.code() == {"commit": commit, "dirty": True}


@pytest.mark.parametrize(("name", "value"), [("PATH", ""), ("GIT_DIR", "none")], ids=["no git", "no checkout"])
def test_without_git_the_code_is_unknown(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert provenance.code() == {"commit": None, "dirty": None}


def test_a_commit_made_while_a_run_trains_is_not_its_code(tmp_path, args, checkout):
    commit = checkout("rev-parse", "HEAD")

    def inject():
        at(SegmentationTask, "training_step", 2, lambda *_: checkout("commit", "--allow-empty", "--message=second"))

    outcome = run(tmp_path, *args, inject=inject, with_git=True)
    assert outcome.code == 0, outcome.err
    assert checkout("rev-parse", "HEAD") != commit
    assert read_json(tmp_path / "runs" / "run" / "result.json")["commit"] == commit


def test_of_losses_looked_at_together_the_first_bad_one_is_named():
    """As on a GPU, where they are not looked at after every step."""
    data = SimpleNamespace(trained_on=lambda step: [f"image of step {step}"])
    trainer = SimpleNamespace(num_training_batches=3, datamodule=data)
    finite = FiniteLoss()
    finite._unchecked = {step: torch.tensor(1.0) for step in range(5)}
    finite.check(trainer)
    finite._unchecked |= {
        5: torch.tensor(2.0),
        6: torch.tensor(3.0),
        7: torch.tensor(torch.inf),
        8: torch.tensor(torch.nan),
    }
    for _ in range(2):  # whoever looks again, before a save, is told again
        with pytest.raises(DivergedError, match=r"the loss of step 7 \(epoch 3\) .*image of step 7"):
            finite.check(trainer)
    assert min(finite._unchecked) == 5
    trainer.optimizers = []
    finite.on_validation_start(trainer, None)  # by itself, as `evaluate` validates
    trainer.optimizers = ["one"]
    with pytest.raises(DivergedError, match="the loss of step 7"):
        finite.on_validation_start(trainer, None)
