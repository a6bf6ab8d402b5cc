import csv
import math
import re
import shutil
from inspect import Parameter, signature

import hydra
import pytest
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from fcnseg import build
from fcnseg.cli.configs import CONF
from fcnseg.evaluate import evaluate
from fcnseg.results.paper import EXPERIMENTS, FLOOR
from fcnseg.settings.parameters import check_parameters
from fcnseg.settings.table import MAY_BE_A_LIST, MAY_BE_NULL, flatten, setting
from fcnseg.train import train

FILES = sorted(CONF.rglob("*.yaml"))
CHOICES = [f"{path.parent.name}={path.stem}" for path in sorted(CONF.glob("*/*.yaml"))]
PRESETS = [choice for choice in CHOICES if choice.startswith(("experiment=", "debug="))]
EXTRAS = {
    **{"logger=mlflow": "mlflow", "logger=wandb": "wandb"},
    **{"model=smp": "segmentation_models_pytorch", "data=sbd": "scipy"},
}
GROUPS = sorted({path.parent for path in FILES} - {CONF})
README = (CONF.parent / "README.md").read_text(encoding="utf-8")
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))

# Tables 5 to 11: network, augmentation, loss, schedule, optimizer, learning rate, epochs, patience. Every improvement is
# kept by the rows below it.
PAPER = {
    "baseline": ("fcn", "none", "ce", "constant", "adamw", 0.001, 13, 3),
    "cosine": ("fcn", "none", "ce", "cosine", "adamw", 0.001, 30, 3),
    "flip": ("fcn", "flip", "ce", "cosine", "adamw", 0.001, 30, 9),
    "weighted": ("fcn", "flip", "weighted", "cosine", "adamw", 0.00185, 30, 9),
    "wilson": ("wilson", "flip", "weighted", "cosine", "adamw", 0.00185, 30, 9),
    "transfer": ("transfer", "flip", "weighted", "cosine", "adamw", 0.00185, 50, 9),
    "unet": ("unet", "flip", "weighted", "cosine", "adamw", 0.001, 30, 9),
}
MEANING = {  # of the table's words, by the paper's Tables 1 to 4 and Sections 3 and 4
    "fcn": {"_target_": "fcnseg.models.FCN", "widths": [32, 64, 128, 256, 512]},
    "wilson": {"_target_": "fcnseg.models.Wilson", "widths": [32, 64, 128, 256, 512, 1024]},
    "transfer": {
        "_target_": "fcnseg.models.Transfer",
        "backbone": "resnet34",
        "weights": "DEFAULT",
        "freeze": False,
    },
    "unet": {"_target_": "fcnseg.models.UNet", "widths": [64, 128, 256, 512, 1024]},
    "none": {"_target_": "fcnseg.data.augment.Chain"},
    "flip": {"_target_": "fcnseg.data.augment.Flip", "horizontal": 0.5, "vertical": 0.5},
    "ce": {"_target_": "fcnseg.learning.losses.CrossEntropy", "weighted": False},
    "weighted": {"_target_": "fcnseg.learning.losses.CrossEntropy", "weighted": True},
    "constant": {"_target_": "torch.optim.lr_scheduler.ConstantLR", "factor": 1.0, "total_iters": 0, "warmup": None},
    "cosine": {
        **{"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": "${trainer.max_epochs}"},
        "warmup": None,
    },
    "adamw": {"_target_": "torch.optim.AdamW", "fused": True, "backbone_lr": None, "decay_norms": None},
}


