"""What the report reads from images.npz, held against loops, and what it does where the file is broken or missing."""

import csv
import io
import json
import mmap
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import hostile
import numpy as np
import pytest
import torch

from fcnseg.data.dataset import Classes
from fcnseg.data.pictures import ERRORS, errors
from fcnseg.machine.files import FORMULA
from fcnseg.names import PER_IMAGE
from fcnseg.report import charts, curves, mistakes, render, sections, two_runs, worst_images
from fcnseg.report import tables as tables_
from fcnseg.report.blocks import Chart, Gallery, Table, Text, address
from fcnseg.report.collect import Entry, read
from fcnseg.report.experiments import by_test_set, experiments
from fcnseg.report.galleries import Galleries
from fcnseg.report.study import Study, TestedRun
from fcnseg.results import costs
from fcnseg.results.per_image import PerImage

SIDE, BINS = 12, 15
NEW = ("predicted_per_s", "peak_memory", "giga_macs")  # what results of earlier versions lack
WORDS = ("images/s predicted", "peak memory in MB")
SETS = {  # the names of classes, and the background
    "two": (("sky", "<b>ground"), 0),
    "no background": (("a", "b", "c", "d"), None),
    "voc-like": (("background", "cat", "dog"), 0),
}


class Pictures:
    """In the place of `galleries.Galleries`: it keeps what it is asked for."""

    def __init__(self):
        self.asked = []

    def of_images(self, names, runs):
        names = [*names]
        self.asked += [(name, [run.title for run in runs]) for name in names]
        return [Text(name) for name in names]


