import json
import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import torch
from omegaconf import OmegaConf
from packaging.requirements import Requirement
from PIL import Image

from fcnseg.__main__ import COMMANDS, main
from fcnseg.benchmark.__main__ import benchmark
from fcnseg.check.__main__ import check
from fcnseg.cli.arguments import Arguments, parse, quoted
from fcnseg.cli.configs import CONF
from fcnseg.data import download, voc
from fcnseg.evaluate import evaluate
from fcnseg.export.__main__ import export
from fcnseg.learning.task import SegmentationTask
from fcnseg.predict import predict
from fcnseg.report.__main__ import report
from fcnseg.train import train

WRONG = [  # arguments, and words of the message
    (["model=fnc"], ["fnc", "fcn?"]),
    (["schedule=cosin"], ["cosin", "cosine?"]),
    (["debug=slow"], ["slow", "fast", "overfit"]),
    (["modle=fcn"], ["modle", "model?"]),
    (["optimizer.rl=1"], ["optimizer.rl", "optimizer.lr"]),
    (["trainer.max_epoch=3"], ["trainer.max_epoch'", "trainer.max_epochs"]),
    (["patiense=3"], ["patiense", "patience"]),
    (["trainer.max_epochs=many"], ["trainer.max_epochs=many", "whole number"]),
    (["data.size=64.5"], ["data.size=64.5", "whole number"]),
    (["data.size=[64,31]"], ["data.size=31", "32"]),
    (["trainer.deterministic=3"], ["trainer.deterministic=3", "true or false"]),
    (["optimizer.lr=small"], ["optimizer.lr=small", "a number"]),
    (["model.widths=8"], ["model.widths=8", "a list"]),
    (["model.widths=[8,wide]"], ["model.widths", "a list"]),
    (["seed=null"], ["seed", "whole number"]),
    (["+stray=1"], ["stray"]),
    (["+data.stray=1"], ["stray"]),
    (["+model.foo=1"], ["model.foo: fcnseg.models.FCN has no such parameter; it has"]),
    (["trainer.accelerator=banana"], ["trainer.accelerator=banana: wanted one of auto, cpu"]),
    (["trainer.accelerator=gpu"], ["trainer.accelerator=gpu: this machine has no GPU that PyTorch can use; auto takes"]),
    (["+trainer.gradient_clip_val=0"], ["trainer.gradient_clip_val=0: wanted a number above 0, or null"]),
    (["data=shapes", "+data.download=true"], ["leave data.download as it is"]),
    (["+callbacks.x._target_=lightning.Callback", "+callbacks.x.only_watches=maybe"], ["only_watches=maybe: wanted true or"]),
    (["trainer._target_=lightning.Fabric"], ["trainer._target_=lightning.Fabric: a run is trained by lightning.Trainer"]),
    (["loss=ce_dice", "loss.terms.ce.weight=0"], ["weight=0: wanted a number above 0; ~loss.terms.ce leaves the part"]),
    (["loss=ce_dice", "loss.terms=3"], ["loss.terms=3: it has settings of its own, such as loss.terms.ce; change these"]),
    (["loss=ce_dice", "loss.terms.ce=null"], ["loss.terms.ce=null: it has settings of its own"]),
    (
        ["loss=ce_dice", "+loss.terms.x={weight: null, loss: {_target_: fcnseg.learning.losses.Focal}}"],
        ["weight=null: wanted a"],
    ),
    (["loss=ce_dice", "+loss.terms.x={weight: 1, loss: {gamma: 2}}"], ["loss.terms.x={", "wanted a weight and a loss"]),
    (["optimizer.decay_norms={a: true}"], ["optimizer.decay_norms={'a': True}: wanted true or false, or null"]),
    (["schedule.warmup={}"], ["schedule.warmup={}: wanted a whole number of steps"]),
    (["+callbacks.x._target_=lightning.Callback", "+callbacks.x.only_watches={a: true}"], ["only_watches={'a': True}: wanted"]),
    (["+callbacks.x._target_=lightning.Callback", "+callbacks.x.only_watches=null"], ["only_watches=null: wanted true or"]),
    (["+loss._partial_=null"], ["loss._partial_=null: wanted false"]),
    (["aug=flip", "+aug._partial_=true"], ["aug=flip gives", "wanted an augmentation"]),
    (["aug=strong", "+aug.flip._partial_=true"], ["aug.flip=", "wanted an augmentation"]),
    (["aug.flip=3", "aug=strong"], ["aug.flip=3: it has settings of its own, such as aug.flip._target_"]),
    (["loss=ce_dice", "+loss.terms.ce.loss.label_smoothing=2"], ["loss.terms.ce.loss.label_smoothing=2: wanted a num"]),
    (["aug=none", "+aug@aug.cutmix=cutmix", "data.batch_size=1"], ["data.batch_size=1: the augmentation mixes"]),
    (["loss=ce_dice", "+loss.terms.ce.wieght=2"], ["loss.terms.ce={", "wanted a weight and a loss, and nothing else"]),
    (["loss=ce_dice", "~loss.terms.ce", "~loss.terms.dice"], ["loss.terms is empty"]),
    (["loss=ce_dice", "~loss.terms"], ["loss.terms is empty"]),
    (["loss=ce_dice", "+loss.terms.foo={weight: 1, loss: 3}"], ["loss.terms.foo={'weight': 1, 'loss': 3}: wanted"]),
    (["loss=ce_dice", "+loss.terms.foo.weight=1"], ["loss.terms.foo={'weight': 1}: wanted a weight and a loss"]),
    (["loss=ce_dice", "~loss.terms.ce", "trainer.max_epochs=0"], ["trainer.max_epochs=0: wanted"]),  # the part is left out
    (["+model._partial_=true"], ["model._partial_=true: wanted false"]),
    (["optimizer=adam", "+optimizer.betas=[0.9]"], ["optimizer or schedule: list index"]),
    (["model=transfer", "model.weights=null", "model.freeze=true"], ["model.freeze=true would keep random weights"]),
    (["+data.seed=5"], ["data.seed cannot be set: fcnseg passes it to fcnseg.data.module.DataModule itself"]),
    (["+data.only=val"], ["data.only cannot be set"]),
    (["+model.num_classes=5"], ["model.num_classes cannot be set"]),
    (["+loss.class_pixels=3"], ["loss.class_pixels cannot be set"]),
    (["loss=ce_dice", "+loss.terms.ce.loss.class_pixels=3"], ["loss.terms.ce.loss.class_pixels cannot be set"]),
    (["+schedule.steps=3"], ["ConstantLR has no such parameter; it has factor, total_iters"]),
    (["+optimizer.params=3"], ["optimizer.params cannot be set"]),
    (["schedule=poly", "+schedule.steps=3"], ["schedule.steps cannot be set"]),
    (["+schedule.T_max=3"], ["schedule.T_max: torch.optim.lr_scheduler.ConstantLR has no such parameter; it has factor"]),
    (["+optimizer.backbone_rl=3"], ["torch.optim.AdamW has no such parameter", "decay_norms"]),
    (["+optimizer.beta=3"], ["optimizer.beta: torch.optim.AdamW has no such parameter; it has lr, betas"]),
    (["+trainer.max_epoch=1"], ["max_epoch"]),
    (["+choices.stray=1"], ["choices.stray"]),
    (["choices.model=unet"], ["choices.model", "model=<choice>"]),
    (["experiment=[flip,wilson]"], ["experiment=[flip,wilson]", "one experiment"]),  # Hydra lists none of several
    (["+choices.stray._target_=os.listdir"], ["choices.stray._target_"]),
    (["+stray._target_=os.listdir"], ["stray._target_"]),
    (["+stray={}"], ["stray"]),
    (["+schedul.factor=1"], ["schedul.factor", "schedule.factor"]),
    (["++patiense=3"], ["patiense", "patience?"]),
    (["~patiense"], ["patiense", "patience?"]),
    (["data.size"], ["cannot read 'data.size'", "setting=value"]),
    (["--patience=3"], ["--patience=3", "setting=value"]),
    (["--config-dir", "no/where"], ["no/where"]),
    (["--config-name=evaluate"], ["--config-name", "--config-dir"]),
    (["data.size=16"], ["data.size=16", "32"]),
    (["data.batch_size=9"], ["data.batch_size=9", "8 images"]),
    (["data.source.train=0"], ["train=0"]),
    (["data=voc2012", "data.root=no/where"], ["no data set in data.root=no/where", "data.download=true"]),
    (["data=voc2012", "data.root=no/where", "data.download=maybe"], ["data.download=maybe", "true or false or null"]),
    (["data=voc2012", "data.source._target_=os.listdir"], ["data.source.urls: os.listdir has no such parameter"]),
    (["data=shapes", "data.source._target_=builtins.dict"], ["data.source cannot be called"]),
    (["data=shapes", "+data.download=true"], ["data.source cannot be called", "download"]),
    (["data.limit=9"], ["data.limit=9", "8 images"]),
    (["trainer.devices=3"], ["data.batch_size=4", "3 parts", "data.batch_size=3 or 6"]),
    (["ema=1"], ["ema=1", "between 0 and 1, such as 0.999"]),
    (["optimizer.backbone_lr=0.1"], ["optimizer.backbone_lr=0.1: FCN has no backbone", "model=transfer"]),
    (["optimizer=adam", "optimizer.decay_norms=false"], ["optimizer.decay_norms=false", "optimizer.weight_decay"]),
    (["optimizer=sgd", "optimizer.nesterov=true", "optimizer.momentum=0"], ["Nesterov momentum"]),
    (["schedule.warmup=500"], ["schedule.warmup=500: the run has 2 steps", "fewer"]),
    (["schedule=poly", "schedule.power=big"], ["schedule.power=big", "a number"]),
    (["schedule=onecycle", "schedule.warmup=5"], ["no setting 'schedule.warmup' with these choices"]),
    (["schedule=cosine", "schedule.factor=2.0"], ["no setting 'schedule.factor' with these choices"]),
    (["schedule=poly", "schedule.power=-1"], ["schedule.power=-1: wanted a number from 0 up"]),
    (["schedule=onecycle", "schedule.pct_start=2.0"], ["schedule.pct_start=2.0: wanted a number from 0 to 1"]),
    (["hydra/launcher=gpus"], ["hydra/launcher has an effect only on a sweep (python -m fcnseg.train -m)"]),
    (["hydra.launcher.n_jobs=2"], ["hydra.launcher.n_jobs has an effect only on a sweep"]),
    (["optimizer=adam", "+optimizer.betas=3"], ["optimizer or schedule: "]),
    (["optimizer=sgd", "optimizer.nesterov=true", "+optimizer.dampening=0.1"], ["optimizer or schedule: Nesterov"]),
    (["+trainer.max_steps=3"], ["max_steps=3", "max_epochs"]),
    (["seed=-1"], ["seed=-1", "0"]),
    (["resume=foo"], ["resume=foo", "auto", "never"]),
    (["name=.hidden"], ["name='.hidden'", "leading dot"]),
    (["name='a\tb'"], ["name of a folder"]),
    (["name=" + 201 * "x"], ["up to 200 bytes"]),
    (["name=../../x"], ["name='../../x'", "without a /"]),
    (["optimizer.lr=inf"], ["optimizer.lr=inf", "finite"]),
    (["optimizer.lr=nan"], ["optimizer.lr=nan", "finite"]),
    (["+optimizer.weight_decay=nan"], ["optimizer.weight_decay=nan", "finite"]),
    (["schedule.factor=inf"], ["schedule.factor=inf", "finite"]),
    (["checkpoint.min_seconds=nan"], ["checkpoint.min_seconds=nan", "finite"]),
    (["schedule=cosine", "schedule.T_max=0"], ["schedule.T_max=0", "from 1 up"]),
    (["+optimizer.foreach=maybe"], ["optimizer.foreach=maybe", "true or false or null"]),
    (["+optimizer.eps=small"], ["optimizer.eps=small: wanted a number\n"]),
    (["+optimizer.amsgrad=1"], ["optimizer.amsgrad=1: wanted true or false\n"]),
    (["+trainer.benchmark=perhaps"], ["trainer.benchmark=perhaps", "true or false or null"]),
    (["trainer.accelerator=gpu", "trainer.devices=[99]"], ["trainer.accelerator=gpu: "]),
    *((["~" + key], [f"~{key}: it cannot be removed; give {key}="]) for key in ("schedule.factor", "optimizer", "seed")),
    (["~patience"], ["~patience", "or null"]),
    (["~name"], ["~name", "or null"]),
    *(
        ([f"{key}._target_={target}"], [target.removeprefix("logging."), "blocklisted"])
        for key, target in (("model", "os.system"), ("loss", "subprocess.run"), ("aug", "logging.os.system"))
    ),
    (["aug=flip", "aug.horizontal=2"], ["aug.horizontal=2", "0 to 1"]),
    (["aug=strong", "aug.flip.horizontal=2"], ["fcnseg: aug.flip.horizontal=2: wanted a number from 0 to 1"]),
    (["aug=strong", "+aug.crop.foo=1"], ["aug.crop.foo: fcnseg.data.transforms.Crop has no such parameter; it has"]),
    (["aug=strong", "aug.crop.scale=[2,1]"], ["aug.crop.scale=[2, 1]: wanted two numbers", "the smaller one first"]),
    (["aug=strong", "aug.crop.scale=2"], ["aug.crop.scale=2: wanted a list, such as [0.5, 2.0]"]),
    (["aug=strong", "aug.colr.hue=0"], ["'aug.colr.hue'", "aug.colour.hue"]),
    (["loss=ce_dice", "loss.term.dice.weight=2"], ["'loss.term.dice.weight'", "loss.terms.dice.weight"]),
    (["aug=strong", "+aug@aug.cutout=cutout", "aug.cutout.p=x"], ["aug.cutout.p=x: wanted a number, such as 0.5"]),
    (["aug=flip", "+aug@aug.cutout=cutout"], ["aug=flip is no chain of steps: aug=none +aug@aug.flip=flip, then"]),
    (["aug=none", "+aug.crop=crop"], ["aug.crop=crop: wanted an augmentation; +aug@aug.crop=crop adds one"]),
    (["aug=strong", "+aug.p=0.5"], ["aug.p=0.5: wanted an augmentation"]),
    (["data=shapes", "+data.source.images=3"], ["data.source.images", "has no such parameter; it has train, val"]),
    (["data.pack_size=48", "data.size=64"], ["data.pack_size=48 is smaller than data.size=64: raise it, or null"]),
    (["model=transfer", "model.backbone=resnet17"], ["model.backbone=resnet17", "resnet18"]),
    (["model=transfer", "model.weights=none.pt"], ["none.pt"]),
]