DEFAULTS = {  # of a run and of each choice, as the README and the paper have them
    "": {
        **{"seed": 0, "patience": 9, "resume": "auto", "runs": "runs", "name": None},
        **{f"trainer.{key}": value for key, value in {"max_epochs": 30, "accelerator": "auto", "devices": 1}.items()},
        **{"trainer.precision": "auto", "trainer.deterministic": False},
        **{"checkpoint.min_seconds": 5.0, "checkpoint.every_n_steps": None, "checkpoint.every_n_minutes": 10.0},
        **{"choices.data": "voc2012", "choices.model": "fcn", "choices.aug": "none", "choices.loss": "ce"},
        **{"choices.optimizer": "adamw", "choices.schedule": "constant", "callbacks": {}, "logger": {}},
        **{"choices.experiment": None, "choices.debug": None},
        **{"data.root": "data", "data.split": "official", "data.size": 224, "data.batch_size": 16},
        **{"data.source.md5": "6cd6e144f989b92b3379bac3b3de84fd", "loss.weighted": False, "schedule.factor": 1.0},
        **{"ema": None, "schedule.warmup": None, "optimizer.backbone_lr": None, "optimizer.decay_norms": None},
        **{"optimizer._target_": "torch.optim.AdamW", "optimizer.lr": 0.001, "optimizer.fused": True},
    },
    "optimizer=adam": {"optimizer._target_": "torch.optim.Adam", "optimizer.lr": 0.001, "optimizer.fused": True},
    "optimizer=sgd": {
        **{"optimizer._target_": "torch.optim.SGD", "optimizer.lr": 0.01, "optimizer.momentum": 0.9},
        **{"optimizer.nesterov": False, "optimizer.weight_decay": 0.0001, "optimizer.fused": True},
    },
    "schedule=cosine": {"schedule.T_max": 30, "schedule.warmup": None},
    "schedule=poly": {"schedule.power": 0.9, "schedule.warmup": None},
    "schedule=onecycle": {"schedule.pct_start": 0.3},
    "loss=weighted": {"loss.weighted": True},
    "aug=flip": {"aug.horizontal": 0.5, "aug.vertical": 0.5},
    "data=shapes": {
        **{"data.root": "data/shapes", "data.split": "official", "data.size": 112, "data.batch_size": 16},
        **{"data.source.train": 256, "data.source.val": 64, "data.source.seed": 0},
    },
    "model=transfer": {"model.backbone": "resnet34", "model.weights": "DEFAULT", "model.freeze": False},
    "debug=fast": {
        **{"trainer.max_epochs": 1, "data.size": 64, "data.batch_size": 8, "choices.data": "shapes", "patience": 9},
        **{"data.source.train": 24, "data.source.val": 8},
    },
    "debug=overfit": {
        **{"trainer.max_epochs": 100, "patience": None, "data.size": 112, "choices.data": "shapes"},
        **{"data.source.train": 16, "data.source.val": 16},
    },
    "callbacks=lr_monitor": {"callbacks.lr_monitor.logging_interval": "epoch"},
    "callbacks=model_summary": {"callbacks.model_summary.max_depth": 2},
    "logger=csv": {"logger.csv.save_dir": "runs/None", "logger.csv.name": "logs"},
    "logger=wandb": {"logger.wandb.project": "fcnseg", "logger.wandb.mode": "online"},
    "logger=mlflow": {"logger.mlflow.experiment_name": "fcnseg", "logger.mlflow.save_dir": "runs/.mlflow"},
}


@pytest.mark.parametrize("choice", DEFAULTS)
def test_defaults_are_what_they_were(choice):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("config", overrides=[choice] if choice else [], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)  # which the choices are read from
        assert {key: OmegaConf.select(cfg, key, default="no") for key in DEFAULTS[choice]} == DEFAULTS[choice]


COMMANDS = {
    "evaluate": {"run": "???", "verify": True, "data.root": None},
    "report": {"runs": "runs", "out": "report", "images": None, "data.root": None},
}


@pytest.mark.parametrize("group", ["data", "optimizer", "schedule"])
def test_a_setting_of_many_choices_is_explained_in_the_same_words(group):
    comments = {}
    for path in (CONF / group).glob("*.yaml"):
        for key, comment in re.findall(r"^(\w+):.*?# (.*)$", path.read_text(), re.M):
            comments.setdefault(key, set()).add(comment)
    assert {key for key, texts in comments.items() if len(texts) > 1} <= {"root"}


@pytest.mark.parametrize("name", COMMANDS)
def test_defaults_of_commands_are_what_they_were(name):
    cfg = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    data = cfg.pop("data")
    assert COMMANDS[name].items() <= {**cfg, **{f"data.{key}": value for key, value in data.items()}}.items()


def leaves(cfg, prefix=""):
    for key, node in cfg.items_ex(resolve=False):
        if isinstance(node, DictConfig):
            yield from leaves(node, f"{prefix}{key}.")
        else:
            yield prefix + key


def strays(compose, preset, conf=CONF):
    """The keys of a preset that are in no config with its choices: Hydra would add them without a word."""
    delta = OmegaConf.load(conf / f"{preset.replace('=', '/')}.yaml")
    chosen = [entry for entry in delta.pop("defaults", []) if entry != "_self_"]
    base = compose(
        *(f"{key.removeprefix('override /')}={value}" for entry in chosen for key, value in entry.items()), conf=conf
    )
    return set(leaves(delta)) - set(leaves(base))