def drawn(count, images, seed):
    """Truths with void in them, predictions, and the PerImage of both; nothing is labelled in the last image."""
    rng = np.random.default_rng(seed)
    truth = np.random.default_rng(99).integers(0, count, (images, SIDE, SIDE))
    truth[:, :2, :3], truth[-1] = 255, 255
    guess = np.where(rng.random(truth.shape) < 0.5, truth % 255 % count, rng.integers(0, count, truth.shape))
    cells = []
    for n in range(images):
        for label in [*range(count), 255]:
            for predicted in range(count):
                if pixels := int(((truth[n] == label) & (guess[n] == predicted)).sum()):
                    cells.append([n, min(label, count), predicted, pixels])
    pixels = rng.integers(0, 50, (images, BINS))
    near = np.stack([rng.integers(50, 60, images), rng.integers(0, 50, images)], 1)
    boundary = np.sort(rng.integers(0, 50, (images, count, 3)), -1)
    softmin = rng.random(images).astype(np.float32)
    softmin[-1] = np.nan
    names = np.array([f"{n}<i>" for n in range(images)])
    found = PerImage(
        *(names, np.array(cells), pixels, pixels * rng.random((images, BINS)), pixels // 2, softmin, near, boundary)
    )
    return truth, guess, found


def of_run(title, kind, seed, images=7, rows=(), **config):
    names, background = SETS[kind]
    truth, guess, found = drawn(len(names), images, seed)
    classes = Classes(names, tuple((n, n, n) for n in range(len(names))), background)
    scores = {"metrics": {"test/miou": 1 / (seed + 2)}, "floor": {"miou": 0.4}, "floor_class": "background"}
    result = {"classes": classes, **scores, "size": SIDE, "best_epoch": 1}
    entry = Entry(Path(title), "finished", {"seed": seed, **config}, rows, result, (), found)
    return TestedRun(title, entry, found), truth, guess


@pytest.fixture(params=SETS)
def study(request):
    pairs = [of_run(f"run {seed}", request.param, seed, **{"optimizer.lr": seed}) for seed in (0, 1, 2)]
    made = Study("a set", [run for run, *_ in pairs])
    return SimpleNamespace(study=made, truth=pairs[0][1], guesses=[guess for *_, guess in pairs])


def slow_iou(truth, guess, count):
    """VOC's IoU of every class, with loops; NaN for a class in neither."""
    values = []
    for label in range(count):
        one, other = (truth == label) & (truth != 255), (guess == label) & (truth != 255)
        union = (one | other).sum()
        values.append((one & other).sum() / union if union else np.nan)
    return np.array(values)


def tables(blocks):
    return [block for block in blocks if isinstance(block, Table)]


def test_images_are_listed_worst_first(study):
    shown, made = Pictures(), study.study
    blocks = worst_images.worst_first(made, shown)
    count = len(made.best.entry.classes)
    slow = [
        [np.nanmean(slow_iou(t, g, count)) for t, g in zip(study.truth[:-1], guess[:-1], strict=True)]
        for guess in study.guesses
    ]
    (table,) = tables(blocks)
    means = np.mean(slow, 0)
    assert [row[0] for row in table.rows] == [f"{n}<i>" for n in np.argsort(means)]  # nothing of the image without labels
    for row in table.rows:
        n = int(row[0][0])
        assert row[1:-1] == [f"{means[n]:.3f}", *(f"{values[n]:.3f}" for values in slow)]
    assert len(shown.asked) == len({name for name, _ in shown.asked}) == 6
    assert shown.asked[0] == (table.rows[0][0], ["run 0"])


def test_the_csv_has_every_image_and_run(study):
    one = study.study
    other = Study("another set", one.runs[:1])  # whose run may have the title of one of the first set
    rows = list(csv.reader(io.StringIO(worst_images.as_csv([one, other]))))
    assert rows[0] == ["test set", "image", "mean", *(run.entry.name for run in [*one.runs, *other.runs])]
    assert [len(row) for row in rows] == [7] * 13
    assert {(row[0], tuple(map(bool, row[3:]))) for row in rows[1:]} == {
        (one.test_set, (True, True, True, False)),
        ("another set", (False, False, False, True)),
    }
    worst = study.study.ranked[0]
    assert rows[1][1:6] == [f"{worst}<i>", *(f"{x:.4f}" for x in (study.study.mean[worst], *study.study.iou[:, worst]))]


def test_runs_disagree_where_their_iou_is_furthest_apart(study):
    (table,) = tables(worst_images.disputed(study.study, Pictures()))
    for name, difference, high, top, low, bottom in table.rows:
        values = study.study.iou[:, int(name[0])]
        assert (float(top), float(bottom)) == pytest.approx((values.max(), values.min()), abs=1e-3)
        assert float(difference) == pytest.approx(values.max() - values.min(), abs=1e-3)
        assert values[int(high[-1])] == values.max()
        assert values[int(low[-1])] == values.min()
    assert worst_images.disputed(Study("a set", study.study.runs[:1]), Pictures()) == []


def test_labels_are_ranked_by_the_best_run(study):
    blocks = worst_images.labels_to_look_at(study.study, Pictures())
    (table,) = tables(blocks)
    assert not any(block.warning for block in blocks if isinstance(block, Text))
    study.study.best.entry.result["floor"]["miou"] = 0.6
    warned = worst_images.labels_to_look_at(study.study, Pictures())[1]
    assert warned.warning
    assert "not better than predicting background everywhere" in warned.text
    softmin = study.study.best.per_image.softmin
    assert [row[0] for row in table.rows] == [f"{n}<i>" for n in np.argsort(softmin[:-1])]
    assert [row[1] for row in table.rows] == [f"{value:.4f}" for value in np.sort(softmin[:-1])]


def test_calibration_is_numpys(study):
    blocks = mistakes.calibration(study.study)
    (errors_of,) = tables(blocks)
    assert errors_of.columns == ("run", "expected calibration error", "mean confidence", "share of pixels right")
    for run, row in zip(study.study.runs, errors_of.rows, strict=True):
        pixels, confidence, right = (getattr(run.per_image, name).sum(0) for name in ("pixels", "confidence", "right"))
        error = sum(n / pixels.sum() * abs(c / n - r / n) for n, c, r in zip(pixels, confidence, right, strict=True) if n)
        assert row == [
            run.title,
            *(f"{x:.4f}" for x in (error, confidence.sum() / pixels.sum(), right.sum() / pixels.sum())),
        ]
    (chart,) = (block for block in blocks if isinstance(block, Chart))
    bins = chart.numbers
    assert len(bins.rows) == 3 * BINS
    lines = {line.get_label(): line for line in chart.draw().axes[0].lines}
    for row in (row for row in bins.rows if row[0] == "run 1"):
        at = round(float(row[1].split()[0]) * BINS)
        x, y = lines["run 1"].get_xydata()[at]
        assert row[3:] == [f"{x:.4f}", f"{y:.4f}"]


def test_of_many_classes_those_that_are_confused_most_are_shown():
    names = [f"class {label}" for label in range(mistakes.MOST_CLASSES + 2)]
    pixels = np.eye(len(names), dtype=np.int64)
    pixels[0, 0] = pixels[1, 1] = 1000  # always right
    for label in range(2, len(names)):
        pixels[label, 2 + (label - 1) % (len(names) - 2)] = 3
    assert mistakes.matrix(names, pixels).columns[1:] == tuple(names[2:])


def test_confusions_name_the_images_that_make_them_up(study):
    matrix, table = tables(mistakes.confusions(study.study, Pictures()))
    names, guess = study.study.best.entry.classes.names, study.guesses[0]
    addresses = {address(table.rows_are, row[0]) for row in table.rows}
    for truth, *cells in matrix.rows:
        of_truth = study.truth == names.index(truth)
        for predicted, cell in zip(matrix.columns[1:], cells, strict=True):
            share = (of_truth & (guess == names.index(predicted))).sum() / of_truth.sum()
            assert str(cell) == (f"{100 * share:.1f}" if share else "")
            assert not share or truth == predicted or cell.places[0][0] in addresses
    for confusion, pixels, share, images, listed in table.rows:
        truth, predicted = confusion.split(" taken for ")
        here = (study.truth == names.index(truth)) & (guess == names.index(predicted))
        assert pixels == f"{here.sum():,}"
        assert share == f"{here.sum() / (study.truth == names.index(truth)).sum():.1%}"
        of_images = here.sum((1, 2))
        assert int(images) == (of_images > 0).sum()
        assert listed.places[0] == (f"image-{of_images.argmax()}<i>", f"{of_images.argmax()}<i> ({of_images.max()})")
    numbers = [int(row[1]) for row in table.rows]
    assert numbers == sorted(numbers, reverse=True)


def test_boundaries_are_numpys(study):
    of_runs, of_classes = tables(mistakes.boundaries(study.study))
    for at, (run, row) in enumerate(zip(study.study.runs, of_runs.rows, strict=True)):
        near, wrong = run.per_image.near.sum(0)
        labelled = study.truth != 255
        errors_ = (labelled & (study.truth != study.guesses[at])).sum()
        shares = [near / labelled.sum(), wrong / errors_, wrong / near, (errors_ - wrong) / (labelled.sum() - near)]
        assert row[1:5] == [f"{share:.1%}" for share in shares]
        both, truth, guess = run.per_image.boundary.sum(0).T
        assert [line[at + 1] for line in of_classes.rows] == [f"{value:.4f}" for value in both / (truth + guess - both)]


def test_the_difference_of_two_runs_has_a_bootstrap_interval(study):
    one, other = study.study.runs[:2]
    blocks = two_runs.compared(study.study, one, other, Pictures())
    classes, settings = tables(blocks)[:2]
    count = len(one.entry.classes)
    pooled = [slow_iou(study.truth, guess, count) for guess in study.guesses[:2]]
    assert [row[1] for row in classes.rows] == [f"{x:.4f}" for x in (pooled[0].mean(), *pooled[0])]
    assert [row[3] for row in classes.rows] == [
        f"{x:+.4f}" for x in (pooled[1].mean() - pooled[0].mean(), *(pooled[1] - pooled[0]))
    ]
    rng, draws = np.random.default_rng(5), []
    for _ in range(400):
        picked = rng.integers(0, len(study.truth), len(study.truth))
        with np.errstate(all="ignore"):
            draws.append(
                np.subtract(
                    *(np.nanmean(slow_iou(study.truth[picked], g[picked], count)) for g in (study.guesses[1], study.guesses[0]))
                )
            )
    low, high = np.percentile(draws, (2.5, 97.5))
    assert [float(x) for x in classes.rows[0][4:6]] == pytest.approx([low, high], abs=0.25 * (high - low))
    assert ["optimizer.lr", "0", "1"] in settings.rows
    gained = next(table for table in tables(blocks) if table.columns[0] == "most gained")
    assert [row[3] for row in gained.rows] == sorted((row[3] for row in gained.rows), reverse=True)


def test_a_run_is_no_better_than_itself(study):
    one = study.study.best
    classes = tables(two_runs.compared(study.study, one, one, Pictures()))[0]
    assert {row[6] for row in classes.rows} == {""}
    assert {row[3] for row in classes.rows} <= {"+0.0000", "-"}


@pytest.mark.parametrize("names", [["run 0"], ["run 0", "run 0"], ["run 0", "run 9"], ["run 0", "run 1", "run 2"]])
def test_two_runs_that_are_not_there_are_refused(study, names):
    with pytest.raises(ValueError, match=r"compare=.*wanted"):
        two_runs.chosen([study.study], names)


def test_two_runs_on_other_test_sets_are_told_so(study):
    """To evaluate them anew would not help."""
    one, other, _ = study.study.runs
    studies = [Study("cats at 32 px", [one]), Study("cats at 48 px", [other])]
    with pytest.raises(ValueError, match="test sets differ: run 0 on cats at 32 px and run 1 on cats at 48 px") as told:
        two_runs.chosen(studies, ["run 0", "run 1"])
    assert "evaluate" not in str(told.value)


def test_one_image_and_one_run_are_one():
    run, *_ = of_run("run", "two", 0, images=1, rows=[{"val/miou": 0.5}] * 2)
    run.per_image.softmin[:] = 0.5
    study, shown = Study("a set", [run]), Pictures()
    blocks = [*worst_images.worst_first(study, shown), *worst_images.labels_to_look_at(study, shown)]
    blocks += [*mistakes.confusions(study, shown), *mistakes.boundaries(study), *mistakes.calibration(study)]
    blocks += [*curves.overlaid([experiment("a", run)]), *two_runs.compared(study, run, run, shown)]
    said = " ".join(getattr(block, "text", getattr(block, "caption", "")) for block in blocks)
    assert re.findall(r" 1 (?:image|run|experiment|confusion)\b", said)
    assert not re.findall(r"\b1 (?:image|run|experiment|confusion)s\b", said)


def test_every_kind_of_error_has_its_colour():
    classes = Classes(("background", "cat", "dog"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)), 0)
    truth, guess = torch.tensor([[1, 1, 0, 1, 255, 0]]), torch.tensor([[1, 0, 2, 2, 1, 0]])
    kinds = ["right", "missed", "invented", "wrong class", "void", "right"]
    assert errors(truth, guess, classes)[0].tolist() == [list(ERRORS[kind]) for kind in kinds]
    without = Classes(("a", "b", "c"), classes.colours, None)
    assert errors(truth, guess, without)[0].tolist() == [
        list(ERRORS[kind]) for kind in ("right", *["wrong class"] * 3, "void", "right")
    ]


