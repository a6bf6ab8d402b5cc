"""Tests of the model card in a run's folder, and of training from Python."""

import json
import re
import shlex
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import fcnseg
import fcnseg.train
from fcnseg.data import voc
from fcnseg.data.pictures import panel
from fcnseg.predict import predict
from fcnseg.report import card, galleries
from fcnseg.runs import reopen
from fcnseg.runs.folder import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory, train_in):
    return train_in(tmp_path_factory.mktemp("run"), "data=voc2012", "name='my run <b>'")


def test_the_numbers_are_those_of_the_result(run):
    text, result = (run / "README.md").read_text(), json.loads((run / "result.json").read_text())
    for name, words in (("miou", "mIoU"), ("pixel_acc", "pixel accuracy")):
        assert f"| {words} | {result['metrics'][f'test/{name}']:.4f} | {result['floor'][name]:.4f} |" in text
    assert f"| aeroplane | {result['iou']['aeroplane']:.4f} |" in text or "| aeroplane | - |" in text
    for fact in (result["data_fingerprint"], result["commit"], f"{result['parameters']:,}", "# my run &lt;b&gt;"):
        assert fact in text
    headings = re.findall(r"^## (.*)$", text, re.M)
    assert headings == ["Scores", "Examples", "IoU of every class", "Use", "Data", "Training", "Limits"]
    assert "It is not better than predicting background everywhere" in text


def test_the_examples_show_three_test_images(run):
    data = reopen.data(Run(run).config)
    shown = galleries.pick(data, data.names("test"))
    assert len(shown) == 3
    predicted = galleries.predict(fcnseg.load(run), data, shown)
    stacked = (torch.stack(each) for each in zip(*(galleries.pixels(data, name) for name in shown), strict=True))
    wanted = panel(*stacked, torch.stack([*predicted.values()]), data.classes, names=shown)
    with Image.open(run / "card" / "examples.png") as picture:
        assert (np.asarray(picture) == wanted).all()


def test_the_way_to_use_it_works(run, command, root, tmp_path, monkeypatch):
    text = (run / "README.md").read_text()
    shutil.copytree(voc.VOCFolder.find(root).path / "JPEGImages", tmp_path / "photos")
    shutil.copy(next((tmp_path / "photos").glob("*.jpg")), tmp_path / "photo.jpg")
    line = next(line for line in text.splitlines() if line.startswith("python -m fcnseg.predict"))
    outcome = command(predict, *shlex.split(line)[3:])
    assert outcome.code == 0, outcome.err
    assert len([*(tmp_path / "masks").glob("*.png")]) == 12
    monkeypatch.chdir(tmp_path)
    exec(re.findall(r"```python\n(.*?)```", text, re.S)[0], {})
    assert Image.open("mask.png").mode == "P"


def test_the_command_trains_the_same_run(run):
    (line,) = re.findall(r"python -m fcnseg.train (.*)", (run / "README.md").read_text())
    assert "data=voc2012" in line
    assert "my run <b>" in line


def test_the_card_says_on_which_images_the_epoch_was_chosen(run, train_in, tmp_path):
    """With the official split on those of the test, and with halves on others."""
    words = "The test images are the val images, on which the epoch was chosen"
    assert words in (run / "README.md").read_text()
    assert words not in (train_in(tmp_path, "data.split=halves") / "README.md").read_text()


def test_a_disk_that_is_full_does_not_fail_the_run(train_in, tmp_path, monkeypatch):
    def full(*args, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(card, "write_markdown", full)
    run = train_in(tmp_path)
    assert (run / "result.json").exists()
    assert not (run / "README.md").exists()


def test_train_from_python_does_what_the_command_does(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = fcnseg.train(*tiny("seed=3"))
    assert run.path.parent.name == "runs"
    assert "seed3" in run.path.name
    assert run.result["metrics"]["test/miou"] is not None
    assert fcnseg.train(*tiny("seed=3")).path == run.path  # it is shown, not repeated
    with pytest.raises(ValueError, match="no setting 'modle'; did you mean model"):
        fcnseg.train("modle=fcn")
    with pytest.raises(ValueError, match=r"optimizer\.lr=-1"):
        fcnseg.train(*tiny("optimizer.lr=-1"))
    with pytest.raises(ValueError, match="leave out -m"):
        fcnseg.train("-m", "seed=1,2")
    for flag in ("--cfg=job", "--info", "--help"):
        with pytest.raises(ValueError, match=f"{flag} is a flag of the command line: leave it out"):
            fcnseg.train(flag)


def test_other_attributes_are_not_there():
    with pytest.raises(AttributeError, match="no attribute 'tran'"):
        fcnseg.tran  # noqa: B018