HAVE_TESTS_OF_THEIR_OWN = (
    "aug=",
    "loss=",
    "experiment=",
)  # of what they are made of; the choices are tried with -m slow


@pytest.mark.parametrize(
    "choice",
    [pytest.param(c, marks=pytest.mark.slow if c.startswith(HAVE_TESTS_OF_THEIR_OWN) else ()) for c in CHOICES],
)
def test_every_choice_trains(command, tiny, choice, tmp_path):
    if choice in EXTRAS:
        pytest.importorskip(EXTRAS[choice])
    offline = ["logger.wandb.mode=offline"] if choice == "logger=wandb" else []
    outcome = command(train, *tiny(choice), *offline)
    assert outcome.code == 0, outcome.err
    assert len(list(tmp_path.glob("runs/*/result.json"))) == 1


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_changes_only_what_there_is(compose, preset):
    assert strays(compose, preset) == set()


def test_every_experiment_of_the_paper_s_is_a_row():
    assert list(PAPER) == list(EXPERIMENTS)  # a user's own may lie beside them


@pytest.mark.parametrize("name", PAPER)
def test_an_experiment_has_what_its_row_has(compose, name):
    cfg = compose(f"experiment={name}")
    *words, lr, epochs, patience = PAPER[name]
    for group, word in zip(("model", "aug", "loss", "schedule", "optimizer"), words, strict=True):
        found = OmegaConf.to_container(cfg[group])
        assert {key: value for key, value in found.items() if key not in ("_partial_", "lr")} == MEANING[word]
    assert (cfg.optimizer.lr, cfg.trainer.max_epochs, cfg.patience) == (lr, epochs, patience)
    assert (cfg.data.batch_size, cfg.data.size, cfg.data.split) == (16, 224, "halves")


@pytest.mark.parametrize("name", PAPER)
def test_a_row_s_numbers_are_the_paper_s_wherever_they_are_shown(name):
    row = EXPERIMENTS[name]
    table, loss, iou, acc = f"Table {row.figure + 3}", f"{row.loss:.4f}", f"{row.paper_iou:.4f}", f"{row.paper_acc:.4f}"
    head = (CONF / "experiment" / f"{name}.yaml").read_text()
    assert re.search(rf"^# {table}: ", head, re.M)
    assert f"# The paper: loss {loss}, IoU {iou}, pixel accuracy {acc}\n" in head
    assert re.findall(rf"^\| {name} \((.+?)\).*? \| (\S+) \| (\S+) \|", README, re.M) == [(table, iou, acc)]


def test_the_readme_s_floor_is_the_paper_s():
    (shown,) = re.findall(r"^\| background everywhere \| (\S+) \| (\S+) \|", README, re.M)
    assert shown == (str(FLOOR["paper_iou"]), str(FLOOR["paper_acc"]))


@pytest.mark.parametrize("name", PAPER)
def test_overfit_does_not_augment(compose, name):
    assert compose(f"experiment={name}", "debug=overfit").aug._target_ == "fcnseg.data.augment.Chain"
    assert compose("aug=flip", "debug=overfit").aug._target_ == "fcnseg.data.augment.Flip"  # what is asked for, wins


@pytest.mark.parametrize("order", [("flip", "crop"), ("crop", "flip")])
def test_steps_that_are_added_to_no_augmentation_stand_in_the_order_given(compose, order):
    cfg = compose("aug=none", *(f"+aug@aug.{name}={name}" for name in order))
    assert list(build.data(cfg).augment.steps) == list(order)
    assert not build.data(compose("aug=none")).augment.steps


@pytest.mark.parametrize(
    ("preset", "stray"),
    [
        ("patince: 3", {"patince"}),
        ("trainer: {max_epoch: 3}", {"trainer.max_epoch"}),
        ("data: {source: {train: 16}}", {"data.source.train"}),  # VOC-2012 has no such number
        ("defaults: [{override /data: shapes}]\ndata: {source: {train: 16}}", set()),
        ("defaults: [{override /model: transfer}]\nmodel: {freeze: true}", set()),
    ],
)
def test_a_stray_key_would_be_found(compose, tmp_path, preset, stray):
    conf = shutil.copytree(CONF, tmp_path / "conf")
    (conf / "debug" / "made_up.yaml").write_text(f"# @package _global_\n{preset}\n")
    assert strays(compose, "debug=made_up", conf) == stray


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_a_config_is_short_and_names_what_there_is(path):
    assert len(path.read_text().splitlines()) <= 60
    cfg = OmegaConf.load(path)
    for key in leaves(cfg):
        if key.endswith("_target_"):
            assert callable(get_object(OmegaConf.select(cfg, key)))