def test_a_gallery_with_errors_draws_a_third_row():
    classes = Classes(("background", "cat"), ((0, 0, 0), (9, 9, 9)), 0)
    mask = torch.zeros(4, 4, dtype=torch.uint8)
    gallery = Gallery("name", torch.zeros(3, 4, 4, dtype=torch.uint8), mask, {"run": mask}, classes, with_errors=True)
    assert (gallery.cards()["run"]["errors"] == ERRORS["right"]).all()
    assert gallery.draw().shape[1] == 30 * 5 * 4 + 4 * 4  # five pictures in a row
    assert f"errors: {next(iter(ERRORS))}" in gallery.legend()


def test_curves_are_the_mean_over_seeds():
    lines = {"a": np.array([[1, 2, np.nan], [3, 4, 5]]), "b": np.array([[7.0, 8.0]])}
    lines = {title: (np.arange(1, values.shape[1] + 1), values) for title, values in lines.items()}
    chart = charts.curves(lines, "epoch", "loss")
    first, second = chart.axes[0].lines
    assert first.get_ydata().tolist() == [2, 3, 5]
    assert second.get_ydata().tolist() == [7, 8]
    (band,) = chart.axes[0].collections
    assert {tuple(point) for point in band.get_paths()[0].vertices} >= {(1, 1), (1, 3), (2, 2), (2, 4), (3, 5)}