def refused(outcome, *words):
    """Exit code 2 and one plain message."""
    assert outcome.code == 2, outcome
    assert outcome.err.startswith("fcnseg: ")
    assert outcome.err.count("fcnseg: ") == 1
    assert "Traceback" not in outcome.out + outcome.err
    for word in words:
        assert word in outcome.err
    return True


@pytest.fixture
def folder(root, tmp_path):
    """A VOC folder to damage."""
    return voc.VOCFolder(shutil.copytree(root / "VOCdevkit" / "VOC2012", tmp_path / "copy" / "VOC2012"))


@pytest.mark.parametrize(("args", "words"), WRONG, ids=lambda value: " ".join(value))
def test_a_mistake_gets_one_message(command, tiny, tmp_path, args, words):
    choice = [arg for arg in args if arg.startswith(("data=", "aug=", "schedule=cosine")) or arg == "model=transfer"]
    assert refused(command(train, *tiny(*choice), *args), *words)
    assert not (tmp_path / "runs").exists()


def empty(folder):
    (folder.path / "ImageSets" / "Segmentation" / "val.txt").write_text("\n")
    return "val.txt"


def truncate(folder):
    path = folder.image(folder.names("train")[1])
    path.write_bytes(path.read_bytes()[:1000])
    return path.name


