"""The README's commands and examples are run, small."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from fcnseg import evaluate, report, train
from fcnseg.data import __main__ as data
from fcnseg.data.augment import draws

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
CONF = Path(__file__).parent.parent / "conf"
BLOCKS = {
    language: re.findall(rf"```{language}\n(.*?)```", README, re.S)
    for language in ("bash", "console", "python", "yaml")
}
COMMANDS = [
    line.split("#")[0].partition("python -m fcnseg.")[2].strip()
    for block in BLOCKS["bash"]
    for line in block.splitlines()
    if "python -m fcnseg." in line
]
DOORS = {"train": train.train, "evaluate": evaluate.evaluate, "report": report.report, "data": data.check_data}
SMALL = {
    "data.source.train": "8",
    "data.source.val": "4",
    "data.size": "32",
    "data.batch_size": "4",
    "trainer.max_epochs": "1",
}


def smaller(overrides, root):
    """The overrides of a command, on a few small generated images and with narrow networks."""
    given = dict(override.split("=", 1) for override in overrides if "=" in override)
    flags = [override for override in overrides if "=" not in override]
    if "transfer" in given.get("model", "") + given.get("experiment", ""):
        given |= {"model": "transfer", "model.backbone": "mobilenet_v3_small", "model.weights": "null"}
    given |= {"data": "shapes", "data.root": str(root)} | SMALL
    return [*flags, *(f"{key}={value}" for key, value in given.items())]


@pytest.fixture
def a_run(command, root, tmp_path):
    assert command(train.train, *smaller(["model=fcn"], root)).code == 0
    return next(path for path in (tmp_path / "runs").iterdir() if not path.name.startswith("."))


def test_there_are_commands_of_every_door():
    assert {command.split()[0] for command in COMMANDS} >= {"train", "evaluate", "report", "data"}


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("train") and " -m " not in line])
def test_training_commands_run(line, command, root):
    code, out, err = command(train.train, *smaller(shlex.split(line)[1:], root))
    assert code == 0, err
    assert "everything is in runs/" in out


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in COMMANDS if " -m " in line and "gpus" not in line])
def test_sweeps_run(line, command, root):
    overrides = [re.sub(r"^experiment=baseline,.*", "experiment=baseline,flip", o) for o in shlex.split(line)[1:]]
    overrides = [re.sub(r"^(model=fcn|seed=0|loss=ce),.*", r"\1", override) for override in overrides]
    code, out, err = command(train.train, *smaller(overrides, root))
    assert code == 0, err
    assert "2 jobs" in out


def test_the_other_doors_run(command, a_run, root, tmp_path):
    code, out, err = command(evaluate.evaluate, f"run={a_run}")
    assert code == 0, err
    assert str(a_run) in out
    code, out, err = command(
        data.check_data, "data=shapes", f"data.root={root}", *list(map("=".join, SMALL.items()))[:2]
    )
    assert code == 0, err
    assert "aeroplane" in out
    code, out, err = command(report.report)
    assert code == 0, err
    assert (tmp_path / "report" / "index.html").is_file()


def test_a_refusal_is_shown_as_it_is(command):
    for block in BLOCKS["console"]:
        line, shown = block.strip().split("\n", 1)
        _, _, err = command(train.train, *line.split()[4:])
        assert err.strip() == shown.strip()


def test_the_network_of_the_example_is_one():
    import torch

    code = next(block for block in BLOCKS["python"] if "class Tiny" in block)
    names = {}
    exec(code, names)
    assert names["Tiny"](21)(torch.zeros(2, 3, 37, 50)).shape == (2, 21, 37, 50)


def test_the_augmentation_of_the_example_is_one():
    import torch

    code = next(block for block in BLOCKS["python"] if "def darken" in block)
    names = vars(__import__("fcnseg.data.augment", fromlist=["Draw"])).copy()
    exec(code, names)
    image, mask = torch.full((4, 3, 8, 8), 200, dtype=torch.uint8), torch.zeros(4, 8, 8, dtype=torch.uint8)
    darker, same = names["darken"](image, mask, draws(0, 0, torch.arange(4)))
    assert darker.dtype == torch.uint8
    assert darker.shape == image.shape
    assert len(darker.flatten(1).amax(1).unique()) == 4
    assert same is mask


def test_the_experiment_of_the_example_runs(command, root, tmp_path, monkeypatch):
    text = next(block for block in BLOCKS["yaml"] if "override /model" in block)
    assert yaml.safe_load(text)["optimizer"]["lr"] == 0.0005
    shutil.copytree(CONF, tmp_path / "conf")
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setattr("fcnseg.door.CONF", tmp_path / "conf")
    code, out, err = command(train.train, *smaller(["experiment=mine"], root))
    assert code == 0, err
    assert "mine-shapes-wilson" in out