def test_an_epoch_without_a_value_is_a_gap_in_the_curve():
    values = np.array([[1, np.nan, 3], [1, np.nan, np.nan]])
    (line,) = charts.curves({"a": (np.arange(1, 4), values)}, "epoch", "loss").axes[0].lines
    assert np.array_equal(line.get_ydata(), [1, np.nan, 3], equal_nan=True)


def experiment(title, *runs):
    entries = [run.entry for run in runs]
    return SimpleNamespace(title=title, entries=entries, first=entries[0], test_set="a set", miou=-1)


@pytest.fixture
def entry_of(run):
    """`entry_of(limit, seed, miou, **config)`: a run on so many train images."""
    whole = read(run)

    def entry_of(limit, seed, miou, **config):
        metrics = {**whole.result["metrics"], "test/miou": miou}
        print_ = whole.result["data_fingerprint"].split("-")
        changed = {"data_fingerprint": f"{limit}-{print_[1]}", "images": {**whole.result["images"], "train": limit}}
        settings = {**whole.config, "data.limit": limit, "seed": seed, **config}
        return replace(whole, config=settings, result={**whole.result, "metrics": metrics, **changed})

    return entry_of


def test_miou_is_drawn_over_the_seconds_of_training():
    rows = [{"val/miou": 0.5, "seconds": 20.0}, {"val/miou": 0.25, "seconds": 10.0}]
    runs = [
        of_run("run", "two", 0, rows=rows)[0],
        of_run("run", "two", 0, rows=[{**row, "seconds": 40} for row in rows])[0],
    ]
    *_, chart = curves.overlaid([experiment("a", *runs)])
    assert chart.draw().axes[0].lines[0].get_xydata().tolist() == [[30, 0.5], [55, 0.25]]
    assert chart.numbers.rows == [["a", "30", "55"]]


