"""A small set of runs made by hand, of which every cell, curve point and coordinate of the report is known."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from torch import nn

from fcnseg.data.pictures import GAP, LINE, panel
from fcnseg.data.voc import CLASSES, PALETTE, VOC
from fcnseg.inference import Segmenter
from fcnseg.report import charts, curves, galleries, sections, tables
from fcnseg.report.collect import collect
from fcnseg.report.experiments import experiments
from fcnseg.results import paper

# Of each run: miou, pixel_acc, mean_acc, paper_iou, paper_acc, loss of its test, and the floor, which has no loss.
SCORES = ("miou", "pixel_acc", "mean_acc", "paper_iou", "paper_acc", "loss")
FLOOR = (0.11, 0.71, 0.04, 0.13, 0.74)
RUNS = {
    ("baseline", 0): (0.21, 0.61, 0.31, 0.41, 0.51, 1.1),
    ("baseline", 1): (0.23, 0.63, 0.33, 0.43, 0.53, 1.3),
    ("cosine", 0): (0.25, 0.65, 0.35, 0.45, 0.55, 1.5),
    ("flip", 0): (0.10, 0.69, 0.39, 0.40, 0.59, 1.9),
}
LOSSES = {"train": [3.0, 2.0, 1.0], "val": [3.5, 2.5, 2.75]}  # of every run
MIOUS = [0.1, 0.3, 0.2]


def confusion():
    """Background 60 of 80 right, of which 20 are taken for aeroplanes; aeroplanes 15 of 20; 7 pixels of void."""
    matrix = np.zeros((22, 21), dtype=int)
    matrix[0, 0], matrix[0, 1], matrix[1, 1], matrix[1, 0], matrix[21, 0] = 60, 20, 15, 5, 7
    return matrix.tolist()


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for (name, seed), scores in RUNS.items():
        run = folder / f"{name}-{seed}"
        (run / ".hydra").mkdir(parents=True)
        choices = {"experiment": name, "data": "voc2012", "model": "fcn"}
        config = {
            "choices": choices,
            "seed": seed,
            "patience": 1,
            "trainer": {"max_epochs": 3},
            "optimizer": {"lr": 0.5},
        }
        result = {
            "metrics": {f"test/{score}": value for score, value in zip(SCORES, scores, strict=True)},
            "floor": dict(zip(SCORES, FLOOR, strict=False)),
            "iou": {**dict.fromkeys(CLASSES), "background": 0.5 + seed / 5, "aeroplane": 0.3},
            "confusion": confusion(),
            **{"images": {"train": 1464, "val": 725, "test": 724}, "size": 224, "split": "halves"},
            **{"data_fingerprint": "abc", "parameters": 5500245, "best_epoch": 1, "epochs": 3, "seconds": 60.0},
        }
        rows = [f"{i},{i * 9},{LOSSES['train'][i]},{LOSSES['val'][i]},{MIOUS[i]}" for i in range(3)]
        (run / ".hydra" / "config.yaml").write_text(json.dumps(config))
        (run / "status.json").write_text('{"status": "finished"}')
        (run / "result.json").write_text(json.dumps(result))
        (run / "metrics.csv").write_text("\n".join(["epoch,step,train/loss,val/loss,val/miou", *rows]) + "\n")
    return collect(str(folder))


@pytest.fixture
def found(entries):
    return experiments(entries)


def test_every_cell_of_the_results(found):
    table = tables.results(found)
    cells = {
        "experiment": ["background everywhere", "baseline", "cosine", "flip"],
        "seeds": ["", "2", "1", "1"],
        "paper's IoU": ["0.1300", "0.4200\n± 0.0141", "0.4500", "0.4000"],
        "IoU in the paper": ["0.054", "0.0634", "0.0653", "0.0766"],
        "paper's accuracy": ["0.7400", "0.5200\n± 0.0141", "0.5500", "0.5900"],
        "accuracy in the paper": ["0.748", "0.7300", "0.7414", "0.7501"],
        "loss": ["", "1.2000\n± 0.1414", "1.5000", "1.9000"],
        "loss in the paper": ["", "1.2276", "1.1035", "1.0258"],
        "mIoU": ["0.1100", "0.2200\n± 0.0141", "0.2500", "0.1000"],
        "pixel accuracy": ["0.7100", "0.6200\n± 0.0141", "0.6500", "0.6900"],
        "mean accuracy": ["0.0400", "0.3200\n± 0.0141", "0.3500", "0.3900"],
        "parameters": ["", *["5,500,245"] * 3],
        "seconds per epoch": ["", *["20.0"] * 3],
        "best epoch": ["", *["2 of 3"] * 3],
    }
    columns = [*cells][1:]
    shown = dict(zip(table.columns, zip(*table.rows, strict=True), strict=True))
    first = [cell.split("\n") for cell in shown.pop("experiment")]
    assert [cell[0] for cell in first] == cells.pop("experiment")
    assert ["not better than" in cell[1] for cell in first] == [False, False, False, True]
    assert {column: [*values] for column, values in shown.items()} == cells
    assert [*table.columns] == ["experiment", *columns]


def test_every_number_of_the_csv(entries):
    rows = csv.DictReader(tables.as_csv(entries).splitlines())
    for cells, ((name, seed), scores) in zip(rows, RUNS.items(), strict=True):
        assert (cells["run"], cells["experiment"], cells["seed"]) == (f"{name}-{seed}", name, str(seed))
        assert [float(cells[f"test/{score}"]) for score in SCORES] == [*scores]
        assert [float(cells[f"floor/{score}"]) for score in SCORES[:-1]] == [*FLOOR]
        assert (cells["iou/background"], cells["iou/aeroplane"], cells["iou/cat"]) == (str(0.5 + seed / 5), "0.3", "")
        assert (cells["best_epoch"], cells["epochs"], cells["images/test"]) == ("1", "3", "724")
        published = [cells[f"paper_printed/{score}"] for score in ("iou", "acc", "loss")]
        assert (
            published
            == {
                "baseline": ["0.0634", "0.73", "1.2276"],
                "cosine": ["0.0653", "0.7414", "1.1035"],
                "flip": ["0.0766", "0.7501", "1.0258"],
            }[name]
        )


def test_what_the_paper_prints():
    printed = {
        name: (each.after, each.figure, each.loss, each.paper_iou, each.paper_acc) for name, each in paper.EXPERIMENTS.items()
    }
    assert printed == {
        "baseline": (None, 2, 1.2276, 0.0634, 0.7300),
        "cosine": ("baseline", 3, 1.1035, 0.0653, 0.7414),
        "flip": ("cosine", 4, 1.0258, 0.0766, 0.7501),
        "weighted": ("flip", 5, 1.7111, 0.0904, 0.7200),
        "wilson": ("weighted", 6, 1.6004, 0.1051, 0.7237),
        "transfer": ("weighted", 7, 1.5543, 0.1147, 0.7439),
        "unet": ("weighted", 8, 1.8510, 0.0866, 0.7347),
    }
    assert paper.FLOOR == {"paper_iou": 0.054, "paper_acc": 0.748}
    assert paper.COUNTS == {"train": 1464, "val": 725, "test": 724}


def lines(axes):
    """The points of the lines of a chart by their labels."""
    return {line.get_label(): np.column_stack(line.get_data()).tolist() for line in axes.get_lines()}


def test_every_point_of_the_loss_curves(found):
    (axes,) = curves.loss_charts(found)[1].draw().axes  # of cosine, which has one seed
    assert lines(axes) == {
        "training": [[1, 3.0], [2, 2.0], [3, 1.0]],
        "validation": [[1, 3.5], [2, 2.5], [3, 2.75]],
        "best epoch": [[2, 2.5]],
        "early stop": [[3, 2.75]],
    }
    colours = {line.get_label(): to_hex(line.get_color()) for line in axes.get_lines()}
    assert (colours["training"], colours["validation"]) == (charts.BLUE, charts.ORANGE)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "loss")


def test_the_best_epoch_of_an_unfinished_run_is_the_highest_score_s(entries):
    curve = curves._curve(replace(entries[0], status="interrupted", result={}))
    assert (curve.best, curve.stopped) == (1, False)


def test_every_mark_of_what_each_step_added(found):
    axes = sections.ablation(found)[0].draw().axes[0]
    marks = lines(axes)
    assert marks["ours"] == [[pytest.approx(0.42), 0], [0.45, 1], [0.40, 2]]
    assert marks["the paper's"] == [[0.0634, 0], [0.0653, 1], [0.0766, 2]]
    assert marks["background everywhere"] == [[0.13, 0], [0.13, 1]]
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["ours +0.0300\npaper's +0.0019", "ours -0.0500\npaper's +0.0113"]
    assert [text.xy[1] for text in axes.texts] == [1, 2]
    assert [label.get_text().rstrip(" †") for label in axes.get_yticklabels()] == [
        "FCN, constant lr",
        "+ cosine annealing",
        "+ flips",
    ]


def test_every_cell_of_a_confusion_matrix(found):
    about, table, *_ = sections._confusions(found)
    assert "(row) taken for a class (column)" in about.text
    assert table.title == "baseline, seed 0"
    assert table.columns == ("truth", "background", "aeroplane")
    assert [[str(cell) for cell in row] for row in table.rows] == [
        ["background", "75.0", "25.0"],
        ["aeroplane", "25.0", "75.0"],
    ]


def test_every_cell_of_the_classes(found):
    table = sections.heat_map(found)
    assert table.columns == ("class", "share of the pixels", "baseline", "cosine", "flip")
    assert [[row[column] for column in (0, 1, 2, 4)] for row in table.rows[:4]] == [
        ["mean of classes", "", "0.4500", "0.4000"],
        ["background", "80.00%", "0.6000", "0.5000"],
        ["aeroplane", "20.00%", "0.3000", "0.3000"],
        ["bicycle", "0.00%", "-", "-"],
    ]
    assert table.full == 0.3  # of the objects


class Brightest(nn.Module):
    """Calls a pixel label 2 where its normalised red is above 0, label 1 elsewhere: what is not normalised is all 2."""

    def forward(self, image):
        red = image[:, 0]
        return torch.stack([torch.full_like(red, -9), -red, red], dim=1)


class Data:
    """A data module with one test image, whose left half is dark and whose right half is bright."""

    def __init__(self):
        image = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
        image[:, :, :2], image[:, :, 2:] = 50, 200
        mask = torch.tensor([[0, 5, 0, 255]] * 4, dtype=torch.uint8)[None]
        pack = type("Pack", (), {"images": image, "masks": mask, "names": ("a",)})
        self.size, self.classes = 4, VOC
        self.packs, self.stages = {"val": pack}, {"test": ("val", torch.arange(1))}


def test_every_picture_of_a_gallery():
    data = Data()
    predicted = galleries.predict(Segmenter(Brightest(), VOC, 4), data, ["a"])
    assert predicted["a"].tolist() == [[1, 1, 2, 2]] * 4
    cards = galleries.gallery("a", {"net": (data, predicted)}).cards()
    first, net = cards["image and truth"], cards["net"]
    assert first["image"][0].tolist() == [[50] * 3] * 2 + [[200] * 3] * 2
    assert first["truth"][0].tolist() == PALETTE[[0, 5, 0, 255]].tolist()
    assert net["prediction"][0].tolist() == PALETTE[[1, 1, 2, 2]].tolist()
    over = [0.4 * light + 0.6 * PALETTE[label] for light, label in ((50, 1), (50, 1), (200, 2), (200, 2))]
    assert net["overlay"][0].tolist() == np.array(over).astype(np.uint8).tolist()


def test_every_picture_of_a_panel():
    image, truth, prediction = torch.full((3, 4, 4), 100), torch.full((4, 4), 3), torch.full((4, 4), 7)
    row = panel(image.byte()[None], truth.byte()[None], prediction[None], VOC, ["a"])
    at = [row[2 * LINE, number * (38 * 4 + GAP)].tolist() for number in range(4)]
    over = (0.4 * 100 + 0.6 * PALETTE[7]).astype(np.uint8).tolist()
    assert at == [[100] * 3, PALETTE[3].tolist(), PALETTE[7].tolist(), over]