@pytest.mark.parametrize("group", GROUPS, ids=lambda path: str(path.relative_to(CONF)))
def test_a_group_has_two_choices_or_more(group):
    assert len(list(group.glob("*.yaml"))) >= 2


@pytest.mark.parametrize("name", MODELS)
def test_one_word_for_a_network(name):
    cls = get_object(OmegaConf.load(CONF / "model" / f"{name}.yaml")._target_)
    assert (cls.__name__.lower(), cls.__module__) == (name, f"fcnseg.models.{name}")


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.01, 0.01, 0.01, 0.01]),
        ("constant schedule.factor=0.5", [0.005] * 7),  # PyTorch's own default ends the factor after five epochs
        ("cosine", [0.01 / 2 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)]),  # eq. (1), T = max_epochs
        ("poly", [0.01 * (1 - epoch / 4) ** 0.9 for epoch in range(4)]),
        # Steps 0, 2, 4 and 6 of 8, of which 1.4 is the highest: from 1/25 up, then down to 1/250000.
        ("onecycle", [0.0004, *(0.01 * (1 + math.cos(math.pi * (step - 1.4) / 5.6)) / 2 for step in (2, 4, 6))]),
    ],
)
def test_learning_rates(tmp_path, train_in, schedule, expected):
    settings = [*f"schedule={schedule}".split(), f"trainer.max_epochs={len(expected)}"]
    run = train_in(tmp_path, *settings, "optimizer.lr=0.01", "patience=null")
    with (run / "metrics.csv").open() as file:
        assert [float(row["lr"]) for row in csv.DictReader(file)] == pytest.approx(expected, rel=1e-4)


GIVEN = {  # every setting of a run that may be null, with a value that an experiment may give
    **{"patience": 5, "ema": 0.9, "checkpoint.every_n_minutes": 1.0, "checkpoint.every_n_steps": 5, "model.weights": "DEFAULT"},
    **{"optimizer.fused": True, "optimizer.backbone_lr": 0.1, "optimizer.decay_norms": False, "schedule.warmup": 5},
    **{"data.pack_size": 300, "data.limit": 5, "data.cache": "packs", "data.download": False},
}


def test_what_is_null_in_a_file_may_be_null_under_any_experiment(command, tmp_path):
    groups = ("data", "optimizer", "schedule", "aug", "model")
    files = [("", CONF / "config.yaml"), ("data.", CONF / "data_set.yaml")]
    files += [(f"{group}.", path) for group in groups for path in CONF.glob(f"{group}/*.yaml")]
    values = {f"{prefix}{key}": value for prefix, path in files for key, value in yaml.safe_load(path.read_text()).items()}
    assert {key for key, value in values.items() if value is None} - {"name"} <= {*MAY_BE_NULL} == {*GIVEN, "picture"}
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    nested = OmegaConf.create()
    for key, value in GIVEN.items():
        OmegaConf.update(nested, key, value)
    text = "# @package _global_\ndefaults: [override /model: transfer]\n" + OmegaConf.to_yaml(nested)
    (folder / "given.yaml").write_text(text)
    taken_back = [f"{key}=null" for key in GIVEN]
    outcome = command(train, "--config-dir=mine", "experiment=given", *taken_back, "trainer.max_epochs=0")
    assert outcome.err == "fcnseg: trainer.max_epochs=0: wanted a whole number from 1 up\n"


def test_the_help_says_what_may_be_null_or_a_list():
    for words, keys in (("null", MAY_BE_NULL), (re.escape("[height,width]"), MAY_BE_A_LIST)):
        for key in keys:
            group, _, name = key.rpartition(".")
            files = [CONF / "config.yaml", CONF / "check.yaml"]
            if group:
                files = [*CONF.glob(f"{group}/*.yaml"), *([CONF / "data_set.yaml"] if group == "data" else [])]
            lines = re.findall(rf"^ *{name}:.*", "\n".join(path.read_text() for path in files or [CONF / "config.yaml"]), re.M)
            assert [line for line in lines if re.search(words, line)], key