def mislabel(folder):
    path = folder.mask(folder.names("val")[1])
    with Image.open(path) as mask:
        pixels = mask.point(lambda label: 30 if label == 255 else label)
    pixels.save(path)
    return path.name


def remove(folder):
    path = folder.mask(folder.names("train")[0])
    path.unlink()
    return path.name


def leak(folder):
    lists = folder.path / "ImageSets" / "Segmentation"
    (lists / "val.txt").write_bytes((lists / "train.txt").read_bytes())
    return f"val lists {folder.names('train')[0]}, which train lists too"


def repeat(folder):
    path = folder.path / "ImageSets" / "Segmentation" / "train.txt"
    path.write_text(path.read_text() * 2)
    return f"train lists {folder.names('train')[0]} 2 times, wanted once"


def encode(folder):
    path = folder.path / "ImageSets" / "Segmentation" / "val.txt"
    path.write_bytes("übung".encode("latin-1"))
    return "val.txt is not in UTF-8"


def compress(folder):
    path = folder.mask(folder.names("train")[0])
    Image.open(path).convert("L").save(path, "JPEG")
    return f"{path.name} is a JPEG file"


DAMAGES = [empty, truncate, mislabel, remove, leak, repeat, encode, compress]


def of_data(overrides):
    """Those of a run's overrides that `check` takes, too."""
    return [override for override in overrides if override.startswith(("data=", "data.root", "data.source"))]


