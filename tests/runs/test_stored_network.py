"""A run folder from somebody else: opening it runs no code, reads no environment, downloads nothing and writes nowhere."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from fcnseg.cli.configs import CONF
from fcnseg.data.voc import VOC
from fcnseg.evaluate import evaluate
from fcnseg.machine.files import read_json, write_json
from fcnseg.names import CONFIG
from fcnseg.report.__main__ import report
from fcnseg.runs import reopen, stored_network
from fcnseg.runs.folder import Run
from fcnseg.train import train

ran = []


class Foreign(nn.Module):
    """A network that no package of ours has, and that notes when it is made."""

    def __init__(self, num_classes, *, widths):
        super().__init__()
        ran.append("Foreign")
        self.widths = widths


@pytest.fixture(scope="module")
def trained(tmp_path_factory, train_in):
    return train_in(tmp_path_factory.mktemp("runs"), "name=good")


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "runs" / "theirs")


@pytest.fixture(autouse=True)
def nothing_ran():
    ran.clear()
    yield
    ran.clear()


def change(folder, **groups):
    """Give groups of a stored config other values."""
    cfg = OmegaConf.load(folder / CONFIG)
    (folder / CONFIG).write_text(OmegaConf.to_yaml(OmegaConf.merge(cfg, groups)))


def replace_group(folder, name, node):
    cfg = OmegaConf.load(folder / CONFIG)
    cfg[name] = node
    (folder / CONFIG).write_text(OmegaConf.to_yaml(cfg))


class Touch:
    """Pickled, it touches a file when it is loaded."""

    def __reduce__(self):
        return Path.touch, (Path("ran"),)


HUB = {"_target_": "torch.hub.load", "repo_or_dir": "runs/theirs", "model": "net", "source": "local"}
FCN, TRANSFER = {"_target_": "fcnseg.models.FCN"}, {"_target_": "fcnseg.models.Transfer"}
SUM = {"_target_": "fcnseg.learning.losses.Sum"}
DATA = {"_target_": "fcnseg.data.module.DataModule"}
EVIL = {  # a group of the config, what it is in theirs, and what the message must name
    "a hub": ("model", HUB, "torch.hub.load"),
    "a pickle": ("model", {"_target_": "torch.load", "f": "runs/theirs/evil", "weights_only": False}, "torch.load"),
    "an array": ("model", {"_target_": "numpy.load", "file": "runs/theirs/evil", "allow_pickle": True}, "numpy.load"),
    "a program": ("model", {"_target_": "subprocess.run", "args": ["touch", "ran"]}, "subprocess.run"),
    "a class beside": ("model", {"_target_": f"{__name__}.Foreign", "widths": [4, 8]}, f"{__name__}.Foreign"),
    "a module beside": ("model", {"_target_": "runs.theirs.hubconf.net"}, "runs.theirs.hubconf.net"),
    "torch itself": ("model", {"_target_": "torch.nn.Identity"}, "torch.nn.Identity"),
    "by way of ours": ("model", {**HUB, "_target_": "fcnseg.models.backbones.torch.hub.load"}, "torch.hub.load"),
    "a function of ours": ("model", {"_target_": "fcnseg.models.backbones.make_backbone"}, "make_backbone"),
    "a class ours import": ("model", {"_target_": "fcnseg.models.fcn.nn.Sequential"}, "nn.Sequential"),
    "a function of torchvision": ("model", {"_target_": "torchvision.models.resnet18"}, "torchvision.models.resnet18"),
    "nested": ("model", {**FCN, "widths": HUB}, "torch.hub.load"),
    "nested in a list": ("model", {**FCN, "widths": [HUB]}, "torch.hub.load"),
    "nested in arguments by position": ("data", {**DATA, "_args_": [HUB]}, "torch.hub.load"),
    "weights by position": ("model", {**TRANSFER, "_args_": ["resnet18", "runs/theirs/evil"]}, "_args_"),
    "weights by position, as a table": ("model", {**TRANSFER, "_args_": {"resnet18": 1, "runs/theirs/evil": 2}}, "_args_"),
    "left for a network to make": ("model", {**FCN, "_recursive_": False, "widths": HUB}, "torch.hub.load"),
    "left for a loss to make": ("loss", {**SUM, "_recursive_": False, "terms": {"a": HUB}}, "_recursive_"),
    "left for data to make": ("data", {**DATA, "_recursive_": False, "source": HUB}, "_recursive_"),
    "a download by timm": ("model", {**TRANSFER, "backbone": "tu-hf-hub:them/net"}, "tu-hf-hub:them/net"),
    "a loss": ("loss", HUB, "torch.hub.load"),
    "a data module": ("data", HUB, "torch.hub.load"),
    "a source": ("data", {**DATA, "source": HUB}, "torch.hub.load"),
}


# A report takes seconds, and rebuilds networks and data by the functions that `evaluate` has gone through: one of each sort.
REPORTED = ("a pickle", "a class beside", "a loss", "a source")


@pytest.mark.parametrize("kind", EVIL)
def test_what_a_stored_config_names_is_not_run(command, folder, tmp_path, monkeypatch, kind):
    monkeypatch.syspath_prepend(tmp_path)
    group, node, named = EVIL[kind]
    replace_group(folder, group, node)
    (folder / "evil").write_bytes(pickle.dumps(Touch()))
    (folder / "hubconf.py").write_text("import pathlib\npathlib.Path('ran').touch()\nnet = dict\n")
    outcome = command(evaluate, f"run={folder}")
    assert (outcome.code, ran, (tmp_path / "ran").exists()) == (2, [], False)
    assert (named in outcome.err, "trust=true" in outcome.err) == (True, True), outcome.err
    if kind in REPORTED:
        outcome = command(report, f"runs={folder}")
        assert (outcome.code, ran, (tmp_path / "ran").exists()) == (0, [], False), outcome.err
        # A picture needs no loss.
        assert ("trust=true" in (tmp_path / "report" / "report.md").read_text()) == (group != "loss")


def test_what_is_trusted_is_run_and_is_called_with_its_values(folder):
    replace_group(folder, "model", {"_target_": f"{__name__}.Foreign", "widths": [4, 8]})
    assert stored_network.network(Run(folder).config, 21, trust=True).widths == [4, 8]
    assert ran == ["Foreign"]


def called(*args, **values):
    return args, values


CALLED = {"_target_": f"{__name__}.called"}


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"_args_": [1, "a", [CALLED]]},
        {"_args_": [CALLED], "_recursive_": False},
        {"_recursive_": False, "c": {"_convert_": "all", **CALLED}},
        {"c": {"d": {**CALLED, "_args_": [2], "_convert_": "all", "_recursive_": False, "e": CALLED}}},
    ],
    ids=str,
)
def test_hydras_keys_mean_what_they_mean_to_hydra(keys):
    node = {**CALLED, "_convert_": "all", "a": [1, CALLED], "b": {"x": CALLED}, **keys}
    assert stored_network.make(node, (), True, more=1) == instantiate(node, more=1)
    later = {**node, "_partial_": True}
    assert stored_network.make(later, (), True, more=1)(3) == instantiate(later, more=1)(3)


class ByPosition(nn.Module):
    def __init__(self, weights, *, num_classes):
        super().__init__()
        self.weights = weights


def test_a_network_whose_weights_have_no_name_gets_them_by_position():
    cfg = OmegaConf.create({"model": {"_target_": f"{__name__}.ByPosition", "_args_": ["a"]}})
    assert stored_network.network(cfg, 3, trust=True).weights == "a"


def test_a_run_with_hydras_keys_is_tested_when_it_ends_and_later(command, train_in, tmp_path):
    keys = ("model._convert_=all", "model._recursive_=false", "data._convert_=all", "data.source._recursive_=false")
    run = train_in(tmp_path, *(f"+{key}" for key in (*keys, "loss._convert_=partial", "loss._recursive_=false")))
    outcome = command(evaluate, f"run={run}")
    assert outcome.code == 0, outcome.err


def test_a_trusted_network_is_evaluated(command, folder, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("from fcnseg.models import FCN\n\n\nclass Net(FCN):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    change(folder, model={"_target_": "mine.Net"})
    assert "mine.Net" in command(evaluate, f"run={folder}").err
    outcome = command(evaluate, f"run={folder}", "trust=true")
    assert outcome.code == 0, outcome.err
    assert command(report, f"runs={folder}", "trust=true").code == 0
    assert "No predictions" not in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.parametrize("path", sorted(CONF.glob("model/*.yaml")) + sorted(CONF.glob("loss/*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_network_and_loss_needs_no_trust(compose, path, monkeypatch):
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *args, **kwargs: pytest.fail("it downloads"))
    cfg = compose(f"{path.parent.name}={path.stem}")
    with torch.device("meta"):
        stored_network.network(cfg, 21)
        stored_network.make(stored_network.group(cfg, "loss"), reopen.LOSSES, False, class_pixels=torch.ones(22))


@pytest.mark.parametrize("path", sorted(CONF.glob("data/*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_data_set_needs_no_trust(compose, root, tmp_path, path):
    if path.stem == "sbd":
        pytest.importorskip("scipy")
    cfg = compose(f"data={path.stem}", "data.size=32", "data.batch_size=4")
    if "train" in cfg.data.source:
        cfg.data.source.train, cfg.data.source.val = 8, 4
    if path.stem == "folder":  # its classes are not known beforehand
        root = shutil.copytree(root / "VOCdevkit" / "VOC2012", tmp_path / "data")
        (root / "classes.yaml").write_text(json.dumps({"names": VOC.names, "colors": VOC.colours}))
    assert reopen.data(cfg, root=str(root)).count("train") == 8


def test_the_data_sets_that_need_no_trust_are_the_shipped_ones(compose):
    sources = {compose(f"data={path.stem}").data.source._target_ for path in CONF.glob("data/*.yaml")}
    assert {*reopen.TARGETS} == {compose().data._target_, *sources}


def test_what_is_trusted_must_still_be_a_network():
    cfg = OmegaConf.create({"model": {"_target_": "unittest.mock.Mock"}, "choices": {}})
    with pytest.raises(ValueError, match=r"model\._target_=unittest\.mock\.Mock is a Mock, wanted a torch\.nn\.Module"):
        stored_network.network(cfg, 3, trust=True)


def test_a_missing_data_set_is_neither_downloaded_nor_generated_nor_packed(compose, root, tmp_path, monkeypatch):
    monkeypatch.setattr("fcnseg.data.download.urlopen", lambda *args, **kwargs: pytest.fail("it downloads"))
    shapes = compose("data=shapes", f"data.root={tmp_path / 'none'}")
    voc = compose("data=voc2012", f"data.root={tmp_path / 'none'}")
    unpacked = compose("data=voc2012", f"data.root={root}", "data.size=33", "data.batch_size=4")
    for cfg, words in ((shapes, "data.root="), (voc, "no data set in"), (unpacked, "data.root=")):
        before = sorted(root.rglob("*"))
        with pytest.raises(ValueError, match=words):
            reopen.data(cfg)
        assert not (tmp_path / "none").exists()
        assert sorted(root.rglob("*")) == before
    with pytest.raises(ValueError, match="no data set in"):
        reopen.data(voc, root=str(tmp_path / "none"))


def test_a_stored_config_has_few_brackets(command, folder):
    text = (folder / CONFIG).read_text()
    for count, code in ((500, 0), (1001, 2)):
        (folder / CONFIG).write_text(f"{text}\nmore: [{'[],' * count}]\n")
        outcome = command(evaluate, f"run={folder}")
        assert (outcome.code, "more than 1000 brackets" in outcome.err) == (code, code == 2), outcome


def test_a_stored_config_cannot_read_the_environment(command, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    text = (folder / CONFIG).read_text()
    for written in ("${oc.env:SECRET}", '"\\x24{oc.env:SECRET}"', "a ${oc.env:SECRET} b", "[1, '${oc.env:SECRET}']"):
        (folder / CONFIG).write_text(text.replace("name: good", f"name: {written}"))
        evaluated = command(evaluate, f"run={folder}")
        assert (evaluated.code, "interpolation" in evaluated.err) == (2, True)
        outcome = command(report, f"runs={folder.parent}", f"out={tmp_path / 'out'}")
        assert "hunter2" not in outcome.out + outcome.err + evaluated.out + evaluated.err


def test_a_network_larger_than_its_checkpoint_takes_no_memory(folder):
    change(folder, model={"widths": [1 << 20, 1 << 20]})  # 40 TB
    with pytest.raises(ValueError, match="weights of another network"):
        stored_network.load(folder)


def test_a_checkpoint_that_holds_no_tensors_is_told(folder):
    torch.save({"state_dict": {"net.a": 1}}, folder / "checkpoints" / "best.ckpt")
    with pytest.raises(ValueError, match=r"cannot load the checkpoint .*best\.ckpt"):
        stored_network.load(folder)


def test_a_pipe_for_a_checkpoint_is_not_opened(command, folder):
    best = folder / "checkpoints" / "best.ckpt"
    best.unlink()
    os.mkfifo(best)
    assert command(evaluate, f"run={folder}").code == 2
    with pytest.raises(ValueError, match="cannot load the checkpoint"):
        stored_network.load(folder)


def test_evaluate_runs_no_stored_trainer(command, folder):
    theirs = {"_target_": f"{__name__}.Foreign", "widths": [4, 8], "num_classes": 21}
    change(folder, trainer={**theirs, "profiler": theirs, "devices": [theirs]})
    outcome = command(evaluate, f"run={folder}")
    assert (outcome.code, ran) == (0, []), outcome.err
    result = read_json(folder / "result.json")
    write_json(folder / "result.json", {**result, "precision": theirs})
    outcome = command(evaluate, f"run={folder}")
    assert (outcome.code, "names a class" in outcome.err, ran) == (2, True, [])
    write_json(folder / "result.json", result)
    for where in ({"accelerator": theirs}, {"benchmark": theirs}):
        change(folder, trainer=where)
        outcome = command(evaluate, f"run={folder}")
        assert (outcome.code, "names a class" in outcome.err, ran) == (2, True, [])


@pytest.mark.parametrize(
    "name", ["result.json", "metrics.csv", "status.json", "checkpoints", ".hydra", ".lock", ".hydra/config.yaml"]
)
def test_training_does_not_write_through_a_link(command, tiny, folder, tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    if (folder / name).is_dir():
        shutil.move(folder / name, elsewhere)
    else:
        shutil.copy(folder / name, elsewhere)
        (folder / name).unlink()
    (folder / name).symlink_to(elsewhere)
    before = {path: path.stat().st_mtime_ns for path in (elsewhere, *elsewhere.rglob("*"))}
    outcome = command(train, *tiny(), f"runs={folder.parent}", "name=theirs", "resume=never")
    assert (outcome.code, "is a symbolic link" in outcome.err) == (2, True), outcome.err
    assert {path: path.stat().st_mtime_ns for path in (elsewhere, *elsewhere.rglob("*"))} == before


def test_a_draft_is_not_written_through_a_link(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".result.json.draft").symlink_to(tmp_path / "mine")
    from fcnseg.machine.files import write_text

    write_text(tmp_path / "result.json", "theirs")
    assert ((tmp_path / "mine").read_text(), (tmp_path / "result.json").read_text()) == ("mine", "theirs")