def test_runs_of_one_epoch_have_no_curve():
    row = {"val/miou": 0.5, "val/loss": float("nan"), "lr": 0.0001}  # an earlier version wrote no images_per_s
    one = of_run("run", "two", 0, rows=[row])[0]
    assert curves.overlaid([experiment("a", one)]) == []
    two = of_run("run", "two", 0, rows=[row, {"val/miou": 0.25, "val/loss": float("nan"), "lr": 2e-5}])[0]
    _, miou, rate = curves.overlaid([experiment("a", one), experiment("b", two)])  # none of a loss that became NaN
    assert miou.numbers.rows == [["b", "0.5", "0.25"]]
    assert rate.numbers.rows == [["b", "0.0001", "2e-05"]]
    assert rate.caption == "Learning rate. a set."
    assert rate.draw().axes[0].lines[0].get_ydata().tolist() == [0.0001, 2e-5]


@pytest.fixture(scope="module")
def run(train_in, tmp_path_factory):
    return train_in(tmp_path_factory.mktemp("runs"), "trainer.max_epochs=2")


def test_the_multiplications_of_a_network_are_those_of_its_layers(run):
    from fcnseg.runs import stored_network

    net, macs = stored_network.load(run).net, []

    def count(layer, inputs, output):
        places = inputs[0] if isinstance(layer, torch.nn.ConvTranspose2d) else output
        macs.append(layer.weight.numel() * places.shape[2] * places.shape[3])

    for layer in net.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            layer.register_forward_hook(count)
    net(torch.zeros(1, 3, 32, 32))
    assert read(run).result["giga_macs"] == pytest.approx(sum(macs) / 1e9)


def test_what_a_run_costs_is_measured_at_its_end(run):
    found = experiments([read(run)])
    (table,) = tables(tables_.costs(found))
    row, result = dict(zip(table.columns, table.rows[0], strict=True)), json.loads((run / "result.json").read_text())
    assert row["images/s predicted"] == f"{result['predicted_per_s']:,.1f}"
    assert 100 < float(row["peak memory in MB"].replace(",", "")) == pytest.approx(result["peak_memory"] / 1e6, abs=0.1)
    older = replace(found[0].first, result={k: v for k, v in read(run).result.items() if k not in NEW})
    (table,) = tables(tables_.costs([replace(found[0], entries=(older,))]))
    assert dict(zip(table.columns, table.rows[0], strict=True)) == {**row, **dict.fromkeys(WORDS, "-"), "GMAC": "-"}


def test_speed_and_memory_are_of_what_was_measured():
    assert costs.images_per_second([]) is None
    assert costs.images_per_second([(4, 1.0)]) == 4
    assert costs.images_per_second([(4, 9.0), (4, 1.0), (2, 0.5)]) == 4  # the first pass is slower
    net = torch.nn.Conv2d(3, 2, 1)
    with costs.timed(net) as passes:
        net(torch.zeros(5, 3, 8, 8))
    net(torch.zeros(1, 3, 8, 8))
    assert [images for images, _ in passes] == [5]
    device = torch.device("cpu")
    costs.forget_peak(device)
    before = costs.peak_memory(device)
    with mmap.mmap(-1, 1 << 27) as memory:  # of malloc's, the process may have some already
        for page in range(0, len(memory), mmap.PAGESIZE):
            memory[page] = 1
    assert costs.peak_memory(device) - before > 100_000_000
    if costs.PEAK.exists():  # Linux
        high = costs.peak_memory(device)
        costs.forget_peak(device)
        assert costs.peak_memory(device) < high - 100_000_000