@pytest.mark.parametrize(
    ("verb", "overrides"),
    [
        *((evaluate, ["run=x", other]) for other in ("model=fcn", "data=shapes", "optimizer.lr=3", "experiment=flip")),
        *((check, [other]) for other in ("model=unet", "optimizer.lr=3", "seed=1", "trainer.max_epochs=1")),
        *((report, [other]) for other in ("aug=flip", "loss.weighted=true")),
    ],
)
def test_a_setting_of_another_command_is_refused(command, verb, overrides):
    assert refused(command(verb, *overrides), f"no setting '{overrides[-1].partition('=')[0]}'; ")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_data_set_gets_one_message(command, tiny, folder, tmp_path, damage):
    name = damage(folder)
    args = [*tiny("data=voc2012"), f"data.root={folder.path}"]
    assert refused(command(train, *args), name)
    args = of_data(args)
    assert not (tmp_path / "runs").exists()
    outcome = command(check, *args, "picture=null")
    assert outcome.code == 2
    assert name in outcome.out + outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("verb", [train, check])
@pytest.mark.parametrize("wrong", ["mistyped", "photographs"])
def test_a_wrong_root_starts_no_download_and_makes_no_folder(command, tiny, folder, tmp_path, monkeypatch, verb, wrong):
    monkeypatch.setattr(download, "urlopen", lambda *_, **__: pytest.fail("asked a server"))
    (tmp_path / "photographs").mkdir()
    before = sorted(tmp_path.rglob("*"))
    args = [*tiny("data=voc2012"), f"data.root={wrong if wrong == 'photographs' else 'copies'}"]
    outcome = command(verb, *(of_data(args) if verb is check else args))
    told = "the folder holds nothing" if wrong == "photographs" else "data.root=copy would work"
    assert refused(outcome, "no data set in data.root=", "ImageSets/Segmentation", told, "data.download=true")
    assert sorted(tmp_path.rglob("*")) == before


