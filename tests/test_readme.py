"""The README's commands and examples are run, small."""

import fnmatch
import json
import re
import shlex
import shutil
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import hydra
import pytest
import torch
import yaml

from fcnseg import evaluate, predict, train
from fcnseg.benchmark import __main__ as benchmark
from fcnseg.check import __main__ as check
from fcnseg.cli.configs import CONF
from fcnseg.data import augment, voc
from fcnseg.data.formats.classes import find_class_list
from fcnseg.data.shapes import shapes
from fcnseg.export import __main__ as export
from fcnseg.learning import losses
from fcnseg.report import __main__ as report

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = {language: re.findall(rf"```{language}\n(.*?)```", README, re.S) for language in ("bash", "console", "python", "yaml")}
CONFIGS = dict(re.findall(r"`(mine/\w+/\w+\.yaml)`:\n\n```yaml\n(.*?)```", README, re.S))
MODULES = dict(re.findall(r"`(\w+)\.py`:\n\n```python\n(.*?)```", README, re.S))
COMMANDS = [
    line.split("#")[0].partition("python -m fcnseg.")[2].strip()
    for block in BLOCKS["bash"]
    for line in block.splitlines()
    if "python -m fcnseg." in line
]
COMMAND = {
    "train": train.train,
    "evaluate": evaluate.evaluate,
    "predict": predict.predict,
    "report": report.report,
    "export": export.export,
    "check": check.check,
}
SHOWN = {"evaluate": "mIoU", "export": "the network is in ", "report": "The report is report/index.html"}
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


@pytest.mark.slow
def test_the_first_command_has_the_scores_that_are_shown(command):
    line = next(line for line in COMMANDS if line.startswith("train"))
    code, out, err = command(train.train, *shlex.split(line)[1:], "trainer.precision=32-true")
    assert code == 0, err
    shown, printed = (re.findall(r"│ (.+?) +│ +([\d.]+) │ +([\d.]*) +│", text)[:6] for text in (README, out))
    assert [(name, floor) for name, _, floor in shown] == [(name, floor) for name, _, floor in printed]
    for (_, wanted, _), (_, score, _) in zip(shown, printed, strict=True):  # the last digits depend on the kind of CPU
        assert float(score) == pytest.approx(float(wanted), abs=0.03)


def test_the_speeds_are_those_of_the_benchmark_s_tables():
    words = " ".join(README.split())
    tables = [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("|")]
        for part in re.split(r"\n\n(?=\|)", (Path(benchmark.__file__).parent / "README.md").read_text(encoding="utf-8"))
    ]
    cpu, no_bf16, h200, h100 = [
        {re.split("[, ]", row[0])[0]: float(row[table[0].index("fcnseg / plain")]) for row in table[2:]}
        for table in tables
        if table and "fcnseg / plain" in table[0]
    ]
    assert cpu["wilson"] == cpu["transfer"]
    at_224 = f"the FCN {cpu['fcn']} times, Wilson's network and transfer {cpu['wilson']} times, U-Net {cpu['unet']} times"
    *first, last = (f"{h200[network]:.1f}" for network in ("fcn", "wilson", "transfer", "unet"))
    assert f"{at_224} as fast as the first; on an H200, {', '.join(first)} and {last} times" in words
    for where, ratios in (("that waits for its host,", h100), ("without fast bf16,", no_bf16)):
        assert f"{where} {min(ratios.values()):.1f} to {max(ratios.values()):.1f} times" in words


def test_every_choice_is_in_its_group_s_row():
    table = README.partition("| group | choices |")[2].partition("\n\n")[0].strip()
    rows = {group: row for row in table.splitlines() for group in re.findall(r"`(\w+)`", row[: row.index("|", 1)])}
    for path in CONF.glob("*/*.yaml"):
        assert f"`{path.stem}`" in rows[path.parent.name], path


def test_there_are_commands_of_every_verb():
    assert {command.split()[0] for command in COMMANDS} >= {"train", "evaluate", "export", "report", "check"}


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("train") and " -m " not in line])
def test_training_commands_run(line, command, root, extended):
    code, out, err = command(train.train, *smaller(shlex.split(line)[1:], root))
    assert code == 0, err
    assert "everything is in runs/" in out


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in COMMANDS if " -m " in line and "launcher" not in line])
def test_sweeps_run(line, command, root):
    overrides = [re.sub(r"^experiment=baseline,.*", "experiment=baseline,flip", o) for o in shlex.split(line)[1:]]
    overrides = [re.sub(r"^(model=fcn|seed=0|loss=ce),.*", r"\1", override) for override in overrides]
    code, out, err = command(train.train, *smaller(overrides, root))
    assert code == 0, err
    assert "2 jobs" in out