def test_runs_that_differ_in_the_number_of_train_images_have_a_curve(entry_of):
    entries = [entry_of(92, 0, 0.1), entry_of(92, 1, 0.3), entry_of(366, 0, 0.4), entry_of(366, 1, None)]
    (found,) = by_test_set(experiments(entries)).values()  # other train images, but the same test images
    assert [each.title for each in found] == ["fcn, limit 366", "fcn, limit 92"]
    chart, table = curves.over_images(found)
    assert table.rows == [["fcn", "92", "0.2000", "0.1000", "0.3000", "2"], ["fcn", "366", *["0.4000"] * 3, "1"]]
    axes = chart.draw().axes[0]
    assert axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["92", "366"]
    assert axes.lines[0].get_xydata().tolist() == [[92, 0.2], [366, 0.4]]
    assert curves.over_images(by_test_set(experiments(entries[:2])).popitem()[1]) == []
    other = [entries[0], entry_of(366, 0, 0.4, **{"optimizer.lr": 9})]
    assert curves.over_images(by_test_set(experiments(other)).popitem()[1]) == []


def test_without_pictures_a_report_waits_for_no_pytorch(run, tmp_path):
    code = f"""
import sys
from pathlib import Path
from fcnseg.report import sections, worst_images, render, tables
from fcnseg.report.collect import collect
render.write_html(Path({str(tmp_path)!r}), "title", "lead", sections.sections(collect({str(run)!r}), images=[], root=None))
print(sorted({{"torch", "lightning", "torchvision", "torchmetrics", "pandas", "scipy"}} & sys.modules.keys()))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "[]\n"


def test_a_broken_file_is_a_remark_and_a_missing_one_is_nothing(run):
    entry, path = read(run), run / "images.npz"
    assert (entry.per_image is not None, entry.remarks) == (True, ())
    whole = path.read_bytes()
    path.unlink()
    assert (read(run).per_image, read(run).remarks) == (None, ())
    path.write_bytes(whole[:500])
    assert read(run).per_image is None
    assert "images.npz is damaged" in read(run).remarks[0]
    assert read(run).status == "finished"
    path.write_bytes(whole)


def test_pictures_of_a_run_without_its_checkpoint_are_missed_once(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "best.ckpt").unlink()
    (whole, lost), galleries = (read(path) for path in (run, tmp_path / "run")), Galleries(None)
    runs = [TestedRun("lost", lost, lost.per_image), TestedRun("whole", whole, whole.per_image)]
    for wanted in (["Text", "Gallery"], ["Gallery"]):
        blocks = galleries.of_images([str(whole.per_image.names[0])], runs)
        assert [type(block).__name__ for block in blocks] == wanted
        assert list(blocks[-1].predictions) == ["whole"]
        assert blocks[-1].with_errors


@pytest.mark.parametrize("first", range(0, 12, 4))
def test_names_of_images_are_text(run, tmp_path, first):
    names = [*hostile.NASTY.values(), "\0", "\ufeff"][first : first + 4]  # one a test image
    assert len(names) == 4
    folder = shutil.copytree(run, tmp_path / "run")
    found = read(folder).per_image
    replace(found, names=np.array(names)).write(folder / PER_IMAGE)
    entries = [read(folder)]
    assert all(map(str.isprintable, entries[0].per_image.names))
    render.write_html(tmp_path, "title", "lead", sections.sections(entries, images=[], root=None))
    assert "<script>alert" not in (tmp_path / "index.html").read_text()
    cells = [cell for row in csv.reader(io.StringIO(worst_images.as_csv(sections.studied(entries)))) for cell in row]
    assert not any(cell.startswith(FORMULA) for cell in cells)


@pytest.mark.parametrize("wrong", [7, [], {"error": "x"}])
def test_a_calibration_that_is_none_is_left_out(run, tmp_path, wrong):
    folder = shutil.copytree(run, tmp_path / "run")
    whole = json.loads((folder / "result.json").read_text())
    assert read(folder).result["calibration.error"] == whole["calibration"]["error"]
    (folder / "result.json").write_text(json.dumps({**whole, "calibration": wrong}))
    assert "calibration.error" not in read(folder).result
    assert tables_.as_csv([read(folder)])