def test_the_data_set_may_lie_in_the_user_s_home(command, tiny, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.rmtree(folder.path / "packs", ignore_errors=True)
    assert command(check, "data=voc2012", "data.root=~/copy").code == 0
    outcome = command(train, *tiny("data=voc2012"), "data.root=~/copy", "data.cache=~/packs", "data.limit=4", "name=run")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "packs").is_dir()
    assert not (folder.path / "packs").exists()
    assert not (tmp_path / "~").exists()
    result = json.loads((tmp_path / "runs" / "run" / "result.json").read_text())
    assert result["images"] == {"train": 4, "val": 4, "test": 4}


def test_weights_of_another_network_are_refused(command, tiny, tmp_path):
    torch.save({"conv1.weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    outcome = command(train, *tiny("model=transfer"), "model.backbone=resnet18", f"model.weights={tmp_path}/other.pt")
    assert refused(outcome, "other.pt", "conv1.weight: found (2, 2), wanted (64, 3, 7, 7)")
    assert not (tmp_path / "runs").exists()


def test_a_config_of_ones_own_that_would_not_be_read_is_refused(command, tmp_path):
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "fcn.yaml").write_text("_target_: torch.nn.Identity")
    assert refused(command(train, "--config-dir", "mine"), "mine/model/fcn.yaml", "model=fcn", "another name")


def test_an_unwritable_folder_is_refused(command, tiny, tmp_path):
    (tmp_path / "file").touch()
    assert refused(command(train, *tiny(), f"runs={tmp_path}/file/runs"), "file/runs")


@pytest.mark.parametrize(
    ("args", "words"),
    [([], ["run=<value>"]), (["run=nowhere"], ["nowhere"]), (["rum=x"], ["rum", "run?"])],
    ids=["no run", "wrong run", "wrong key"],
)
def test_evaluate_names_a_mistake(command, args, words):
    assert refused(command(evaluate, *args), *words)


@pytest.mark.parametrize(
    ("error", "code", "status"), [(RuntimeError("boom"), 1, "failed"), (KeyboardInterrupt(), 130, "interrupted")]
)
def test_a_run_that_ends_early_says_how(command, tiny, tmp_path, monkeypatch, error, code, status):
    def step(*args):
        raise error

    monkeypatch.setattr(SegmentationTask, "training_step", step)
    outcome = command(train, *tiny("name=run"))
    assert (outcome.code, outcome.err.count("fcnseg: ")) == (code, 1)
    assert "Traceback" not in outcome.err
    status_file = json.loads((tmp_path / "runs/run/status.json").read_text())
    assert status_file["status"] == status
    assert ("boom" in status_file.get("traceback", "")) == (status == "failed")
    assert not (tmp_path / "runs/run/result.json").exists()


def test_the_traceback_on_demand(command, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match=r"data\.size=big"):
        command(train, "data=shapes", "data.size=big")


WATCHED = """
import atexit, runpy, sys
atexit.register(lambda: print("waited for torch" if "torch" in sys.modules else "did not wait"))
runpy.run_module(f"fcnseg.{sys.argv.pop(1)}", run_name="__main__")
"""


@pytest.mark.parametrize(
    "words",
    [
        *("train --help", "train modle=fcn", "train data.size=big", "train data.size=3"),
        *("evaluate --help", "evaluate run=none", "evaluate run=none at=native", "export --help", "export run=none"),
    ],
)
def test_what_needs_no_torch_does_not_wait_for_it(words):
    run = subprocess.run([sys.executable, "-c", WATCHED, *words.split()], capture_output=True, text=True)
    assert (run.returncode, run.stdout.splitlines()[-1]) == (0 if "--help" in words else 2, "did not wait"), run.stderr


@pytest.mark.parametrize(
    ("verb", "function"),
    list(zip(COMMANDS, (train, evaluate, predict, export, check, report, benchmark), strict=True)),
    ids=COMMANDS,
)
def test_help_has_every_setting_with_its_comment(command, verb, function):
    config = "config" if verb == "train" else verb
    code, out, _ = command(function, "--help")
    assert code == 0
    assert out.startswith(f"python -m fcnseg.{verb} [")
    lines = (CONF / f"{config}.yaml").read_text().partition("_self_")[2].splitlines()
    own = [line.strip() for line in lines if line.strip() and "- " not in line]
    assert len(own) >= 4
    assert set(own) <= {line.strip() for line in out.splitlines()}


def test_help_is_of_the_choices_on_the_command_line(command):
    out = command(train, "model=transfer", "data=shapes", "-h").out
    assert "model:  # model=transfer" in out
    assert "backbone: resnet34" in out
    assert "val: 64" in out
    assert "md5" not in out
    assert "wilson" in command(train, "model=wilsn", "-h").out


def test_help_has_the_settings_of_the_configs_that_a_choice_builds_on(command):
    lines = command(train, "data=sbd", "optimizer=sgd", "-h").out.splitlines()
    data = [line.split()[0] for line in lines[lines.index("  data:  # data=sbd") :] if re.match("    [^ #-]", line)][:10]
    own = ("_target_:", "root:", "split:", "size:", "pack_size:", "batch_size:", "limit:", "cache:", "download:", "source:")
    assert data == [*own]
    assert "    root: data" in [line.partition("#")[0].rstrip() for line in lines]
    assert [line.strip() for line in lines if line.strip().startswith(("lr:", "fused:", "momentum:"))] == [
        "lr: 0.01",
        "fused: true        # all parameters in one call; null: as PyTorch chooses",
        "momentum: 0.9",
    ]


def test_flags_may_stand_anywhere(command):
    assert "model:  # model=unet" in command(train, "aug=flip", "-h", "model=unet").out
    shown = command(train, "aug=strong", "--help").out
    assert "    crop:\n      # A random part" in shown
    assert "      scale: [0.5, 2.0]     # the size of the whole image" in shown
    assert command(train, "seed=3", "--cfg", "job", "patience=5").out.startswith("seed: 3\npatience: 5\n")


@pytest.mark.parametrize("command_line", [[], ["-h"], ["--help"]], ids=str)
def test_the_verbs_are_listed(command, command_line):
    code, out, _ = command(main, *command_line)
    assert code == 0
    assert len(out.splitlines()) <= 10
    for verb in COMMANDS:
        (line,) = [line for line in out.splitlines() if line.startswith(f"  {verb} ")]
        assert len(line.split()) >= 3


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")  # this process has imported it already
def test_a_verb_is_the_command_of_its_module(command):
    assert command(main, "evaluate", "-h") == command(evaluate, "-h")
    assert refused(command(main, "evaluate", "run=nowhere"), "nowhere")
    assert refused(command(main, "trian"), "trian", "train?", "--help")


def test_the_list_of_verbs_waits_for_no_import():
    code = "import sys, fcnseg.__main__ as m; m.main(); print({'torch', 'hydra', 'omegaconf'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == "set()"


OWN_NETWORK = """
from fcnseg.models import FCN

class Tiny(FCN):
    def __init__(self, num_classes, widths, steps):
        super().__init__(num_classes, widths=widths)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A network and its config in the working folder."""
    (tmp_path / "own_network.py").write_text(OWN_NETWORK)
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "tiny.yaml").write_text("_target_: own_network.Tiny\nwidths: [4, 8]\nsteps: 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "--config-dir=mine"


def test_configs_of_the_user_s_own_are_choices(command, tiny, own, tmp_path):
    assert command(train, own, *tiny(), "model=tiny").code == 0
    assert len(list(tmp_path.glob("runs/*tiny*/result.json"))) == 1


def test_help_and_messages_know_the_user_s_own_configs(command, own):
    out = command(train, own, "model=tiny", "-h").out
    assert ", tiny," in out
    assert "_target_: own_network.Tiny" in out
    assert refused(command(train, own, "model=tny"), "tiny?")
    assert refused(command(train, own, "model.stps=3"), "model.stps", "model.steps ")
    assert refused(command(train, own, "model=tiny", "model.steps=few"), "model.steps=few", "whole number")


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("own_network.Tny", "the module own_network has no Tny; did you mean Tiny? correct _target_: own_network.Tny"),
        ("own_network.parts.Tiny", "the module own_network has no parts; correct _target_: own_network.parts.Tiny"),
        ("own_netwrk.Tiny", "there is no module own_netwrk; correct _target_: own_netwrk.Tiny"),
        ("own_import.Tiny", "No module named 'not_installed'"),
    ],
)
def test_a_target_that_is_not_there_is_named(command, tiny, own, tmp_path, target, told):
    (tmp_path / "own_import.py").write_text("import not_installed")
    (tmp_path / "mine" / "model" / "tiny.yaml").write_text(f"_target_: {target}\nwidths: [4, 8]\n")
    outcome = command(train, own, *tiny(), "model=tiny")
    assert refused(outcome, told)
    assert ("a package" in outcome.err, "correct _target_" in outcome.err) == (False, "own_import" not in target)


