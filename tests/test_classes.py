"""Data sets of any classes, with and without background and void, through the commands."""

import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import Drawn
from PIL import Image

import fcnseg
from fcnseg.data.dataset import VOID, Classes
from fcnseg.data.voc import VOC
from fcnseg.evaluate import evaluate
from fcnseg.report.__main__ import report
from fcnseg.runs import checkpoint_files
from fcnseg.runs.checkpoint_files import read
from fcnseg.train import train


class Stripes(Drawn):
    """Images of upright stripes, each of its class's colour; the stripes of an image begin with another class.

    Args:
        path: The folder that the images are drawn into; `names.txt` there may name the classes.
        number: The number of classes.
        background: The label of the background.
        void: Whether the last row of every mask is void.
    """

    def __init__(self, path, *, number, background, void):
        self.path, self.number, self.void = path, number, void
        colours = tuple((37 * i % 256, 91 * i % 256, 255 - i) for i in range(number))
        path.mkdir(exist_ok=True)
        given = (path / "names.txt").read_text().split() if (path / "names.txt").exists() else ()
        self.classes = Classes(tuple(given or (f"kind-{i}" for i in range(number))), colours, background)
        for name in [name for name in (*self.names("train"), *self.names("val")) if not self.mask(name).exists()]:
            labels = self._labels(name)
            Image.fromarray(self.classes.palette[labels]).save(self.image(name))
            Image.fromarray(labels).save(self.mask(name))

    def _labels(self, name):
        labels = np.tile((np.arange(80) // 10 + 8 * int(name)) % self.number, (40, 1)).astype(np.uint8)
        if self.void:
            labels[-4:] = VOID
        return labels

    def read_mask(self, name, image):
        return Image.open(self.mask(name)).copy()


@pytest.fixture
def trained(tmp_path, command, tiny, monkeypatch):
    """`trained(number, background, void, *overrides)` trains a run on `Stripes` and returns its folder and what was printed."""
    monkeypatch.setitem(sys.modules, "a_user_s_data", sys.modules[__name__])
    (tmp_path / "mine" / "data").mkdir(parents=True)

    def trained(number, background, void, *overrides):
        (tmp_path / "mine" / "data" / "stripes.yaml").write_text(f"""
_target_: fcnseg.data.module.DataModule
root: {tmp_path / f"stripes{number}{background}{void}"}
split: official
size: 32
batch_size: 4
source:
  _target_: a_user_s_data.Stripes
  _partial_: true
  number: {number}
  background: {"null" if background is None else background}
  void: {str(void).lower()}
""")
        usual = [override for override in tiny("loss=weighted") if not override.startswith("data")]
        args = ["--config-dir", "mine", "data=stripes", *usual, "name=run", *overrides]
        outcome = command(train, *args)
        assert outcome.code == 0, outcome.err
        return tmp_path / "runs" / "run", outcome.out

    return trained


def stripes(number):
    """The stripes of each class in the eight train images: 64 in all."""
    return np.bincount([(8 * i + stripe) % number for i in range(8) for stripe in range(8)], minlength=number)


def check_scores(result):
    """The scores and the floor of a result are those of its confusion matrix, whose rows are the truth."""
    matrix, classes = np.array(result["confusion"]), result["classes"]
    truth, right = matrix[:-1].sum(1), matrix[:-1].diagonal()
    union = truth + matrix[:-1].sum(0) - right
    assert result["metrics"]["test/pixel_acc"] == pytest.approx(right.sum() / truth.sum())
    assert result["metrics"]["test/miou"] == pytest.approx((right[union > 0] / union[union > 0]).mean(), abs=1e-9)
    floor = truth[classes["names"].index(result["floor_class"])]
    assert result["floor"]["pixel_acc"] == pytest.approx(floor / truth.sum())
    for table in (result["metrics"], result["floor"]):
        papers = [value for name, value in table.items() if "paper" in name]
        assert [value is None for value in papers] == [classes["background"] is None] * 2


def rows(printed):
    """The rows of the tables in what a command printed."""
    return [line for line in printed.splitlines() if line.startswith("│")]


@pytest.mark.parametrize(
    ("number", "background", "void"),
    [(2, 0, True), (2, None, False), (3, None, True), (35, 34, False), (254, None, False), (254, 0, True)],
)
def test_a_run_has_the_classes_of_its_data_set(trained, number, background, void):
    run, printed = trained(number, background, void)
    result = json.loads((run / "result.json").read_text())
    names = [f"kind-{i}" for i in range(number)]
    assert result["classes"]["names"] == [*result["iou"]] == names
    assert result["classes"]["colours"][1] == [37, 91, 254]
    assert result["classes"]["background"] == background
    assert np.shape(result["confusion"]) == (number + 1, number)
    assert np.sum(result["confusion"]) == 4 * 32 * 32
    assert any(result["confusion"][-1]) == void
    check_scores(result)
    assert result["floor_class"] == names[stripes(number).argmax() if background is None else background]
    assert ("paper's IoU" in printed) == (background is not None)
    for name in ("best", "last"):
        stored = read(run / "checkpoints" / f"{name}.ckpt")
        assert stored["classes"]["names"] == names
        pixels = stripes(number) * (0.9 if void else 1)  # void is the last tenth of every stripe
        if void and background is not None:
            pixels[background] += 0.1 * 64
        wanted = 1 - pixels / pixels.sum()  # eq. (2)
        assert stored["state_dict"]["loss.weight"].tolist() == pytest.approx(wanted.tolist(), abs=1e-6)


def test_evaluate_and_the_report_show_the_classes_of_a_run(trained, command, tmp_path):
    run, printed = trained(3, None, True)
    again = command(evaluate, f"run={run}", "trust=true")
    assert again.code == 0, again.err
    assert rows(again.out) == [row for row in rows(printed) if "epoch" not in row]
    assert re.search("┃ +this run +┃ +the floor +┃", again.out)
    assert {"mIoU", "kind-0", "kind-2"} <= set(re.findall(r"[\w-]+", "".join(rows(again.out))))

    outcome = command(report, "trust=true")
    assert outcome.code == 0, outcome.err
    page = (tmp_path / "report" / "index.html").read_text()
    floor = json.loads((run / "result.json").read_text())["floor_class"]
    shown = (f"{floor} everywhere", "kind-0", "kind-1", "kind-2", "#255bfe")
    assert [word for word in shown if word not in page] == []
    assert not [word for word in ("aeroplane", "IoU in the paper", "No predictions") if word in page]
    header, values = csv.reader((tmp_path / "report" / "results.csv").open())
    table = dict(zip(header, values, strict=True))
    assert [name for name in table if name.startswith("iou/")] == ["iou/kind-0", "iou/kind-1", "iou/kind-2"]
    assert table["floor/paper_iou"] == ""


def test_a_data_set_of_other_classes_is_refused(trained, command, tmp_path):
    run, _ = trained(3, None, False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "names.txt").write_text("kind-0 crack kind-1")
    outcome = command(evaluate, f"run={run}", "data.root=other", "trust=true")
    assert outcome.code == 2
    for words in (
        "3 classes (kind-0, crack, kind-1; no background)",
        "3 classes (kind-0, kind-1, kind-2; no background)",
    ):
        assert words in outcome.err
    assert "Traceback" not in outcome.err
    command(report, "trust=true", "data.root=other")
    assert "other classes than" in (tmp_path / "report" / "report.md").read_text()


def test_a_run_of_an_earlier_version_has_vocs_classes(train_in, tmp_path, command):
    run = train_in(tmp_path)
    result = json.loads((run / "result.json").read_text())
    assert result.pop("classes")["names"][8] == "cat"
    assert result.pop("floor_class") == "background"
    (run / "result.json").write_text(json.dumps(result))
    stored = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert stored.pop("classes")["background"] == 0
    checkpoint_files.save(run / "checkpoints" / "best.ckpt", stored)
    outcome = command(evaluate, f"run={run}", "verify=false")
    assert outcome.code == 0, outcome.err
    assert command(report, f"runs={run}", "images=[]").code == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert "aeroplane" in page
    assert "background everywhere" in page


@pytest.mark.parametrize(
    "classes",
    [
        None,
        [],
        {"names": ["a", "a"], "colours": [[0, 0, 0]] * 2, "background": 0, "void_colour": [0, 0, 0]},
        {"names": ["a", "b"], "colours": [[0, 0, 0]], "background": 0, "void_colour": [0, 0, 0]},
        {"names": ["a", "b"], "colours": [[0, 0, 0]] * 2, "background": 2, "void_colour": [0, 0, 0]},
        {"names": ["a", "b"], "colours": [[0, 0], [0, 0, 300]], "background": None, "void_colour": [0, 0, 0]},
        {"names": ["a"], "colours": [[0, 0, 0]], "background": None, "void_colour": [0, 0, 0]},
        {"names": "ab", "colours": [["x"] * 3] * 2, "background": None, "void_colour": [0, 0, 0]},
        {"names": ["a", "b"], "colours": [[0, 0, 0]] * 2, "background": [], "void_colour": [0, 0, 0]},
    ],
)
def test_damaged_classes_are_refused(classes):
    with pytest.raises(ValueError, match="class"):
        Classes.of(classes)


def test_classes_survive_a_file():
    assert Classes.of(json.loads(json.dumps(VOC.plain()))) == VOC


def test_vocs_facts_stand_in_one_file():
    """Its numbers of classes, and its module, are in no other file but those that are about VOC or the paper."""
    about_voc = (
        "data/voc.py",
        "data/download.py",
        "data/sbd.py",
        "data/shapes.py",
        "data/formats/",  # VOC's layout is one of those that people have, and its colours are given to classes without
        "inference/photographs.py",  # VOC's lists of images
        "inference/submission.py",  # VOC's server
        "benchmark/",
        "paper.py",
    )
    earlier_runs_have_no_others = "runs/older.py"
    package = Path(fcnseg.__file__).parent
    for path in package.rglob("*.py"):
        name = path.relative_to(package).as_posix()
        if not name.startswith(about_voc) and name != earlier_runs_have_no_others:
            code = re.sub(r'"""[\s\S]*?"""|#.*', "", path.read_text())
            assert not re.search(r"(?<![\w.{])2[12](?![\w.])|NUM_CLASSES|PALETTE", code), name
            assert not re.search(r"import .*\bvoc\b|data\.voc\b", code), name