WORDS_AND_NUMBERS = {  # settings that have text or null in a file of conf/, but whose value is no name and no path
    *("ema", "patience", "resume", "at", "tta", "format", "tile", "overlap", "device", "callbacks.lr_monitor.logging_interval"),
    *("trainer.accelerator", "trainer.precision", "checkpoint.every_n_steps", "data.split", "data.pack_size", "data.limit"),
    *("data.download", "logger.wandb.mode", "model.backbone", "model.arch", "model.encoder"),
    *("optimizer.backbone_lr", "optimizer.decay_norms", "schedule.warmup"),
}


def test_a_setting_of_text_is_a_name_or_a_path_or_else_a_word():
    found = set()
    for path in FILES:
        group = path.parent.name
        prefix = "" if path.parent == CONF or group in ("experiment", "debug") else group
        prefix = "data" if path.stem == "data_set" else prefix
        for key, value in flatten(OmegaConf.load(path), prefix, resolve=False).items():
            follows = isinstance(value, str) and value.startswith("${")
            if (value is None or isinstance(value, str)) and not (
                follows or re.search(r"_target_$|defaults$|hydra|launcher", key)
            ):
                found.add(key)
    assert {key for key in found if not setting(key).text} == WORDS_AND_NUMBERS


@pytest.mark.parametrize("experiment", ["strong", "strong_small", "scratch"])
def test_an_experiment_with_crops_may_have_images_that_are_not_square(command, experiment):
    sizes = ["data.size=[96,128]", "data.pack_size=[500,600]"]
    outcome = command(train, f"experiment={experiment}", "data=shapes", "model.weights=null", *sizes, "trainer.max_epochs=0")
    assert outcome.err == "fcnseg: trainer.max_epochs=0: wanted a whole number from 1 up\n"


@pytest.mark.parametrize("aug", [["aug=crop"], ["aug=strong", "+aug@aug.cutmix=cutmix"], ["aug=none", "+aug@aug.crop=crop"]])
def test_images_that_are_not_square_are_cropped_trained_on_and_tested(command, tiny, aug):
    args = [arg for arg in tiny(*aug) if not arg.startswith("data.size=")]
    outcome = command(train, *args, "data.size=[32,48]", "data.pack_size=[48,64]", "name=wide")
    assert outcome.code == 0, outcome.err
    assert "at 32x48 px" in command(evaluate, "run=runs/wide").out


@pytest.mark.parametrize("setting", ["data.pack_size=null", "data.pack_size=[112,128]", "ema=null", "schedule.warmup=null"])
def test_an_experiment_s_setting_may_be_taken_back(command, root, setting):
    small = ["experiment=strong_small", f"data.root={root}", "model.weights=null", "trainer.max_epochs=0", setting]
    outcome = command(train, *small)
    assert "max_epochs" in outcome.err  # the last mistake is the only one


def test_a_path_is_text(compose):
    with pytest.raises(ValueError, match=r"data\.cache=true: wanted text or null"):
        check_parameters(compose("data=shapes", "data.cache=true"))


@pytest.mark.parametrize("setting", ["div_factor=abc", "final_div_factor=abc", "cycle_momentum=1"])
def test_what_onecycle_takes_is_checked_before_a_run(compose, setting):
    key, _, value = setting.partition("=")
    with pytest.raises(ValueError, match=rf"schedule\.{key}={value}: wanted"):
        check_parameters(compose("data=shapes", "schedule=onecycle", f"+schedule.{setting}"))


def test_a_part_of_a_network_may_have_any_number_of_classes(compose):
    part = ["+model.part._target_=fcnseg.models.FCN", "+model.part.num_classes=0"]
    check_parameters(compose("data=shapes", *part))
    with pytest.raises(ValueError, match=r"model\.num_classes cannot be set"):
        check_parameters(compose("data=shapes", "+model.num_classes=5"))


def test_a_default_in_a_config_is_the_default_of_what_it_makes():
    """Where both have one: a loss made in Python is the one that the command line makes."""
    compared = 0
    for path in CONF.glob("*/*.yaml"):
        cfg = OmegaConf.to_container(OmegaConf.load(path))
        if not str(cfg.get("_target_")).startswith("fcnseg."):
            continue
        for name, parameter in signature(get_object(cfg["_target_"])).parameters.items():
            default = [*parameter.default] if isinstance(parameter.default, tuple) else parameter.default
            # A choice that is named after a setting, as label_smoothing is, is there to set it.
            if name in cfg and name != path.stem and default is not Parameter.empty and "${" not in str(cfg[name]):
                assert cfg[name] == default, (path, name)
                compared += 1
    assert compared > 20  # among them every setting of an augmentation