@pytest.fixture
def entries(tmp_path):
    """A group whose choices are entries with a `_target_`, as callbacks are, or none."""
    (tmp_path / "mine" / "watchers").mkdir(parents=True)
    (tmp_path / "mine" / "watchers" / "none.yaml").touch()
    (tmp_path / "mine" / "watchers" / "one.yaml").write_text("one:\n  _target_: builtins.dict\n  a: 1\n")
    return ["--config-dir=mine", "resume=no"]  # the value is refused next


@pytest.mark.parametrize("choice", ["none", "one"])
def test_an_entry_is_added_to_a_group_of_entries(command, entries, choice):
    group = [*entries, f"+watchers={choice}"]
    for added in ("+watchers.x={_target_: builtins.dict}", "+watchers.x._target_=builtins.dict"):
        assert refused(command(train, *group, added, "+watchers.x.b=1"), "resume=no")
    for added in ("x=1", "_target_=builtins.dict", "x.y=1"):
        assert refused(command(train, *group, f"+watchers.{added}"), f"no setting 'watchers.{added.split('=')[0]}'")


@pytest.mark.parametrize(
    "args",
    [
        ["checkpoint.every_n_minutes=2.5"],
        ["optimizer.fused=null"],
        ["callbacks=lr_monitor", "~callbacks.lr_monitor"],
        ["logger=csv", "~logger.csv"],
        ["+optimizer.eps=1e-6", "+optimizer.betas=[0.8,0.9]", "+optimizer.foreach=false"],
        ["name='x[small] :smile: [bold]'"],
    ],
    ids=" ".join,
)
def test_odd_settings_that_make_sense_are_honoured(command, tiny, tmp_path, args):
    outcome = command(train, *tiny(*args))
    assert outcome.code == 0, outcome.err
    (result,) = tmp_path.glob("runs/*/result.json")
    assert f"everything is in runs/{result.parent.name}\n" in outcome.out
    assert f"{result.parent.name}: 8 images" in outcome.out


