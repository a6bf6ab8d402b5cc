"""Every setting of Lightning's Trainer is honoured or refused; none is accepted without effect."""

import inspect

import lightning
import pytest
import torch
from omegaconf import OmegaConf

from fcnseg import build
from fcnseg.data.batch import Batch
from fcnseg.data.voc import VOC
from fcnseg.settings.lightning import HONOURED, REFUSED, check_trainer

PARAMETERS = list(inspect.signature(lightning.Trainer).parameters)
PROFILER = {"_target_": "lightning.pytorch.profilers.SimpleProfiler", "dirpath": ".", "filename": "profile"}
EFFECTS = {  # of every honoured setting: a value, settings that it needs, and what it changes
    "accelerator": ("cpu", {}, lambda trainer: type(trainer.accelerator).__name__ == "CPUAccelerator"),
    "devices": (2, {}, lambda trainer: trainer.world_size == 2),
    "num_nodes": (2, {}, lambda trainer: trainer.world_size == 2),
    # Lightning's own would weight the parts of a shorter batch too much: it is the task's, below.
    "accumulate_grad_batches": (2, {}, lambda trainer: trainer.accumulate_grad_batches == 1),
    "precision": ("bf16-mixed", {}, lambda trainer: trainer.precision == "bf16-mixed"),
    "max_epochs": (7, {}, lambda trainer: trainer.max_epochs == 7),
    "deterministic": (True, {}, lambda trainer: torch.are_deterministic_algorithms_enabled()),
    "benchmark": (True, {}, lambda trainer: torch.backends.cudnn.benchmark),
    "inference_mode": (False, {}, lambda trainer: not trainer.test_loop.inference_mode),
    "gradient_clip_val": (0.5, {}, lambda trainer: trainer.gradient_clip_val == 0.5),
    "gradient_clip_algorithm": (
        "value",
        {"trainer": {"gradient_clip_val": 0.5}},
        lambda trainer: trainer.gradient_clip_algorithm == "value",
    ),
    "detect_anomaly": (True, {}, lambda trainer: trainer._detect_anomaly),
    "log_every_n_steps": (3, {"callbacks": {"x": {}}}, lambda trainer: trainer.log_every_n_steps == 3),
    "profiler": (PROFILER, {}, lambda trainer: type(trainer.profiler).__name__ == "SimpleProfiler"),
}


@pytest.fixture(autouse=True)
def as_before():
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = False


def config(compose, settings, more):
    cfg = compose("data=shapes").copy()
    OmegaConf.set_struct(cfg, False)
    return OmegaConf.merge(cfg, {"trainer": {"accelerator": "cpu"}}, more, {"trainer": settings})


def test_every_setting_is_decided_about():
    assert set(HONOURED) | set(REFUSED) == set(PARAMETERS)
    assert not set(HONOURED) & set(REFUSED)
    assert EFFECTS.keys() == set(HONOURED)


@pytest.mark.parametrize("key", HONOURED)
def test_an_honoured_setting_has_its_effect(compose, key, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)  # by which trainer.precision=auto is 32-true
    value, more, has_effect = EFFECTS[key]
    cfg = config(compose, {key: value}, more)
    check_trainer(cfg)
    assert not has_effect(build.trainer(config(compose, {}, {}))) or key in ("accelerator", "accumulate_grad_batches")
    assert has_effect(build.trainer(cfg))


@pytest.mark.parametrize("key", REFUSED)
def test_a_refused_setting_is_refused_with_a_reason(compose, key):
    with pytest.raises(ValueError, match=rf"trainer\.{key}=.* cannot be set: .{{20,}}"):
        check_trainer(config(compose, {key: 2}, {}))


def test_a_setting_that_lightning_does_not_have_is_refused(compose):
    with pytest.raises(ValueError, match=r"trainer\.max_epoch=3 cannot be set: it is unknown"):
        check_trainer(config(compose, {"max_epoch": 3}, {}))


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"gradient_clip_algorithm": "value"}, "gradient_clip_val"),
        ({"log_every_n_steps": 5}, "callbacks=lr_monitor"),
        ({"profiler": "simple"}, "profilers.SimpleProfiler"),
        ({"profiler": {"_target_": "lightning.pytorch.profilers.SimpleProfiler"}}, "filename=profile"),
        ({"devices": 3}, "3 parts .* do not divide it: wanted, for instance, data.batch_size=15 or 18"),
        ({"devices": [0, 1], "num_nodes": 5, "accumulate_grad_batches": 7}, "70 parts .*, data.batch_size=70"),
        ({"devices": "auto"}, "wanted a whole number from 1 up, or a list of GPUs"),
        ({"devices": 0}, "wanted a whole number"),
        ({"devices": []}, "wanted a whole number"),
        ({"num_nodes": 0}, r"trainer\.num_nodes=0: wanted a whole number"),
        ({"accumulate_grad_batches": 0.5}, r"trainer\.accumulate_grad_batches=0\.5: wanted a whole number"),
    ],
    ids=str,
)
def test_a_setting_that_would_have_no_effect_is_refused(compose, settings, remedy):
    with pytest.raises(ValueError, match=remedy):
        check_trainer(config(compose, settings, {}))


@pytest.mark.parametrize("callback", ["lr_monitor", "model_summary"])
def test_steps_are_not_logged_by_callbacks_that_log_none(compose, callback):
    cfg = compose(f"callbacks={callback}", "+trainer.log_every_n_steps=5")
    with pytest.raises(ValueError, match=r"callbacks\.lr_monitor\.logging_interval=step"):
        check_trainer(cfg)


def test_the_task_takes_a_batch_in_as_many_parts_as_are_accumulated(compose):
    cfg = config(compose, {"accumulate_grad_batches": 2}, {})
    task = build.task(cfg, classes=VOC, class_pixels=torch.ones(21))
    assert task.accumulate == 2
    batch = Batch(torch.zeros(3, 3, 32, 32), torch.zeros(3, 32, 32), None)
    assert task.images_of(batch, 0) == 3  # also of a loader that does not know the batches' sizes, as in the benchmark


def test_the_profiler_of_the_remedy_writes_its_file(train_in, tmp_path):
    settings = [f"+trainer.profiler.{key}={value}" for key, value in PROFILER.items()]
    train_in(tmp_path, *settings)
    assert "training_step" in (tmp_path / "fit-profile.txt").read_text()
