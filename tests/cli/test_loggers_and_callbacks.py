"""Loggers and callbacks that a command adds: they get everything, and change nothing that a run computes."""

import csv
import json
import os
import sys
import time
from pathlib import Path
from typing import ClassVar

import pytest
import yaml
from lightning.pytorch import callbacks
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from fcnseg.runs.folder import Run
from fcnseg.train import train

ARGS = ["trainer.max_epochs=2", "optimizer.lr=0.05", "name=run"]
TIMES = ("images_per_s", "seconds")


class Recorder(Logger):
    """Keeps what it is given."""

    metrics: ClassVar[dict] = {}
    hyperparameters: ClassVar[dict] = {}
    name = version = "recorder"

    def log_metrics(self, metrics, step=None):
        for key, value in metrics.items():
            self.metrics.setdefault(key, []).append((step, value))

    def log_hyperparams(self, params):
        self.hyperparameters.update(params)


class Watcher(Callback):
    """Counts batches."""

    batches = 0

    def on_train_batch_end(self, *_):
        Watcher.batches += 1


def rows(run):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in Run(run).epochs]


def metrics(run):
    return json.loads((run / "result.json").read_text())["metrics"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, train_in):
    return train_in(tmp_path_factory.mktemp("alone"), *ARGS)


@pytest.fixture
def importable(monkeypatch):
    """This file, as a module that Hydra can import."""
    monkeypatch.setitem(sys.modules, "modules_of_a_user", sys.modules[__name__])
    return "modules_of_a_user"


def test_a_logger_gets_every_value_and_the_hyperparameters(alone, train_in, tmp_path, importable):
    run = train_in(tmp_path, *ARGS, f"+logger.x._target_={importable}.Recorder")
    assert (rows(run), metrics(run)) == (rows(alone), metrics(alone))
    for row in Run(run).epochs:
        for name, value in row.items():
            if name not in ("epoch", "step"):
                logged = [found for _, found in Recorder.metrics[name]]
                assert value in logged, name
    assert {name: Recorder.metrics[name][-1][1] for name in metrics(run)} == pytest.approx(metrics(run))
    assert (Recorder.hyperparameters["model"], Recorder.hyperparameters["lr"]) == ("fcn", 0.05)


def test_lightnings_csv_logger(alone, train_in, tmp_path):
    run = train_in(tmp_path, *ARGS, "logger=csv")
    assert (rows(run), metrics(run)) == (rows(alone), metrics(alone))
    with next(run.glob("logs/*/metrics.csv")).open() as file:
        logged = [float(row["val/miou"]) for row in csv.DictReader(file) if row["val/miou"]]
    assert logged == [row["val/miou"] for row in rows(run)]
    assert yaml.safe_load(next(run.glob("logs/*/hparams.yaml")).read_text())["lr"] == 0.05