def test_an_entry_of_a_chain_is_removed(command, tiny, tmp_path):
    (tmp_path / "mine" / "aug").mkdir(parents=True)
    flip = "_target_: fcnseg.data.augment.Flip"
    text = f"defaults: [crop@two]\n_target_: fcnseg.data.augment.Chain\none: {{{flip}}}\nother: {{{flip}}}\n"
    (tmp_path / "mine" / "aug" / "both.yaml").write_text(text)
    args = [arg for arg in tiny() if not arg.startswith("aug=")]
    outcome = command(train, "--config-dir=mine", *args, "aug=both", "~aug.one", "aug.two.degrees=0")
    assert outcome.code == 0, outcome.err
    assert refused(command(train, "--config-dir=mine", "aug=both", "aug.tow.degrees=0"), "mean aug.two.degrees")


def test_steps_are_changed_added_and_removed_and_each_makes_another_run(command, tiny, tmp_path):
    changes = (
        [],
        ["aug.crop.scale=[0.8,1.5]"],
        ["+aug@aug.cutout=cutout"],
        ["+aug@aug.cutout=cutmix"],
        ["~aug.colour"],
    )
    for change in (*changes, *changes[2:4]):  # which are then shown, and are no other runs
        outcome = command(train, *tiny("aug=strong"), *change)
        assert outcome.code == 0, outcome.err
    runs = {path.parent.parent.name: OmegaConf.load(path).aug for path in tmp_path.glob("runs/*/.hydra/config.yaml")}
    assert len(runs) == len(changes)
    steps = sorted(" ".join(step for step in aug if step != "_target_") for aug in runs.values())
    plain = "flip crop colour blur"
    assert steps == sorted([plain, plain, f"{plain} cutout", f"{plain} cutout", "flip crop blur"])
    assert all("strong" in name for name in runs)


def test_a_home_folder_is_found_where_the_shell_has_not_put_it(command, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "anna's home"))
    for word in ("runs=~/x", "runs='~/x'"):
        assert command(train, *tiny(), word).code == 0
    assert len(list((tmp_path / "anna's home" / "x").glob("*/result.json"))) == 1
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("text", ["anna's work", "back\\", "a\\'b", "x=1,y", "[b]{c}", 'a"b', "$HOME", "é ü 猫", ""])
def test_any_text_can_be_the_value_of_an_override(text):
    (override,) = parse([f"key={quoted(text)}"])
    assert override.value() == text