@pytest.mark.parametrize("line", [line for line in COMMANDS if "hydra/launcher" in line])
def test_launchers_take_their_settings(line):
    """Ray and SLURM themselves: `test_sweep.py`; a setting that a launcher does not have is refused here."""
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    overrides = [override for override in shlex.split(line)[2:] if override.startswith("hydra")]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        assert hydra.compose("config", overrides=overrides, return_hydra_config=True).hydra.launcher
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises(Exception, match="no_such_setting"):
        hydra.compose("config", overrides=[*overrides, "hydra.launcher.no_such_setting=1"], return_hydra_config=True)


@pytest.fixture
def other(root, tmp_path):
    """A `data.root` with the data of `a_run`, and an image set that is called test."""
    folder = shapes(shutil.copytree(root, tmp_path / "other"), train=8, val=4, seed=0)
    folder.list_of("test").write_text("\n".join(folder.names("val")))
    return tmp_path / "other"


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.split()[0] in SHOWN])
def test_what_is_done_with_runs(line, command, a_run, other):
    name, *settings = shlex.split(line.replace("runs/<name>", str(a_run)).replace("../other", str(other)))
    if name == "export" and export.missing():
        pytest.skip(f"{export.missing()} is not installed")
    code, out, err = command(COMMAND[name], *settings)
    assert code == 0, err
    assert SHOWN[name] in out


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("benchmark")])
def test_the_benchmark_runs(line, command, root):
    small = ["data.size=32", "data.batch_size=4", "steps=2", "repeats=1", "arms=[plain,fcnseg]"]
    code, out, err = command(benchmark.benchmark, *shlex.split(line.replace("../voc", str(root)))[1:], *small)
    assert code == 0, err
    assert "Training: medians of turns" in out


def test_a_generated_data_set_is_checked(command, root):
    code, out, err = command(check.check, "data=shapes", f"data.root={root}", *list(map("=".join, SMALL.items()))[:2])
    assert code == 0, err
    assert "aeroplane" in out


def test_masks_of_photographs(command, a_run, root, tmp_path):
    (line,) = [line for line in COMMANDS if line.startswith("predict")]
    shutil.copytree(root / "VOCdevkit" / "VOC2012" / "JPEGImages", tmp_path / "photos")
    code, _, err = command(predict.predict, *line.replace("runs/<name>", str(a_run)).split()[1:])
    assert code == 0, err
    assert len([*(tmp_path / "masks").glob("*.png")]) == len([*(tmp_path / "photos").glob("*")]) == 12


def test_a_trained_network_is_used_from_python(a_run, root, tmp_path, monkeypatch):
    (snippet,) = [block for block in BLOCKS["python"] if "fcnseg.load" in block]
    monkeypatch.chdir(tmp_path)
    shutil.copy(next(iter((root / "VOCdevkit" / "VOC2012" / "JPEGImages").glob("*.jpg"))), "photo.jpg")
    exec(snippet.replace("runs/<name>", str(a_run)), names := {})
    assert names["prediction"].labels.shape == names["prediction"].scores.shape
    assert Path("mask.png").exists()


def test_the_pictures_are_made_anew(a_run):
    spec = spec_from_file_location("pictures", CONF.parent / ".github" / "pictures.py")
    spec.loader.exec_module(pictures := module_from_spec(spec))
    picture = pictures.predictions(a_run)
    assert picture.size == (8 * 128 + 7 * 6, 3 * 128 + 2 * 6)
    assert len(picture.getcolors(10**6)) > 50


def test_a_refusal_is_shown_as_it_is(command):
    for block in BLOCKS["console"]:
        line, shown = block.strip().split("\n", 1)
        _, _, err = command(train.train, *line.split()[4:])
        assert err.strip() == shown.strip()


@pytest.fixture
def extended(tmp_path, monkeypatch):
    """Every example where the README puts it: modules in the working folder, configs in `mine`."""
    monkeypatch.syspath_prepend(tmp_path)  # as `python -m` does with the folder that it is started in
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)
    for path, text in CONFIGS.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    return import_module


def test_the_network_of_the_example_is_one(extended):
    assert extended("tiny").Tiny(21)(torch.zeros(2, 3, 37, 50)).shape == (2, 21, 37, 50)


def test_the_augmentation_of_the_example_is_one(extended):
    image, mask = torch.full((4, 3, 8, 8), 200, dtype=torch.uint8), torch.zeros(4, 8, 8, dtype=torch.uint8)
    darker, same = extended("darken").darken(image, mask, augment.draws(0, 0, torch.arange(4)))
    assert darker.dtype == torch.uint8
    assert darker.shape == image.shape
    assert len(darker.flatten(1).amax(1).unique()) == 4
    assert same is mask


def test_the_loss_of_the_example_is_one(extended):
    pixels, mask = torch.tensor([6, 3, 1]), torch.tensor([[[0, 1], [2, voc.VOID]]], dtype=torch.uint8)
    logits = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    plain = losses.CrossEntropy(pixels, weighted=False)(logits, mask)
    torch.testing.assert_close(extended("robust").Robust(pixels, q=1e-3)(logits, mask), plain, rtol=1e-2, atol=0)
    assert 0 < extended("robust").Robust(pixels, q=0.7)(logits, mask) < plain


