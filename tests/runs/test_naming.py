"""The name of a run: readable, the same for the same command, another for another run."""

import itertools
import re

import hydra
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from fcnseg import fit
from fcnseg.cli.configs import SHIPPED
from fcnseg.runs.identity import run_name
from fcnseg.settings.lightning import WATCHERS
from fcnseg.train import train

LIGHTNINGS = "lightning.pytorch.callbacks"
ONLY_WATCH = ("DeviceStatsMonitor", "LearningRateMonitor", "RichModelSummary", "ModelCheckpoint", "ThroughputMonitor")


@pytest.fixture
def name_of(command, monkeypatch):
    """The name that a command line leads to, without a run."""

    def name_of(*args):
        names = []

        def stop(cfg, run, *_):
            names.append(run.path.name)
            raise ValueError("far enough")

        monkeypatch.setattr(fit, "fit", stop)
        outcome = command(train, *args)
        assert "far enough" in outcome.err, outcome.err
        return names[0]

    return name_of


@pytest.mark.parametrize(
    ("args", "name"),
    [
        ([], "fcn-seed0"),
        (["model=wilson", "aug=flip"], "wilson-flip-seed0"),
        (["model=wilson", "aug=flip", "seed=3"], "wilson-flip-seed3"),
        (
            ["data=shapes", "model=wilson", "aug=flip", "optimizer.lr=0.002", "data.size=64", "seed=1"],
            "shapes-wilson-flip-lr0.002-size64-seed1",
        ),
        (["data.size=[96,128]"], "fcn-size96x128-seed0"),
        (["experiment=weighted"], "paper-weighted-seed0"),
        (["experiment=weighted", "model=unet", "trainer.max_epochs=6"], "paper-weighted-unet-epochs6-seed0"),
        (["experiment=weighted", "aug=flip"], "paper-weighted-seed0"),  # which has flips anyway
        (["debug=fast"], "debug.fast-fcn-seed0"),
        (["loss=weighted", "schedule=cosine", "optimizer=adam"], "fcn-weighted-adam-cosine-seed0"),
        (["optimizer.lr=1e-5"], "fcn-lr0.00001-seed0"),
        (["optimizer.lr=0.001"], "fcn-seed0"),  # the default
        (["trainer.devices=[3]", "+trainer.num_nodes=1", "+trainer.accumulate_grad_batches=4"], "fcn-seed0"),
        (["trainer.max_epochs=7", "schedule=cosine"], "fcn-cosine-epochs7-seed0"),  # T_max follows
        (["patience=null"], "fcn-patience.null-seed0"),
        (
            ["model=transfer", "model.backbone=mobilenet_v2", "model.freeze=true"],
            "transfer-model.backbone.mobilenet_v2-model.freeze.true-seed0",
        ),
        (["data.split=halves", "data.batch_size=8"], "fcn-batch8-data.split.halves-seed0"),
        (["data.limit=100"], "fcn-limit100-seed0"),
        (["schedule=poly", "optimizer=sgd", "ema=0.999"], "fcn-sgd-poly-ema0.999-seed0"),
        (["ema=null", "optimizer.backbone_lr=null", "schedule.warmup=null"], "fcn-seed0"),
        (["schedule=poly", "schedule.warmup=0.1"], "fcn-poly-schedule.warmup.0.1-seed0"),
        (["model=unet", "optimizer.decay_norms=false"], "unet-optimizer.decay_norms.false-seed0"),
        (["model=transfer", "optimizer.backbone_lr=0.1"], "transfer-optimizer.backbone_lr.0.1-seed0"),
        (["aug=strong"], "fcn-strong-seed0"),
        (["aug=strong", "aug.colour.hue=0.2", "data.size=96"], "fcn-strong-aug.colour.hue.0.2-size96-seed0"),
        (["aug=strong", "data.pack_size=320"], "fcn-strong-data.pack_size.320-seed0"),
        (["name=mine", "model=unet"], "mine"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_names(name_of, args, name):
    assert name_of(*args) == name


@pytest.mark.parametrize(
    "arg", ["data.root=../voc", "model.widths=[4,8]", "trainer.precision=32-true", "+optimizer.betas=[0.8,0.9]"]
)
def test_what_is_not_short_is_hashed(name_of, arg):
    assert re.fullmatch("fcn-seed0-[0-9a-f]{8}", name_of(arg))


def test_what_is_added_to_a_choice_changes_the_name(name_of):
    names = [name_of("aug=strong", *added) for added in ([], ["+aug@aug.x=cutout"], ["+aug@aug.x=classmix"])]
    assert len({*names}) == 3
    assert names == [name_of("aug=strong", *added) for added in ([], ["+aug@aug.x=cutout"], ["+aug@aug.x=classmix"])]


def test_a_name_does_not_grow_without_end(name_of):
    many = [f"checkpoint.every_n_steps={10**7}", f"trainer.max_epochs={10**7}", f"patience={10**7}", "data.size=1024"]
    many += ["+trainer.benchmark=true", "+trainer.detect_anomaly=true", "+optimizer.weight_decay=0.123456"]
    name = name_of(*many)
    assert len(name) <= 80 + len("-seed0-12345678")
    assert name_of(*many, "+optimizer.eps=0.5") != name


@pytest.mark.parametrize(
    "watching",
    [
        ["logger=csv"],
        ["runs=elsewhere"],
        ["resume=never"],
        ["data.cache=/elsewhere"],
        ["data.download=true"],
        ["callbacks=lr_monitor"],
        *([f"+callbacks.x._target_={LIGHTNINGS}.{name}"] for name in ONLY_WATCH),
        ["+callbacks.x._target_=mine.Watcher", "+callbacks.x.only_watches=true"],
        ["+logger.x._target_=lightning.pytorch.loggers.CSVLogger", "+logger.x.save_dir=."],
    ],
    ids=" ".join,
)
def test_what_only_watches_changes_no_name(name_of, watching):
    assert name_of("aug=flip", *watching) == "fcn-flip-seed0"


def test_a_callback_that_may_change_the_training_changes_the_name(name_of):
    assert name_of("+callbacks.x._target_=mine.Changer") not in (
        "fcn-seed0",
        name_of("+callbacks.x._target_=mine.Other"),
    )


def test_a_callback_chosen_from_a_config_of_ones_own_changes_the_name_too(name_of, tmp_path):
    (tmp_path / "mine" / "callbacks").mkdir(parents=True)
    (tmp_path / "mine" / "callbacks" / "changer.yaml").write_text("x: {_target_: mine.Changer}")
    assert re.fullmatch("fcn-seed0-[0-9a-f]{8}", name_of("--config-dir", "mine", "callbacks=changer"))


def test_lightning_has_these_watchers():
    assert {hydra.utils.get_class(name).__name__ for name in WATCHERS}


def test_no_two_shipped_choices_have_one_word():
    words = [
        choice.split("/")[1] for choice in SHIPPED if choice.split("/")[0] not in ("experiment", "debug", "logger", "callbacks")
    ]
    assert len(words) == len(set(words))
    assert not [word for word in words if re.fullmatch(r"(lr|size|batch|epochs|patience|seed)\d.*", word)]


NOTHING = {"experiment": None, "debug": None}


def config(choices=NOTHING, **settings):
    """A config with these settings, and a seed."""
    return OmegaConf.create({"name": None, "runs": "runs", "seed": 0, "choices": dict(choices), **settings})


def name(cfg, defaults, preset=None):
    return run_name(cfg, defaults=defaults, preset=preset or dict(cfg.choices), shipped=SHIPPED)


def test_the_order_of_added_augmentations_is_in_the_name_unless_it_is_the_alphabet_s(name_of):
    blur, crop = "+aug@aug.blur=blur", "+aug@aug.crop=crop"
    first, second, strong = (name_of(*args) for args in (["aug=none", blur, crop], ["aug=none", crop, blur], ["aug=strong"]))
    assert first != second
    assert strong == "fcn-strong-seed0"  # as before the order counted


def test_a_later_version_that_adds_settings_renames_nobody():
    old = name(config(optimizer={"lr": 0.1}), config(optimizer={"lr": 0.01}))
    later = {"aug": {"new": [1, 2]}, "more": 7}
    new = name(config(optimizer={"lr": 0.1, "more": 1}, **later), config(optimizer={"lr": 0.01, "more": 1}, **later))
    assert old == new == "lr0.1-seed0"


def test_a_choice_of_the_users_own_is_named_with_its_group():
    cfg = config({**NOTHING, "model": "fcn", "aug": "weighted", "loss": "ce"})
    preset = {**NOTHING, "model": "fcn", "aug": "none", "loss": "ce"}
    assert name(cfg, config(), preset) == "fcn-aug.weighted-seed0"
    assert name(config({**cfg.choices, "aug": "none", "loss": "weighted"}), config(), preset) == "fcn-weighted-seed0"


def test_a_setting_that_was_removed_counts():
    assert name(config(), config(schedule={"factor": 1.0})) != name(config(), config())


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=25),
    st.lists(st.integers(), max_size=3),
)
KEYS = st.sampled_from(
    ["optimizer.lr", "data.size", "data.split", "patience", "a.b", "a.b1", "a.b.c", "optimizer.lr2", "seeds"]
)


def nested(settings):
    cfg = config()
    for key in sorted(settings):
        if not any(other.startswith(f"{key}.") for other in settings):
            OmegaConf.update(cfg, key, settings[key], force_add=True)
    return cfg


@settings(max_examples=200, deadline=None)
@given(
    runs=st.lists(
        st.dictionaries(KEYS, VALUES.filter(lambda v: "$" not in str(v) and "?" not in str(v)), max_size=3),
        min_size=2,
        max_size=6,
    )
)
def test_two_different_runs_have_two_names(runs):
    defaults, configs = config(), [nested(run) for run in runs]
    names, texts = [name(cfg, defaults) for cfg in configs], [*map(repr, configs)]
    for one, other in itertools.combinations(range(len(runs)), 2):
        assert (names[one] == names[other]) == (texts[one] == texts[other])
    assert all(re.fullmatch(r"[\w.-]+", name, re.ASCII) for name in names)


def test_a_name_stays_though_its_loss_has_moved_within_the_package(name_of):
    added = ["+loss@loss.terms.focal.loss=focal", "+loss.terms.focal.weight=0.5", "+loss.terms.focal.loss._partial_=true"]
    assert name_of("loss=ce_dice", *added) == (
        "fcn-ce_dice-loss.terms.focal.loss._partial_.true-loss.terms.focal.loss.gamma.2.0-seed0-3eadae22"
    )