def test_wandb_offline(alone, train_in, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name, value in {"WANDB_SILENT": "true", "WANDB_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    run = train_in(tmp_path, *ARGS, "logger=wandb", "logger.wandb.mode=offline")
    assert (rows(run), metrics(run)) == (rows(alone), metrics(alone))
    (log,) = run.rglob("run-*.wandb")
    missing = {b"val/miou", b"test/miou", b"images_per_s", b"batch_size"}
    until = time.monotonic() + 60
    while missing and time.monotonic() < until:  # wandb writes from another process
        missing = {word for word in missing if word not in log.read_bytes()}
        time.sleep(0.05)
    assert not missing


def test_mlflow(compose, train_in, tmp_path):
    cfg = compose("logger=mlflow", "name=x")
    assert cfg.logger.mlflow._target_ == "lightning.pytorch.loggers.MLFlowLogger"
    pytest.importorskip("mlflow")
    assert train_in(tmp_path, *ARGS, "logger=mlflow")


def test_a_logger_whose_package_is_missing_is_refused(command, tiny, monkeypatch):
    import lightning.pytorch.loggers.mlflow as module

    monkeypatch.setattr(module, "_MLFLOW_AVAILABLE", False)
    monkeypatch.setattr(module, "_MLFLOW_FULL_AVAILABLE", False, raising=False)
    outcome = command(train, *tiny(), "logger=mlflow")
    assert outcome.code == 2
    assert "logger.mlflow needs a package that is not installed" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("group", ["logger", "callbacks"])
def test_what_is_no_logger_or_callback_is_refused(command, tiny, group):
    outcome = command(train, *tiny(), f"+{group}.x._target_=collections.OrderedDict")
    assert outcome.code == 2
    assert f"{group}.x is of the type OrderedDict: wanted a Lightning" in outcome.err


LIGHTNINGS = {  # all callbacks of Lightning's that a run can have, with arguments that they need
    **dict.fromkeys(("Callback", "Checkpoint", "LambdaCallback", "BasePredictionWriter"), ()),  # these do nothing by themselves
    **dict.fromkeys(("LearningRateMonitor", "ModelCheckpoint", "ModelSummary", "RichModelSummary"), ()),
    "DeviceStatsMonitor": ("cpu_stats=false",),
    "OnExceptionCheckpoint": ("dirpath=kept",),
    "ThroughputMonitor": ("batch_size_fn._target_=builtins.len", "batch_size_fn._partial_=true"),
}
REFUSED = {  # all others, with arguments that they need, and the remedy
    "BackboneFinetuning": ("", "optimizer.backbone_lr=0.1"),
    "BaseFinetuning": ("", "optimizer.backbone_lr=0.1"),
    "BatchSizeFinder": ("", "data.batch_size"),
    "EMAWeightAveraging": ("decay=0.5", "ema=0.999"),
    "EarlyStopping": ("monitor=val/loss", "patience"),
    "GradientAccumulationScheduler": ("scheduling={0:2}", "data.batch_size"),
    "LearningRateFinder": ("", "optimizer.lr"),
    "ModelPruning": ("pruning_fn=l1_unstructured", "a finished run"),
    "ProgressBar": ("", "its own progress bar"),
    "RichProgressBar": ("", "its own progress bar"),
    "SpikeDetection": ("", "by itself"),
    "StochasticWeightAveraging": ("swa_lrs=0.05", "ema=0.999"),
    "TQDMProgressBar": ("", "its own progress bar"),
    "Timer": ("", "the same command"),
    "WeightAveraging": ("", "ema=0.999"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_callback_that_a_run_cannot_have_is_refused_with_the_remedy(command, tiny, name):
    argument, remedy = REFUSED[name]
    settings = [f"_target_=lightning.pytorch.callbacks.{name}", *([argument] if argument else [])]
    outcome = command(train, *tiny(), *(f"+callbacks.x.{setting}" for setting in settings))
    assert (outcome.code, f"callbacks: {name} " in outcome.err) == (2, True), outcome.err
    assert remedy in outcome.err


def test_all_other_callbacks_of_lightnings_leave_the_run_the_same(alone, train_in, tmp_path):
    """If Lightning adds a callback, this fails until it is in one of the two lists."""
    assert LIGHTNINGS.keys() ^ REFUSED.keys() == set(callbacks.__all__)
    settings = {name: (f"_target_=lightning.pytorch.callbacks.{name}", *more) for name, more in LIGHTNINGS.items()}
    given = [f"+callbacks.{name}.{setting}" for name, found in settings.items() for setting in found]
    run = train_in(tmp_path, *ARGS, *given)
    assert metrics(run) == metrics(alone)
    assert [{key: row[key] for key in known} for row, known in zip(rows(run), rows(alone), strict=True)] == rows(alone)


def test_a_callback_from_the_command_line(alone, train_in, tmp_path, importable):
    Watcher.batches = 0
    run = train_in(tmp_path, *ARGS, f"+callbacks.x._target_={importable}.Watcher", "+callbacks.x.only_watches=true")
    assert Watcher.batches == 2 * 2  # eight images in batches of four
    assert (rows(run), metrics(run)) == (rows(alone), metrics(alone))


def test_lightnings_own_checkpoints_lie_beside_the_runs(alone, train_in, tmp_path):
    keep = ["_target_=lightning.pytorch.callbacks.ModelCheckpoint", "monitor=val/miou", "save_last=true"]
    run = train_in(tmp_path, *ARGS, *(f"+callbacks.keep.{setting}" for setting in keep))
    assert (rows(run), metrics(run)) == (rows(alone), metrics(alone))
    assert (run / "lightning" / "checkpoints" / "last.ckpt").exists()
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == sorted(
        path.name for path in (alone / "checkpoints").iterdir()
    )


def test_a_monitor_of_lightnings_logs_into_the_runs_own_log(alone, train_in, tmp_path):
    run = train_in(tmp_path, *ARGS, "callbacks=lr_monitor")
    found = rows(run)
    assert [row.pop("lr-AdamW") for row in found] == [0.05, 0.05]
    assert found == rows(alone)


def test_a_watcher_added_later_leaves_the_run_the_same(alone, command, tiny):
    before = os.listdir(alone.parent)
    outcome = command(train, *tiny(*ARGS, f"runs={alone.parent}"), "callbacks=lr_monitor", "logger=csv")
    assert outcome.code == 0, outcome.err
    assert "has finished" in outcome.out
    assert os.listdir(alone.parent) == before
    assert Path(alone, "result.json").exists()