def test_every_config_of_an_example_has_its_place():
    assert list(CONFIGS.values()) == BLOCKS["yaml"]
    assert [path.split("/")[1] for path in CONFIGS] == ["model", "aug", "loss", "experiment"]


@pytest.mark.parametrize("path", CONFIGS)
def test_an_example_trains(path, command, extended, root, tmp_path):
    group, choice = Path(path).parent.name, Path(path).stem
    outcome = command(train.train, "--config-dir", "mine", *smaller([f"{group}={choice}"], root))
    assert outcome.code == 0, outcome.err
    config = yaml.safe_load(next(tmp_path.glob(f"runs/*{choice}*/.hydra/config.yaml")).read_text())
    wanted = yaml.safe_load(CONFIGS[path])
    if group == "experiment":
        assert (config["choices"]["model"], config["optimizer"]["lr"]) == ("wilson", wanted["optimizer"]["lr"])
    else:
        steps = [entry.partition("@")[2] for entry in wanted.pop("defaults", []) if "@" in entry]
        assert [key for key in config[group] if key not in wanted] == steps
        assert config[group] == config[group] | wanted
    assert json.loads(next(tmp_path.glob("runs/*/result.json")).read_text())["metrics"]["test/loss"] > 0


def test_a_data_set_of_your_own_trains(command, root, tmp_path):
    mine = tmp_path / "mine"
    for kind, own in (("JPEGImages", "images"), ("SegmentationClass", "masks")):
        shutil.copytree(voc.VOCFolder.find(root).path / kind, mine / own)
    (mine / "classes.yaml").write_text(f"names: [{', '.join(f'class{i}' for i in range(21))}]")
    lines = [line.replace("../mine", str(mine)) for line in COMMANDS if "../mine" in line]
    assert [line.split()[0] for line in lines] == ["check", "train"]
    for line in lines:
        verb, *overrides = shlex.split(line)
        few = ["data.size=32", "data.batch_size=4", "trainer.max_epochs=1"] if verb == "train" else []
        outcome = command(COMMAND[verb], *overrides, *few)
        assert outcome.code == 0, outcome.err
    assert len(list(tmp_path.glob("runs/folder-fcn-*/result.json"))) == 1


def test_a_data_set_of_another_kind_trains(command, tmp_path, monkeypatch):
    """A function of a folder that returns a `DataSet`, named by a config in `mine/data`."""
    monkeypatch.syspath_prepend(tmp_path)
    made = "from fcnseg.data.shapes import shapes\n\n\ndef tiles(root):\n    return shapes(root, train=8, val=4, seed=1)\n"
    (tmp_path / "own_tiles.py").write_text(made)
    (tmp_path / "mine" / "data").mkdir(parents=True)
    source = "source: {_target_: own_tiles.tiles, _partial_: true}\n"
    (tmp_path / "mine" / "data" / "own.yaml").write_text(f"defaults: [/data_set, _self_]\nroot: tiles\n{source}")
    small = ["data.size=32", "data.batch_size=4", "trainer.max_epochs=1"]
    outcome = command(train.train, "--config-dir", "mine", "data=own", *small)
    assert outcome.code == 0, outcome.err
    (result,) = tmp_path.glob("runs/data.own-*/result.json")
    assert json.loads(result.read_text())["images"] == {"train": 8, "val": 4, "test": 4}


def test_the_class_list_shown_is_one(tmp_path):
    (tmp_path / "classes.yaml").write_text(re.search(r"```\n(names: .*?)```", README, re.S)[1])
    found = find_class_list(tmp_path)
    assert found.classes.names == ("road", "car", "sky")
    assert found.legend.values == {23: 2, 26: 1, 0: 255, 254: 255, 255: 255}
    assert found.legend.colours == {(0, 0, 142): 1, (70, 130, 180): 2}


def test_every_file_and_folder_of_the_package_has_its_place_in_the_readme():
    where = README.partition("## Where things are")[2]
    names = {path.name for path in CONF.parent.joinpath("fcnseg").iterdir() if not path.name.startswith(("__init", "__py"))}
    assert [name for name in sorted(names) if name not in where] == []


def test_the_tests_that_the_table_of_faults_names_exist():
    faults = Path(__file__).parent / "faults"
    for row in re.findall(r"^\|.*`.*\|$", (faults / "README.md").read_text(encoding="utf-8"), re.M):
        for word in re.findall(r"`([^`]+)`", row.rsplit("|", 2)[1]):
            if word.endswith(".py"):
                file = CONF.parent / word if "/" in word else faults / word
                names = re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.M)
            else:
                assert fnmatch.filter(names, word.replace("...", "*")), (file, word)
