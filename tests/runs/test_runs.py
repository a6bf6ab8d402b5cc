import csv
import hashlib
import io
import itertools
import os
import platform
import re
import shutil
import subprocess
import time
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from fcnseg import build, fit
from fcnseg.callbacks import epoch_log, progress
from fcnseg.callbacks.checkpoints import Checkpoints
from fcnseg.data import voc
from fcnseg.data.pictures import panel
from fcnseg.evaluate import evaluate
from fcnseg.learning.task import SegmentationTask
from fcnseg.machine.files import read_json, replacing, write_json, write_text
from fcnseg.results import scoring, summary
from fcnseg.results.result import Result
from fcnseg.runs import folder as runs
from fcnseg.runs import reopen, stored_network
from fcnseg.train import train

EPOCHS = 3
ARGS = [f"trainer.max_epochs={EPOCHS}", "optimizer.lr=0.05"]
SCORES = ["loss", "mean_acc", "miou", "paper_acc", "paper_iou", "pixel_acc"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(home, train_in):
    """A finished run of three epochs."""
    return train_in(home, *ARGS)


@pytest.fixture
def again(command, tiny, run):
    """The same command again, with these added."""
    return lambda *args: command(train, *tiny(*ARGS, f"runs={run.parent}"), *args)


def rows(run):
    with (run / "metrics.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def tables(out):
    """The numbers that a command prints."""
    return [line for line in out.splitlines() if line.startswith("│")]


def events(run):
    accumulator = EventAccumulator(str(run))
    accumulator.Reload()
    return accumulator


def columns(run):
    content = events(run).summary_metadata["_hparams_/session_start_info"].plugin_data.content
    return set(HParamsPluginData.FromString(content).session_start_info.hparams)


def test_a_finished_run_holds(run):
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    logs = {name for name in files if name.startswith("events.out.tfevents.")}
    assert len(logs) == 1
    assert files - logs == {
        *(".hydra/config.yaml", ".lock", "status.json", "metrics.csv", "result.json", "README.md"),
        *("card/examples.png", "images.npz"),
        *(f"checkpoints/{name}" for name in ("best.ckpt", "last.ckpt", "previous.ckpt", "SHA256SUMS")),
    }
    assert runs.Run(run).status["status"] == "finished"
    assert [row["epoch"] for row in rows(run)] == list(range(EPOCHS))


def test_a_result_holds(run):
    result = runs.Run(run).result
    assert set(result) == Result.__required_keys__
    assert set(result["metrics"]) == {f"test/{name}" for name in SCORES}
    assert (result["split"], result["size"], result["epochs"]) == ("official", 32, EPOCHS)
    assert result["images"] == {"train": 8, "val": 4, "test": 4}
    best = (run / "checkpoints" / "best.ckpt").read_bytes()
    assert result["checkpoint"] == {"file": "best.ckpt", "sha256": hashlib.sha256(best).hexdigest()}


def test_the_best_checkpoint_is_the_best_epoch_s(run):
    mious = [row["val/miou"] for row in rows(run)]
    best = mious.index(max(mious))
    assert runs.Run(run).result["best_epoch"] == best
    assert runs.Run(run).result["metrics"]["test/miou"] == pytest.approx(max(mious))  # official: val is test


def test_a_finished_run_is_shown_and_not_repeated(again, run):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    outcome = again()
    assert outcome.code == 0
    assert "has finished" in outcome.out
    assert len(tables(outcome.out)) > 6
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_resume_never_repeats_a_run(again, run):
    before, metrics = (run / "metrics.csv").stat().st_mtime_ns, runs.Run(run).result["metrics"]
    (run / "left over.txt").touch()
    outcome = again("resume=never")
    assert "has finished" not in outcome.out
    assert (run / "metrics.csv").stat().st_mtime_ns > before
    assert not (run / "left over.txt").exists()
    assert runs.Run(run).result["metrics"] == pytest.approx(metrics)


def test_an_interrupted_run_goes_on(command, tiny, tmp_path, monkeypatch, run):
    step = fit.Checkpoints.on_train_batch_end

    def interrupt(self, trainer, *args):
        step(self, trainer, *args)
        if trainer.global_step == 3:  # in mid-epoch
            raise KeyboardInterrupt

    args = [*tiny(*ARGS), "name=run", "checkpoint.every_n_steps=1"]
    with monkeypatch.context() as patch:
        patch.setattr(fit.Checkpoints, "on_train_batch_end", interrupt)
        assert command(train, *args).code == 130
    assert len(rows(tmp_path / "runs/run")) == 1
    assert command(train, *args).code == 0
    resumed = rows(tmp_path / "runs/run")
    for row in resumed:  # the time is its own
        row.update(images_per_s=pytest.approx(0, abs=1e9), seconds=pytest.approx(0, abs=1e9))
    assert resumed == rows(run)


def test_evaluate_measures_what_training_measured(command, again, run, root, tmp_path, monkeypatch):
    measured, measure = [], scoring.measure
    monkeypatch.setattr(scoring, "measure", lambda *args: measured.append(measure(*args)) or measured[0])
    moved = shutil.copytree(run, tmp_path / "elsewhere" / "moved")
    outcome = command(evaluate, f"run={moved}", f"data.root={root}")
    assert outcome.code == 0
    trained = runs.Run(run).result
    assert measured[0] == {key: trained[key] for key in measured[0]}
    assert tables(outcome.out) == tables(again().out)


def test_evaluate_says_that_the_data_have_changed(command, run, root, tmp_path):
    """Without a word, the numbers of a result and of its own test would differ."""
    moved = shutil.copytree(root / "VOCdevkit", tmp_path / "elsewhere" / "VOCdevkit", ignore=lambda *_: ["packs"])
    shapes = reopen.data(runs.Run(run).config).data_set.path.parents[1].name
    (tmp_path / shapes).mkdir()
    moved.rename(tmp_path / shapes / "VOCdevkit")
    args = [f"run={run}", f"data.root={tmp_path}"]
    assert "have changed" not in command(evaluate, *args).err
    folder = voc.VOCFolder(tmp_path / shapes / "VOCdevkit" / "VOC2012")
    for path in map(folder.mask, folder.names("val")):
        Image.new("L", Image.open(path).size, 7).save(path)
    outcome = command(evaluate, *args)
    assert outcome.code == 0
    assert f"fcnseg: {run}: the images or masks of val have changed since it was trained" in outcome.err


@pytest.mark.parametrize("device", [{"accelerator": "gpu"}, {"accelerator": "cuda", "devices": [3]}], ids=str)
def test_evaluate_works_without_the_device_of_the_run(command, again, as_if, monkeypatch, device):
    older = as_if()
    cfg = OmegaConf.load(older / ".hydra/config.yaml")
    OmegaConf.save(OmegaConf.merge(cfg, {"trainer": {"precision": "auto", **device}}), older / ".hydra/config.yaml")
    monkeypatch.setattr(build, "precision", lambda *_: "bf16-mixed")  # which auto is here, and was not there
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    outcome = command(evaluate, f"run={older}")
    assert outcome.code == 0, outcome.err
    assert outcome.err.startswith(f"fcnseg: this machine does not have trainer.accelerator={device['accelerator']} ")
    assert outcome.err.count("fcnseg: ") == 1
    assert tables(outcome.out) == tables(again().out)


@pytest.mark.parametrize("unfinished", [False, True])
def test_evaluate_of_a_run_in_float16_works_on_a_cpu(command, as_if, monkeypatch, unfinished):
    """A CPU tests it in bf16-mixed; a run that has not finished has its precision in its config alone."""
    path = as_if(unfinished=unfinished)
    cfg = OmegaConf.load(path / ".hydra/config.yaml")
    OmegaConf.save(OmegaConf.merge(cfg, {"trainer": {"precision": "16-mixed"}}), path / ".hydra/config.yaml")
    if not unfinished:
        write_json(path / "result.json", {**read_json(path / "result.json"), "precision": "16-mixed"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    outcome = command(evaluate, f"run={path}", f"verify={str(not unfinished).lower()}")
    assert outcome.code == 0, outcome.err
    assert "the run of trainer.precision=16-mixed is tested in bf16-mixed" in outcome.err


def test_a_run_is_rebuilt_from_its_folder(run):
    cfg, net, *_ = stored_network.load(run)
    data = reopen.data(cfg)
    task = reopen.task(run, data)
    assert not any(module.training for module in [*net.modules(), *task.modules()])
    assert all(torch.equal(value, task.net.state_dict()[name]) for name, value in net.state_dict().items())
    loss = build.trainer(cfg).validate(task, data, verbose=False)[0]
    best = rows(run)[runs.Run(run).result["best_epoch"]]
    assert loss == pytest.approx({name: best[name] for name in loss}, rel=1e-6)


def test_a_damaged_run_is_told(command, run, tmp_path):
    broken = shutil.copytree(run, tmp_path / "broken")
    (broken / "checkpoints" / "best.ckpt").write_bytes(b"not a checkpoint")
    outcome = command(evaluate, f"run={broken}")
    assert (outcome.code, "best.ckpt" in outcome.err, "Traceback" in outcome.err) == (2, True, False)


def test_a_damaged_result_says_how_it_is_had_again(tmp_path):
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(ValueError, match=r"result\.json is damaged .*: remove it, and the command that trained the run"):
        _ = runs.Run(tmp_path).result


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")

    def write():
        with replacing(path) as file:
            file.write(b"half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_patience(tmp_path, train_in):
    still = ["model=unet", "optimizer.lr=0"]  # no batch norm, whose statistics would move
    run = train_in(tmp_path, *still, "patience=1", "trainer.max_epochs=5")
    assert [row["epoch"] for row in rows(run)] == [0, 1]
    assert (runs.Run(run).result["epochs"], runs.Run(run).result["best_epoch"]) == (2, 0)


def test_another_process_at_the_run_is_told(again, run):
    before = (run / "metrics.csv").read_bytes()
    with FileLock(run / ".lock"):
        outcome = again("resume=never")
    assert outcome.code == 2
    assert "another process" in outcome.err
    assert (run / "metrics.csv").read_bytes() == before


def test_tensorboard_has_every_epoch_once(run):
    log = events(run)
    each = {"train/loss", "lr", "images_per_s", *(f"val/{name}" for name in SCORES)}
    final = {f"test/{name}" for name in SCORES}
    classes = {tag for tag in log.Tags()["scalars"] if tag.startswith("iou/")}
    assert set(log.Tags()["scalars"]) == each | final | classes
    assert "iou/background" in classes <= {f"iou/{name}" for name in voc.CLASSES}
    ious = [[event.value for tag in classes for event in log.Scalars(tag) if event.step == n] for n in range(EPOCHS)]
    assert [fmean(values) for values in ious] == pytest.approx([row["val/miou"] for row in rows(run)])
    assert not [name for row in rows(run) for name in row if name.startswith("iou/")]
    for tag in each:
        assert [event.step for event in log.Scalars(tag)] == list(range(EPOCHS))
    assert [event.value for event in log.Scalars("val/miou")] == pytest.approx([r["val/miou"] for r in rows(run)])
    metrics = runs.Run(run).result["metrics"]
    assert {tag: log.Scalars(tag)[-1].value for tag in final} == pytest.approx(metrics)
    assert log.Tags()["images"] == ["predictions"]
    assert [event.step for event in log.Images("predictions")] == list(range(EPOCHS))


def test_every_run_shows_the_same_images(tmp_path, train_in, monkeypatch):
    """Of any split and size of batch: those whose names come first by their hashes."""
    shown = []
    monkeypatch.setattr(epoch_log, "panel", lambda *args: shown.append(args) or panel(*args))
    for overrides in (["data.batch_size=4"], ["data.batch_size=3", "data.split=halves", "seed=1", "data.source.val=4"]):
        train_in(tmp_path, *overrides)
    (*_, names), (*_, of_half) = shown
    assert len(names) == 4
    assert set(of_half) <= set(names)
    assert len(of_half) == 2
    truths = [{name: mask.tolist() for name, mask in zip(args[-1], args[1], strict=True)} for args in shown]
    assert all(truths[0][name] == truths[1][name] for name in of_half)


def test_runs_have_the_same_hyperparameters(run, tmp_path, train_in):
    other = train_in(tmp_path, "schedule=cosine", "aug=flip")
    assert columns(run) == columns(other) >= {"model", "aug", "lr", "seed", "batch_size"}


def test_hparams_has_the_same_columns_for_every_network(run, tmp_path, train_in):
    groups = {"debug", "experiment", "data", "model", "aug", "loss", "optimizer", "schedule"}
    numbers = {"lr", "batch_size", "size", "split", "max_epochs", "seed"}
    for path, model in ((run, "fcn"), (train_in(tmp_path, "model=transfer", "optimizer=adam"), "transfer")):
        log = events(path)
        tab, start = (
            HParamsPluginData.FromString(log.summary_metadata[f"_hparams_/{part}"].plugin_data.content)
            for part in ("experiment", "session_start_info")
        )
        metrics = {info.name.tag for info in tab.experiment.metric_infos}
        assert metrics == {f"test/{name}" for name in SCORES} <= set(log.Tags()["scalars"])
        names = [info.name for info in tab.experiment.hparam_infos]
        assert names[:5] == ["model", "aug", "loss", "lr", "seed"]  # TensorBoard ticks the first few
        assert set(names) == groups | numbers
        assert set(start.session_start_info.hparams) == groups | numbers
        assert start.session_start_info.hparams["model"].string_value == model


def test_the_speed_of_an_epoch_is_that_of_its_training(command, tiny, tmp_path, monkeypatch):
    """By a clock that a save puts on by an hour."""
    late = 0
    save = Checkpoints._save_last

    def slow(*args):
        nonlocal late
        save(*args)
        late += 3600

    clock = SimpleNamespace(perf_counter=lambda: time.perf_counter() + late, time=time.time)
    monkeypatch.setattr(epoch_log, "time", clock)
    monkeypatch.setattr(Checkpoints, "_save_last", slow)
    assert command(train, *tiny(*ARGS, "name=run")).code == 0
    logged = rows(tmp_path / "runs/run")
    assert [row["images_per_s"] > 1 for row in logged] == [True] * EPOCHS
    assert [row["seconds"] > 3600 for row in logged] == [False, True, True]


@pytest.fixture
def as_if(run, tmp_path):
    """`as_if(*keys, **more)`: a copy of the run as a version would have left it that had no such settings."""

    def as_if(*keys, unfinished=False):
        older = shutil.copytree(run, tmp_path / "older" / run.name)
        cfg = OmegaConf.load(older / ".hydra/config.yaml")
        for key in keys:
            parent, _, leaf = key.rpartition(".")
            del (OmegaConf.select(cfg, parent) if parent else cfg)[leaf]
        OmegaConf.save(cfg, older / ".hydra/config.yaml")
        if unfinished:
            (older / "result.json").unlink()
            write_json(older / "status.json", {**read_json(older / "status.json"), "status": "interrupted"})
        return older

    return as_if


# A setting, a group with all its settings, and one that follows another.
ADDED = [
    "checkpoint.every_n_minutes",
    "optimizer.fused",
    "optimizer.backbone_lr",
    "optimizer.decay_norms",
    "ema",
    "schedule",
    "choices.schedule",
    "aug",
    "choices.aug",
    "patience",
]


def test_settings_that_a_later_version_added_make_no_other_run(again, as_if):
    older = as_if(*ADDED)
    outcome = again(f"runs={older.parent}")
    assert (outcome.code, "has finished" in outcome.out) == (0, True), outcome.err
    assert [path.name for path in older.parent.iterdir()] == [older.name]


@pytest.mark.parametrize(
    "changed",
    [
        "optimizer.fused=false",
        "aug=flip",
        "schedule=cosine",
        "ema=0.5",
        "checkpoint.every_n_minutes=5",
        "+optimizer.eps=1",
    ],
)
def test_what_an_added_setting_changes_is_said(again, as_if, changed):
    older = as_if(*ADDED)
    outcome = again(f"runs={older.parent}", f"name={older.name}", changed)
    assert outcome.code == 2
    key, _, value = changed.lstrip("+").partition("=")
    row = f"choices.{key}" if key in ("aug", "schedule") else key
    assert f"  {row}: {value} now, None then" in outcome.err.replace("False", "false").replace("5.0", "5")
    assert "a version with other defaults" in outcome.err


def test_a_resumed_run_of_an_earlier_version_goes_on_in_its_folder(again, as_if):
    older = as_if(*ADDED, unfinished=True)
    outcome = again(f"runs={older.parent}")
    assert outcome.code == 0, outcome.err
    assert [path.name for path in older.parent.iterdir()] == [older.name]
    assert "schedule" in runs.Run(older).config


def test_a_run_that_stored_earlier_names_is_resumed_in_its_folder(again, as_if):
    older = as_if(unfinished=True)
    cfg = OmegaConf.load(older / ".hydra/config.yaml")
    cfg.aug = {"_target_": "fcnseg.data.augment.none", "_partial_": True}
    cfg.data._target_ = "fcnseg.data.module.VOCDataModule"
    cfg.loss._target_ = "fcnseg.losses.CrossEntropy"
    OmegaConf.save(cfg, older / ".hydra/config.yaml")
    outcome = again(f"runs={older.parent}")
    assert outcome.code == 0, outcome.err
    assert [path.name for path in older.parent.iterdir()] == [older.name]


def test_a_killed_run_is_told_from_a_running_one(run, tmp_path):
    moved = runs.Run(shutil.copytree(run, tmp_path / "moved"))
    ended = subprocess.Popen(["true"])
    ended.wait()
    (moved.path / "status.json").write_text('{"status": "running"}')
    assert moved.status["status"] == "finished"  # it was killed before it had recorded its end
    (moved.path / "result.json").unlink()
    for pid, host, status in (
        (os.getpid(), platform.node(), "running"),
        (ended.pid, platform.node(), "killed"),
        (None, platform.node(), "killed"),
        (ended.pid, "elsewhere", "running"),  # nobody here can know
    ):
        write_json(moved.path / "status.json", {"status": "running", "pid": pid, "host": host})
        assert moved.status["status"] == status


@pytest.mark.parametrize("unfinished", [False, True])
def test_a_run_without_its_settings_is_refused(again, as_if, unfinished):
    """`cp runs/x/* elsewhere` leaves the hidden folder behind."""
    older = as_if(unfinished=unfinished)
    shutil.rmtree(older / ".hydra")
    before = {path: path.stat().st_mtime_ns for path in older.rglob("*")}
    outcome = again(f"runs={older.parent}", f"name={older.name}", "optimizer.lr=0.5", "trainer.max_epochs=4")
    assert outcome.code == 2
    assert all(words in outcome.err for words in ("has lost its settings", ".hydra/config.yaml", "resume=never"))
    assert {path: path.stat().st_mtime_ns for path in older.rglob("*")} == before
    assert again(f"runs={older.parent}", f"name={older.name}", "resume=never", "trainer.max_epochs=1").code == 0


@pytest.mark.parametrize("content", [b"", b"a: [", b"\xff\xfe\0", b"just text", b"- 1"])
def test_a_damaged_config_is_told(again, as_if, content):
    older = as_if(unfinished=True)
    (older / ".hydra/config.yaml").write_bytes(content)
    outcome = again(f"runs={older.parent}")
    assert outcome.code == 2
    assert outcome.err.count("fcnseg: ") == 1
    assert all(words in outcome.err for words in ("config.yaml", "resume=never")), outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(("seconds", "lines"), [(1, []), (30, [(1, 2), (2, 2)]), (70, [(1, 1), (1, 2), (2, 1), (2, 2)])])
def test_a_log_file_gets_a_line_a_minute(command, tiny, monkeypatch, seconds, lines):
    """By a clock that goes on by so many seconds whenever it is read: once a step, and at an epoch's ends."""
    now = itertools.count(0, seconds)
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    out = command(train, *tiny("trainer.max_epochs=2")).out
    found = re.findall(r"^epoch (\d)/2  step (\d) of 2  loss \d", out, re.M)
    assert [(int(epoch), int(step)) for epoch, step in found] == lines, out
    assert re.findall(r"^epoch (\d)/2  train/loss", out, re.M) == ["1", "2"]


def test_the_floor_of_a_result_is_that_of_its_masks(run):
    result = runs.Run(run).result
    pixels = torch.tensor(result["confusion"]).sum(1).tolist()  # by truth, void last
    *classes, void = pixels
    present = sum(count > 0 for count in classes)
    share = classes[0] / sum(classes)
    floor = {"miou": share / present, "pixel_acc": share, "mean_acc": 1 / present}
    assert {name: result["floor"][name] for name in floor} == pytest.approx(floor)
    assert result["floor"]["paper_acc"] == pytest.approx((classes[0] + void) / sum(pixels))  # four images: one batch
    assert all(result["metrics"][f"test/{name}"] != pytest.approx(score) for name, score in floor.items())


def test_the_speed_of_an_epoch_has_no_validation_in_it(command, tiny, tmp_path, monkeypatch):
    """By a clock that a validation puts on by an hour."""
    late = 0
    validate = SegmentationTask.validation_step

    def slow(*args):
        nonlocal late
        late += 3600
        return validate(*args)

    clock = SimpleNamespace(perf_counter=lambda: time.perf_counter() + late, time=time.time)
    monkeypatch.setattr(epoch_log, "time", clock)
    monkeypatch.setattr(SegmentationTask, "validation_step", slow)
    assert command(train, *tiny(*ARGS, "name=run")).code == 0
    assert [row["images_per_s"] > 1 and row["seconds"] > 3600 for row in rows(tmp_path / "runs/run")] == [True] * EPOCHS


def text_of(result):
    console = Console(file=io.StringIO(), width=100)
    summary.show(result, Path("runs/x"), console)
    return console.file.getvalue()


def test_the_size_of_a_square_is_one_number(tmp_path, train_in):
    assert read_json(train_in(tmp_path, "data.size=[32,32]") / "result.json")["size"] == 32


def test_a_result_says_whether_it_beats_the_floor_and_names_the_classes_in_the_truth(run):
    result = runs.Run(run).result
    confusion = [[0] * 21 for _ in range(22)]
    confusion[0][0], confusion[7][0], confusion[0][12] = 90, 5, 5  # background and car; a dog is only predicted
    iou = {name: [0.9, None][number > 0] for number, name in enumerate(result["iou"])} | {"car": 0.0, "dog": 0.0}
    result |= {"confusion": confusion, "iou": iou}
    for miou, better in ((0.3, True), (0.2, False), (0.1, False), (None, False)):
        text = text_of(result | {"metrics": result["metrics"] | {"test/miou": miou}, "floor": result["floor"] | {"miou": 0.2}})
        assert ("not better than predicting background" in text) == (not better)
        assert ("car" in text, "dog" in text, "background " in text) == (True, False, True)