@pytest.mark.parametrize(
    ("word", "value"),
    [
        *((f"{key}=2024_01_05", "2024_01_05") for key in ("run", "++data.root", "logger.wandb.name", "model.weights", "set")),
        *((f"name={text}", text) for text in ("007", "1e3", "0x10", "NaN", "-1", "+1", ".5", "5.", "1.50", "2024-01-05")),
        *((f"name={quoted(text)}", text) for text in ("1_0", "a,1_0,b", "it's 1_0", "[1_0]")),
        ("name=null", None),
        ("name=a\\,1_0", "a,1_0"),
        ("images=[2007_000033, a,1_0]", ["2007_000033", "a", "1_0"]),
        ("images=[]", []),
        ("data.root=1_0/1_0", "1_0/1_0"),
        ("seed=1_0", 10),
        ("optimizer.betas=[1_0,true]", [10, True]),
    ],
)
def test_names_and_paths_are_what_was_typed_and_numbers_are_numbers(word, value):
    assert [*Arguments([word]).values.values()] == [value]


def test_a_sweep_over_names_and_paths_has_what_was_typed():
    assert [*Arguments(["runs=1_0, 2_0,a"]).values["runs"].list] == [*parse(["runs='1_0','2_0',a"])[0].value().list]
    assert Arguments(["name=range(1,9)"]).values["name"].stop == 9


def test_folders_named_by_numbers_are_trained_into_and_found_again(command, tiny, root, tmp_path):
    (tmp_path / "2012").symlink_to(root)
    outcome = command(train, *tiny(), "runs=1_0", "name=1e3")
    assert outcome.code == 0, outcome.err
    assert command(train, *tiny(), "runs=1_0", "name=1e3").out.startswith("This run has finished")
    for verb, *words in ((evaluate, "run=1_0/1e3"), (export, "run=1_0/1e3", "format=weights", "out=2_0"), (report, "runs=1_0")):
        outcome = command(verb, *words, "data.root=2012")
        assert outcome.code == 0, outcome.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1_0", "2012", "2_0", "2_0.json", "report"]


FIRST_OF_ALL = """
import atexit, sys, fcnseg.train, pathlib, pwd
def unknown(*_): raise KeyError
pwd.getpwuid = unknown  # a user without an entry
atexit.register(lambda: (__import__("matplotlib.pyplot"), pathlib.Path.home(), print("fit for work")))
fcnseg.train.train()
"""


def test_a_command_depends_neither_on_a_notebook_s_backend_nor_on_a_home():
    environment = {**os.environ, "MPLBACKEND": "module://no_such_module.backend"}
    del environment["HOME"]
    run = subprocess.run([sys.executable, "-c", FIRST_OF_ALL, "patience=0"], capture_output=True, text=True, env=environment)
    assert (run.returncode, run.stdout) == (2, "fit for work\n"), run.stderr


@pytest.mark.parametrize("command_line", ["fcnseg --help", "fcnseg.train --help", "fcnseg.train --cfg job"])
def test_a_reader_may_close_the_output(command_line):
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", *command_line.split()]
    run = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize(
    "target", ["os.system", "posix.system", "logging.os.system", "subprocess.Popen", "builtins.exec", "shutil.rmtree"]
)
def test_a_target_that_runs_commands_is_not_called(command, tiny, tmp_path, target):
    """Hydra's list has all of them since the release that pyproject.toml asks for."""
    (tmp_path / "folder").mkdir()
    argument = {"shutil.rmtree": "path=folder", "builtins.exec": "source=1/0"}.get(target, "command='rmdir folder'")
    outcome = command(train, *tiny(), f"+callbacks.x._target_={target}", f"+callbacks.x.{argument}")
    assert refused(outcome, "blocklisted")
    assert (tmp_path / "folder").exists()


def test_no_release_of_hydra_is_allowed_that_calls_them():
    """1.3.8 is the release that was tested; its list is longer than those before it, and 1.4 has another mechanism."""
    project = tomllib.loads((CONF.parent / "pyproject.toml").read_text())["project"]
    (wanted,) = [word for word in project["dependencies"] if word.startswith("hydra-core")]
    assert "1.3.8" in wanted
    assert not [old for old in ("1.3.2", "1.3.5", "1.3.7", "1.4.0") if Requirement(wanted).specifier.contains(old)]


@pytest.mark.parametrize(
    ("verb", "words", "missing"),
    [
        (evaluate, [], "run"),
        (export, [], "run"),
        (predict, ["images=x"], "run"),
        (predict, ["run=x"], "images"),
        (train, ["data=folder"], "data.root"),
        (check, ["data=folder"], "data.root"),
    ],
)
def test_a_setting_that_must_be_given_is_asked_for(command, verb, words, missing):
    assert refused(command(verb, *words), f"fcnseg: {missing} is missing: give {missing}=<value>")
