import csv
import gc
import json
import re
import shutil
import weakref
from dataclasses import replace
from html.parser import HTMLParser
from statistics import fmean, stdev
from urllib.parse import unquote

import hostile
import pytest
import torch
from PIL import Image

from fcnseg.data.settings import as_one_number, spelled
from fcnseg.data.voc import VOC
from fcnseg.names import CONFIG
from fcnseg.report import charts, curves, galleries, render, sections, tables
from fcnseg.report.__main__ import report
from fcnseg.report.blocks import Chart, Gallery, Section, Table, Text
from fcnseg.report.collect import collect, read
from fcnseg.report.experiments import by_test_set, differences_from_paper, experiments
from fcnseg.report.study import TestedRun
from fcnseg.results import paper
from fcnseg.settings.table import flatten

CHOSEN = (
    *(
        "another shape of confusion",
        "no pixels",
        "a late best epoch",
        "versions in the result has markup",
        "an alias bomb",
    ),
    *(
        "seed is list",
        "patience is list",
        "choices.aug has mathtext",
        "a surrogate in the config",
        "error has escape",
        "tall losses",
    ),
    *(
        "an interpolation",
        "choices is text",
        "data_fingerprint in the result has path",
        "a missing value",
        "many epochs",
    ),
    *(f"{name} is {what}" for name in hostile.FILES for what in ("a pipe", "a folder", "endless", "swollen")),
    *(f"{name} holds deep brackets" for name in hostile.FILES),
)  # of the kinds of hostile folders; the slow test below has all
HARMLESS = (
    "many epochs",
    "metrics.csv holds deep",
    "no pixels",
    "a late best",
    "versions in",
    "choices.aug has",
    "tall losses",
    "data_fingerprint in",
    "a surr",
)
VOID_TAGS = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """Checks the tags' balance, and keeps what is looked for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.pictures, self.words = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in VOID_TAGS:
            self.open.append(tag)
        self.addresses += [value for name, value in attrs.items() if name in ("src", "href", "xlink:href")]
        if tag in ("img", "svg") and "aria-hidden" not in attrs:
            self.pictures.append(attrs.get("alt") or attrs.get("aria-label"))

    def handle_startendtag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & {*self.open}:
            self.words.append(data.strip())


@pytest.fixture(scope="session")
def finished(tmp_path_factory, train_in):
    """Four runs: two seeds of the baseline, a transfer run, and one at another size."""
    folder = tmp_path_factory.mktemp("finished")
    for overrides in (
        ["experiment=baseline", "trainer.max_epochs=2"],
        ["experiment=baseline", "trainer.max_epochs=2", "seed=1"],
        ["experiment=transfer"],
        ["model=fcn", "data.split=halves", "data.size=48"],
    ):
        train_in(folder, *overrides)
    return folder


@pytest.fixture(scope="session")
def runs(tmp_path_factory, finished):
    """The finished runs, and one of every way to be broken."""
    folder = tmp_path_factory.mktemp("all") / "runs"
    shutil.copytree(finished, folder)
    whole = next(folder.glob("paper-baseline*seed0*"))
    for name in ("failed", "interrupted", "bad-result", "lacking-result", "bad-metrics", "bad-config", "list-config"):
        shutil.copytree(whole, folder / name)
    (folder / "empty").mkdir()
    for name in ("failed", "interrupted"):
        (folder / name / "result.json").unlink()
    (folder / "failed" / "status.json").write_text('{"status": "failed", "error": "OutOfMemoryError: too much"}')
    (folder / "interrupted" / "status.json").write_text('{"status": "interrupted"}')
    (folder / "bad-result" / "result.json").write_text('{"metrics": ')
    (folder / "lacking-result" / "result.json").write_text('{"metrics": {}}')
    (folder / "bad-metrics" / "metrics.csv").write_text("epoch,val/loss\n0,abc\n")
    (folder / "bad-config" / ".hydra" / "config.yaml").write_text(": : [")
    (folder / "list-config" / ".hydra" / "config.yaml").write_text("- 1\n- 2\n")
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("reported") / "report"


@pytest.fixture
def out(command, folder, runs, few_pictures):
    """The report on all of them, written once, and what was printed."""
    if not folder.exists():
        pair = ",".join(path.name for path in sorted(runs.glob("paper-baseline*")))
        name = read(next(runs.glob("paper-transfer*"))).per_image.names[0]
        outcome = command(report, f"runs={runs}", f"out={folder}", f"compare=[{pair}]", f"images=[{name}]")
        assert outcome.code == 0, outcome.err
        (folder / "printed.txt").write_text(outcome.out)
    return folder


@pytest.fixture(scope="session")
def entries(finished):
    return collect(str(finished))


def plain(entry, cfg, name):
    """A finished run's entry with the config of one of the paper's experiments, on all images of the paper's."""
    config = flatten({key: cfg[key] for key in cfg if key != "choices"})
    choices = {"choices.data": "voc2012", "choices.experiment": name}
    return replace(entry, config=config | choices, result={**entry.result, "images": paper.COUNTS})


def test_all_that_differs_from_the_paper_is_in_one_cell(compose, entries):
    cfg = compose("experiment=flip", "data.size=64", "patience=null")
    (table,) = tables.differences_from_the_paper(experiments([plain(entries[0], cfg, "flip")]))
    (row,) = table.rows
    assert row[1] == "patience none (paper: 9); size in pixels 64 (paper: 224)"


@pytest.mark.parametrize("name", paper.EXPERIMENTS)
def test_the_paper_s_own_experiment_differs_in_nothing(compose, entries, name):
    cfg = compose(f"experiment={name}", "seed=7", "data.root=/elsewhere", "trainer.devices=2", "name=mine")
    assert differences_from_paper(plain(entries[0], cfg, name)) == ()


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("trainer.max_epochs=3", "max_epochs 3 (paper: 50)"),
        ("data.size=64", "size in pixels 64 (paper: 224)"),
        ("data.split=official", "split official (paper: halves)"),
        ("model.backbone=mobilenet_v2", "backbone mobilenet_v2 (paper: resnet34)"),
        ("model.weights=null", "pretrained weights none (paper: DEFAULT)"),
        ("patience=null", "patience none (paper: 9)"),
        ("optimizer=adam", "optimizer Adam (paper: AdamW)"),
        ("loss=ce", "weighted False (paper: True)"),
        ("aug.horizontal=0", "horizontal 0 (paper: 0.5)"),
    ],
)
def test_what_differs_from_the_paper_is_listed(compose, entries, override, difference):
    cfg = compose("experiment=transfer", override)
    found = differences_from_paper(plain(entries[0], cfg, "transfer"))
    assert difference in found
    assert len(found) <= 2  # with optimizer=adam or split=official no more than one other follows


def test_a_setting_that_a_later_version_adds_as_null_makes_no_other_experiment(entries):
    added = {"callbacks": None, "choices.debug": None, "later": None}
    later = replace(entries[0], config={**added, **entries[0].config})
    (found,) = experiments([entries[0], later])
    assert found.title == "baseline"
    assert found.differences == experiments(entries[:1])[0].differences


def test_a_part_of_voc_differs_from_the_paper(compose, entries):
    cfg = compose("experiment=unet")
    entry = plain(entries[0], cfg, "unet")
    entry = replace(entry, result={**entry.result, "images": {"train": 1464, "val": 112, "test": 111}})
    assert differences_from_paper(entry) == ("images 1464/112/111 (paper: 1464/725/724)",)


def test_statuses_and_remarks(runs):
    found = {path.name: read(path) for path in runs.iterdir()}
    statuses = {name: entry.status for name, entry in found.items() if "-seed" not in name}
    assert statuses == {
        "failed": "failed",
        "interrupted": "interrupted",
        "bad-result": "broken",
        "lacking-result": "broken",
        "bad-metrics": "finished",
        "bad-config": "broken",
        "list-config": "broken",
        "empty": "broken",
    }
    assert found["failed"].remarks == ("OutOfMemoryError: too much",)
    assert "result.json is damaged" in found["bad-result"].remarks[0]
    assert "lacks all or part of metrics, floor, iou" in found["lacking-result"].remarks[0]
    assert "metrics.csv is damaged" in found["bad-metrics"].remarks[0]
    assert all("config.yaml is damaged" in found[name].remarks[0] for name in ("bad-config", "list-config"))
    assert "no run in" in found["empty"].remarks[0]


@pytest.mark.parametrize(
    "damage",
    [
        {"images": {"train": 8, "val": 4}},
        {"images": 4},
        {"metrics": [0.5]},
        {"metrics": None},
        {"metrics": {"test/miou": "0.5"}},
        {"floor": {"miou": 0.1}},
        {"size": "large"},
        {"split": 2},
        {"confusion": None},
        {"classes": None},
        {"classes": {"names": ["a", "<b>\n"], "colours": [[0, 0, 0]] * 2, "background": 0, "void_colour": [0, 0, 0]}},
    ],
    ids=str,
)
def test_a_result_that_lacks_a_part_is_incomplete(finished, tmp_path, damage):
    run = shutil.copytree(next(finished.glob("paper-baseline*seed0*")), tmp_path / "run")
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | damage))
    entry = read(run)
    assert (entry.status, entry.result, len(entry.remarks)) == ("broken", {}, 1)
    assert f"result.json is incomplete: it lacks all or part of {next(iter(damage))};" in entry.remarks[0]


def test_a_killed_run_is_unfinished(runs, tmp_path):
    run = shutil.copytree(runs / "interrupted", tmp_path / "run")
    (run / "status.json").write_text('{"status": "running"}')
    (table,) = tables.unfinished([read(run)])
    assert table.rows == [
        [
            "run",
            "running",
            "2 of 2",
            "it is running, or was killed: the same command resumes it from its last checkpoint",
        ]
    ]


def test_the_floor_comes_first_and_seeds_are_averaged(entries, finished):
    found = experiments(entries)
    sets = list(by_test_set(found).items())
    assert [[experiment.title for experiment in rows] for _, rows in sets] == [
        ["baseline", "transfer"],
        ["fcn"],
    ]
    table = tables.results(sets[0][1])
    results = [json.loads(path.read_text()) for path in sorted(finished.glob("paper-baseline*/result.json"))]
    assert table.rows[0][0].startswith("background everywhere")
    assert table.rows[0][2] == f"{results[0]['floor']['paper_iou']:.4f}"
    values = [result["metrics"]["test/paper_iou"] for result in results]
    assert table.rows[1][:4] == [
        "baseline\nnot the paper's setting, on shapes; not better than predicting background",
        "2",
        f"{fmean(values):.4f}\n± {stdev(values):.4f}",
        "0.0634",
    ]
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_every_floor_is_followed_by_the_experiments_it_is_of(entries):
    """Without a background the floor is train's most frequent class, and data.limit changes train."""

    def limited(limit, floor_class, floor, miou):
        result = {**entries[0].result, "classes": replace(entries[0].classes, background=None), "floor_class": floor_class}
        result["floor"] = {**result["floor"], "miou": floor}
        result["metrics"] = {**result["metrics"], "test/miou": miou}
        return replace(entries[0], config={**entries[0].config, "data.limit": limit}, result=result)

    runs = [limited(4, "sky", 0.03, 0.2), limited(6, "car", 0.27, 0.2), limited(7, "sky", 0.03, 0.01)]
    (found,) = by_test_set(experiments(runs)).values()
    table = tables.results(found)
    at = table.columns.index("mIoU")
    assert table.rows[0][0] == "sky everywhere\nthe floor of the rows below"
    assert [(row[0].split("\n")[0], row[at]) for row in table.rows] == [
        ("sky everywhere", "0.0300"),
        ("baseline, limit 4", "0.2000"),
        ("baseline, limit 7", "0.0100"),
        ("car everywhere", "0.2700"),
        ("baseline, limit 6", "0.2000"),
    ]
    below = [re.findall("not better than predicting .*", row[0]) for row in table.rows]
    assert below == [[], [], ["not better than predicting sky"], [], ["not better than predicting car"]]


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("background", [0, None])
def test_the_results_have_the_paper_s_columns_where_they_mean_something(entries, published, background):
    config = entries[0].config if published else {**entries[0].config, "choices.experiment": None}
    classes = replace(entries[0].classes, background=background)
    (found,) = experiments([replace(entries[0], config=config, result={**entries[0].result, "classes": classes})])
    columns = [column for column in tables.results([found]).columns if "paper" in column]
    scores, printed = ["paper's IoU", "paper's accuracy"], ["IoU in the paper", "accuracy in the paper", "loss in the paper"]
    assert {*columns} == {*(scores if background == 0 else []), *(printed if published and background == 0 else [])}


@pytest.mark.parametrize("key", ["trainer.devices", "trainer.num_nodes", "trainer.accumulate_grad_batches"])
def test_the_number_of_devices_makes_no_other_experiment(entries, key):
    other = replace(entries[0], config={**entries[0].config, key: 2, "seed": 1})
    (found,) = experiments([entries[0], other])
    assert len(found.entries) == 2
    assert not any(word in difference for difference in differences_from_paper(other) for word in key.split("."))


def test_experiments_of_one_name_get_titles_of_their_own(entries):
    other = replace(entries[0], config={**entries[0].config, "optimizer.lr": 0.5})
    titles = [experiment.title for experiment in experiments([entries[0], other])]
    assert titles == ["baseline, lr 0.001", "baseline, lr 0.5"]


STEPS = "aug._order_"
SGD = {"choices.optimizer": "sgd", "optimizer._target_": "torch.optim.SGD", "optimizer.lr": None}
DICE = {"choices.loss": "dice", "loss._target_": "x.Dice"}


@pytest.mark.parametrize(
    ("changes", "titles"),
    [
        ([{}, SGD], ["fcn, optimizer adamw", "fcn, optimizer sgd"]),
        ([{}, DICE, {"choices.aug": "flip"}], ["fcn, aug none, loss ce", "fcn, aug none, loss dice", "fcn, aug flip, loss ce"]),
        ([{"optimizer.lr": 1}, {"optimizer.lr": 2}], ["fcn, lr 1", "fcn, lr 2"]),
        ([{"data.size": 1, "data.limit": 2}, {"data.size": 2}], ["fcn, size in pixels 1", "fcn, size in pixels 2"]),
        ([{}, {"callbacks.x": 1}], ["fcn", "fcn, x 1"]),
        ([{STEPS: ["flip", "crop"]}, {STEPS: ["crop"]}], ["fcn, augmentations flip+crop", "fcn, augmentations crop"]),
        ([{"loss._target_": "a.X"}, {"loss._target_": "b.X"}], ["fcn, loss X", "fcn, loss X (2)"]),
        ([{"choices.aug": "flip"}], ["fcn"]),
    ],
    ids=str,
)  # fmt: skip
def test_a_run_is_called_by_what_differs_and_nothing_else(entries, changes, titles):
    plain = next(entry for entry in entries if not entry.choice("experiment"))
    found = experiments([replace(plain, config={**plain.config, **change}) for change in changes])
    assert sorted(experiment.title for experiment in found) == sorted(titles)


def test_titles_of_a_test_set_leave_out_what_is_the_same_in_it(entries):
    """Among all runs the size tells two of them apart; among those of one size it tells nothing."""
    baseline = entries[0]
    others = [replace(baseline, result={**baseline.result, "size": 64}, config={**baseline.config, "data.size": 64})]
    found = experiments([baseline, *others])
    assert [each.title for each in found] == ["baseline, size in pixels 32", "baseline, size in pixels 64"]
    assert [each.title for rows in by_test_set(found).values() for each in rows] == ["baseline", "baseline"]


def on_folder(entry, root, fingerprint, **config):
    """The run as if it had been trained on a user's own folder."""
    settings = {**entry.config, "choices.data": "folder", "data.root": root, "choices.experiment": None, **config}
    return replace(entry, config=settings, result={**entry.result, "data_fingerprint": fingerprint})


def test_experiments_on_two_data_sets_have_a_column_each(entries):
    """In the tables of results both are called fcn: they are in tables of their own."""
    runs = [on_folder(entries[0], root, f"{n}-{n}") for n, root in enumerate(("/d/streets", "fields/"))]
    found = {each.title: each.blocks for each in sections.sections(runs, images=[], root=None)}
    *_, table = (block for block in found["Results"] if isinstance(block, Table))
    assert table.columns == ("setting", "fcn, data folder streets", "fcn, data folder fields")
    assert table.rows == [
        ["data set", "folder streets", "folder fields"],
        ["data fingerprint", "0-0", "1-1"],
    ]
    texts = " ".join(block.text for block in found["Results"] if isinstance(block, Text))
    assert "Test set: folder streets, halves split: 2 test images at 32 px, data 0." in texts
    assert "on folder fields, not on VOC-2012" in texts


def test_a_title_has_a_fingerprint_only_where_no_setting_differs(entries):
    one, *_ = entries
    runs = [on_folder(one, "streets", "0-0"), on_folder(one, "fields", "1-1")]
    runs += [on_folder(one, "streets", "2-0", **{"data.limit": 4}), on_folder(one, "streets", "3-0", **{"data.limit": 4})]
    assert {each.title for each in experiments(runs[:3])} == {
        *("fcn, data folder streets", "fcn, data folder fields", "fcn, data folder streets, limit 4"),
    }
    assert [each.title for each in experiments(runs[2:])] == ["fcn, data_fingerprint 2-0", "fcn, data_fingerprint 3-0"]


@pytest.mark.parametrize(
    ("data", "place", "wanted"),
    [
        ("folder", "../mine", "folder mine"),
        ("folder", "/x/data/", "folder data"),
        ("folder", "..", "folder"),
        ("folder", ".", "folder"),
        ("folder", None, "folder"),
        ("voc2012", "data", "voc2012"),
        ("voc2012", "/sets/VOC2012", "voc2012"),
        ("voc2012", "../cells", "voc2012 cells"),
        ("shapes", "/anywhere", "shapes"),
        ("mine", "/x/a\nb", "mine a b"),
        ("folder", ["a", "b"], "folder ['a', 'b']"),
    ],
)
def test_a_data_set_is_called_by_its_folder_where_that_tells_more(entries, data, place, wanted):
    entry = replace(entries[0], config={**entries[0].config, "choices.data": data, "data.root": place})
    assert entry.data_set == wanted


def test_equal_data_in_two_folders_are_one_test_set(entries):
    runs = [on_folder(entries[0], "a/streets", "0-0"), on_folder(entries[0], "b/copy", "0-0", **{"optimizer.lr": 9})]
    ((test_set, found),) = by_test_set(experiments(runs)).items()
    assert test_set.startswith("folder streets, ")
    assert [each.title for each in found] == ["fcn, lr 0.001", "fcn, lr 9"]  # the folder is not what differs


def test_unfinished_runs_on_two_data_sets_are_two_experiments(entries):
    runs = [replace(on_folder(entries[0], root, ""), status="interrupted", result={}) for root in ("a", "b")]
    assert [each.title for each in experiments(runs)] == ["fcn, data folder a", "fcn, data folder b"]


def test_two_runs_of_one_seed_have_titles_of_their_own(entries):
    one, again = entries[0], replace(entries[0], path=entries[0].path.with_name("again"))
    (study,) = sections.studied([one, again])
    assert sorted(run.title for run in study.runs) == [f"baseline, {name}" for name in sorted([one.name, "again"])]


def test_a_square_s_size_may_be_given_as_two_sides(finished, tmp_path):
    """An earlier version wrote 32x32 into the result of such a run."""
    one = shutil.copytree(next(finished.glob("paper-baseline*seed0*")), tmp_path / "one")
    two = shutil.copytree(next(finished.glob("paper-baseline*seed1*")), tmp_path / "two")
    result = json.loads((two / "result.json").read_text())
    (two / "result.json").write_text(json.dumps({**result, "size": "32x32"}))
    text = (two / CONFIG).read_text()
    (two / CONFIG).write_text(text.replace("size: 32\n", "size: [32, 32]\n", 1))
    assert (two / CONFIG).read_text() != text
    (found,) = experiments([read(one), read(two)])  # two seeds of one experiment
    assert f"test images at {read(one).result['size']} px" in found.test_set
    assert not any("size" in difference and "32, 32" in difference for difference in found.differences)


def test_a_size_that_is_no_square_has_its_two_sides():
    assert as_one_number("32x48") == "32x48"
    assert as_one_number(spelled([32, 48])) == "32x48"
    assert as_one_number(spelled([48, 48])) == as_one_number(48) == 48


def test_a_test_set_of_one_image_has_one_image(entries):
    result = {**entries[0].result, "images": {**entries[0].result["images"], "test": 1}}
    assert "1 test image at" in experiments([replace(entries[0], result=result)])[0].test_set


def test_a_run_of_one_epoch_gets_numbers_and_no_chart(entries):
    found = experiments(entries)
    transfer = next(each for each in found if each.title == "transfer")
    assert curves.loss_charts([transfer]) == []
    (table,) = tables.one_epoch(found[1:2])
    (row,) = table.rows
    rows = transfer.first.rows
    assert row == ["transfer", "0", f"{rows[0]['train/loss']:.4f}", f"{rows[0]['val/loss']:.4f}"]
    assert tables.one_epoch(found[:1]) == []


def test_some_seeds_may_be_no_better_than_the_floor(entries):
    two = next(each for each in experiments(entries) if len(each.entries) == 2)
    first = two.entries[0]
    good = replace(first, result={**first.result, "metrics": {name: 0.99 for name in first.result["metrics"]}})
    found = replace(two, entries=(good, two.entries[1]))
    assert tables.not_above_floor(found) == "; 1 of 2 runs not better than predicting background"
    assert tables.not_above_floor(replace(two, entries=(good, good))) == ""


def test_of_many_experiments_the_best_have_charts_and_the_tables_have_all(entries, monkeypatch):
    baseline = next(entry for entry in entries if entry.choice("experiment") == "baseline")
    metrics = baseline.result["metrics"]
    many = [
        replace(
            baseline,
            config={**baseline.config, "optimizer.lr": rate},
            result={**baseline.result, "metrics": {**metrics, "test/miou": miou}},
        )
        for rate, miou in ((1, 0.1), (2, None), (3, 0.3), (4, 0.2))
    ]
    monkeypatch.setattr(sections, "MOST_DETAILED", 2)
    found = {section.title.split(" (")[0]: section.blocks for section in sections.sections(many, images=[], root=None)}
    assert [len(found["Training and validation loss"]), len(found["Confusion matrices"])] == [1 + 2, 1 + 2]
    assert [table.title for table in found["Confusion matrices"][1:]] == [f"baseline, lr {n}, seed 0" for n in (3, 4)]
    assert "are of the 2 finished experiments with the highest mIoU" in found["Results"][-1].text
    assert next(len(block.rows) for block in found["Results"] if isinstance(block, Table)) == 1 + 4


def test_what_runs_do_not_share_is_listed(entries):
    """A row a setting, a column an experiment."""
    (table,) = tables.differences_between(experiments(entries))
    assert table.columns == ("setting", "baseline", "transfer", "fcn")
    assert ["size", "32 px", "32 px", "48 px"] in table.rows
    assert len({row[0] for row in table.rows}) == len(table.rows)
    assert tables.differences_between(experiments(entries[:1])) == []
    one, *_ = entries
    seeds = [replace(one, config={**one.config, "seed": n}, result={**one.result, "hardware": f"GPU {n}"}) for n in (7, 8)]
    (table,) = tables.differences_between(experiments(seeds))
    assert table.rows == [["hardware", "GPU 7; GPU 8"]]


def test_the_csv_has_every_run(out, runs):
    with (out / "results.csv").open(newline="") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {path.name for path in runs.iterdir()}
    for name, row in rows.items():
        if row["status"] == "finished":
            result = json.loads((runs / name / "result.json").read_text())
            assert float(row["test/miou"]) == result["metrics"]["test/miou"]
            assert float(row["floor/paper_iou"]) == result["floor"]["paper_iou"]
    baseline = next(row for name, row in rows.items() if name.startswith("paper-baseline"))
    assert (baseline["paper_printed/iou"], baseline["config/optimizer.lr"]) == ("0.0634", "0.001")
    assert (rows["failed"]["status"], rows["failed"]["test/miou"]) == ("failed", "")


def test_the_page_is_whole_and_needs_nothing_else(out):
    page = Page((out / "index.html").read_text())
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert page.pictures
    assert all(page.pictures)
    assert all(labels := re.findall('aria-label="Table: ([^"]*)"', (out / "index.html").read_text()))
    assert len(labels) > 3
    words = " ".join(page.words)
    assert "nan" not in words.lower().split()  # a class in neither truth nor prediction has a dash
    for phrase in (
        "12 runs: 5 finished, 1 interrupted, 1 failed, 5 broken",
        "2 test sets: compare within a table, not across.",
        "Trained and tested on shapes, not on VOC-2012",
        "backbone mobilenet_v3_small (paper: resnet34)",
        "max_epochs 2 (paper: 13)",
        "baseline, 2 seeds (the paper's Figure 2). Not the paper's setting, on shapes; not better than predicting background",
        "Predictions (the paper's Figures 9-11)",
        "trained for one epoch",
        "OutOfMemoryError: too much",
        "best epoch",
    ):
        assert phrase in words


def test_the_page_has_every_section(out, runs):
    text = (out / "report.md").read_text()
    for title in (
        *("Two runs against each other", "Images, worst first", "Images on which the runs disagree", "Boundaries"),
        *("Labels to look at again", "Sure or not", "Confusions with examples", "Cost"),
        "Training curves laid over each other",
    ):
        assert f"## {title}\n" in text
        assert title in (out / "index.html").read_text()
    assert "No predictions of" not in text
    predictions = text.partition("\n## Predictions")[2].partition("\n## ")[0]
    names = [read(next(runs.glob(pattern))).per_image.names for pattern in ("paper-transfer*", "*-fcn-*")]
    assert set(re.findall(r"\]\(figures/masks-(\w+)", predictions)) == {names[0][0]}  # as images=[...] said
    assert len((out / "images.csv").read_text().splitlines()) == 1 + sum(map(len, names))


def test_the_markdown_s_pictures_are_there(out):
    text = (out / "report.md").read_text()
    pictures = re.findall(r"\]\((figures/[^)]+)\)", text)
    assert {re.split("[-/.]", name)[1] for name in pictures} == {
        "ablation",
        "loss",
        "masks",
        "reliability",
        "cost",
        "curves",
    }
    assert all((out / name).stat().st_size > 1000 for name in pictures)
    table = next(part for part in text.split("\n\n") if part.startswith("| experiment"))
    assert len({line.count("|") for line in table.splitlines()}) == 1


def test_pictures_of_one_name_have_a_file_each(tmp_path):
    def chart(name, height):
        def draw():
            figure = charts.loss_curves([charts.Curve([1], [1], best=0, stopped=False)])
            figure.set_figheight(height)
            return figure

        return Chart(name, "caption", draw)

    def gallery(*models):
        mask = torch.zeros(8, 8, dtype=torch.uint8)
        return Gallery("x", mask.expand(3, 8, 8), mask, dict.fromkeys(models, mask), VOC)

    shown = [chart("a (b)", 2), chart("a (b)-2", 3), chart("a (b)", 4), chart("a (b)", 5)]
    first = Section("first", [*shown[:2], gallery("fcn")])
    second = Section("second", [shown[2], shown[3], gallery("fcn", "unet")])
    render.write_markdown(tmp_path, "title", "lead", [first, second])
    links = re.findall(r"\]\((figures/[^) ]+)\)", (tmp_path / "report.md").read_text())
    assert len(set(links)) == 6
    sizes = [Image.open(tmp_path / unquote(link)).size for link in links]
    assert sizes[:2] + sizes[3:5] == [charts.picture(block.draw()).size for block in shown]
    assert sizes[2] != sizes[5]


def test_broken_folders_are_named_on_the_screen(out):
    printed = (out / "printed.txt").read_text()
    assert "empty (broken): no run in" in printed
    assert re.search(r"list-config \(broken\): \S*config.yaml is damaged", printed)
    assert printed.rstrip().endswith(f"The report is {out / 'index.html'}")


def test_what_is_text_stays_text(tmp_path):
    table = Table(("a|b", "n"), [["<b>&", "1|2\n± 3"]])
    chart = Chart("x", '"><b>', lambda: charts.loss_curves([charts.Curve([1], [1], best=0, stopped=False)]))
    mask = torch.zeros(8, 8, dtype=torch.uint8)
    gallery = Gallery("<b>", mask.expand(3, 8, 8), mask, {"<b>": mask}, VOC)
    blocks = [table, Text("<script>"), chart, gallery, replace(table, title="<b>")]
    render.write_html(tmp_path, "<b>", "<b>", [Section("<b>", blocks)])
    page = (tmp_path / "index.html").read_text()
    Page(page)
    assert '<th scope="row">&lt;b&gt;&amp;</th><td class="">1|2<small>± 3</small></td>' in page
    assert "&lt;script&gt;" in page
    assert "<b>" not in page
    assert page.count("<script") == 1
    assert table._repr_markdown_() == "| a\\|b | n |\n| :-- | --: |\n| &lt;b&gt;&amp; | 1\\|2<br>± 3 |"
    render.write_markdown(tmp_path, "<b>", "<b>", [Section("<b>", [*blocks, Text("[x](javascript:0) `<b>`")])])
    text = (tmp_path / "report.md").read_text()
    assert "<b>" not in text
    assert "<script" not in text
    assert "\\[x\\](javascript:0) \\`&lt;b&gt;\\`" in text


def test_a_run_whose_checkpoint_is_gone_is_left_out_of_the_pictures(tmp_path, finished):
    shutil.copytree(finished, tmp_path / "runs")
    next(tmp_path.glob("runs/paper-transfer*/checkpoints/best.ckpt")).unlink()
    found = experiments(collect(str(tmp_path / "runs")))
    blocks = galleries.side_by_side(found, None, galleries.Galleries(None))
    assert blocks[0].text.startswith("No predictions of transfer")
    assert list(blocks[1].predictions) == ["baseline", "fcn"]
    assert all(labels.shape == (48, 48) for labels in [blocks[1].truth, *blocks[1].predictions.values()])


def test_a_damaged_checkpoint_is_told_once(tmp_path, finished):
    run = shutil.copytree(next(finished.glob("paper-transfer*")), tmp_path / "runs" / "run")
    (run / "checkpoints" / "best.ckpt").write_bytes(b"x")
    (experiment,), shown = experiments(collect(str(run))), galleries.Galleries(None)
    (told,) = galleries.side_by_side([experiment], None, shown)
    assert told.text.startswith("No predictions of transfer")
    images = experiment.first.per_image
    assert shown.of_images(images.names[:1], [TestedRun("transfer", experiment.first, images)]) == []


def test_pictures_of_data_that_have_changed_say_so(finished):
    found = experiments(collect(str(finished / "paper-transfer*")))
    assert not any(isinstance(block, Text) for block in galleries.side_by_side(found, None, galleries.Galleries(None)))
    trained_on = found[0].first.result
    trained_on["data_fingerprint"] = trained_on["data_fingerprint"].split("-")[0] + "-0"
    first, *pictures = galleries.side_by_side(found, None, galleries.Galleries(None))
    assert re.match(r"Predictions of transfer: the images or masks of val have changed since it was trained", first.text)
    assert first.warning
    assert {type(picture) for picture in pictures} == {Gallery}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runs=no/where"], "no folder no/where"),
        (["runs=hollow"], "no run in hollow"),
        (["runs=hollow/*"], "no run in hollow/*"),
        (["runs={finished}/paper-base*", "out=hollow/file"], "cannot write hollow/file"),
        (["rusn=runs"], "did you mean runs"),
        (["runs={finished}", "compare=a"], "wanted the names of two different runs"),
        (["runs={finished}", "compare=[a,b]"], "wanted two finished runs with an images.npz"),
        (["runs={finished}/paper-transfer*", "images=[2007_000033]"], "wanted names of test images, such as "),
        (["images=[]", "data.root=here"], "data.root has no effect with images=[]"),
        (["images=[]", "trust=true"], "trust has no effect with images=[]"),
    ],
)
def test_wrong_use(command, tmp_path, finished, arguments, words):
    (tmp_path / "hollow" / "inside").mkdir(parents=True)
    (tmp_path / "hollow" / "file").write_text("")
    outcome = command(report, *(argument.format(finished=finished) for argument in arguments))
    assert outcome.code == 2, outcome
    assert words in outcome.err


@pytest.mark.parametrize(
    ("data", "images", "caveat"),
    [
        ("voc2012", 724, ""),
        ("voc2012", 111, "111 test images, not 724"),
        ("voc2012", 1, "1 test image, not"),
        ("shapes", 724, "not on VOC-2012"),
    ],
)
def test_another_test_set_than_the_paper_s_gets_a_caveat(entries, data, images, caveat):
    result = {**entries[0].result, "images": {**paper.COUNTS, "test": images}}
    found = sections._caveat(replace(entries[0], config={"choices.data": data}, result=result))
    assert caveat in found if caveat else found == ""


def test_a_folder_whose_name_has_brackets_is_no_pattern(finished, tmp_path):
    run = shutil.copytree(next(finished.glob("paper-baseline*seed0*")), tmp_path / "lr[small]")
    assert [entry.path for entry in collect(str(run))] == [run]
    assert [entry.path for entry in collect(str(tmp_path / "lr*"))] == [run]


def test_pictures_beside_the_page_are_those_of_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(render, "MOST_INSIDE", 10)
    mask = torch.zeros(8, 8, dtype=torch.uint8)
    for networks in (("fcn", "unet", "wilson"), ("fcn",)):
        galleries = [Gallery("x", mask.expand(3, 8, 8), mask, dict.fromkeys(networks, mask), VOC)]
        assert "in the folder pictures" in render.write_html(tmp_path, "title", "", [Section("Images", galleries)])
        named = set(re.findall(r"pictures/\d+\.webp", (tmp_path / "index.html").read_text()))
        assert named == {f"pictures/{path.name}" for path in (tmp_path / "pictures").iterdir()}
        assert len(named) == 2 + 2 * len(networks)


def test_every_folder_is_read_behind_one_fence(runs, tmp_path):
    good = next(runs.glob("paper-baseline*seed0*"))
    for name, kind in {"good": None, **{f"bad{number}": kind for number, kind in enumerate(CHOSEN)}}.items():
        folder = shutil.copytree(good, tmp_path / name)
        if kind:
            hostile.KINDS[kind](folder)
    entries = {entry.name: entry for entry in collect(str(tmp_path))}
    assert len(entries) == len(CHOSEN) + 1
    # Many kinds leave a folder that reads as another one does, and is drawn once.
    unlike = {str((each.status, each.config, each.rows, each.result)): each for each in entries.values()}
    assert {"finished", "broken", "failed"} == {each.status for each in unlike.values()}
    render.write_html(tmp_path, "title", "lead", sections.sections([*unlike.values()], images=[], root=None))
    assert (tmp_path / "index.html").read_text().count("<script") == 1
    assert tables.as_csv(entries.values()).encode().count(b"\n") == len(entries) + 1
    unseen = {kind for number, kind in enumerate(CHOSEN) if not entries[f"bad{number}"].remarks}
    assert unseen == {kind for kind in CHOSEN if kind.startswith(HARMLESS)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", hostile.KINDS)
def test_every_kind_of_folder_leaves_the_others(runs, tmp_path, kind):
    good = next(runs.glob("paper-baseline*seed0*"))
    shutil.copytree(good, tmp_path / "good")
    hostile.KINDS[kind](shutil.copytree(good, tmp_path / "bad"))
    entries = collect(str(tmp_path))
    assert "finished" in {entry.status for entry in entries if entry.name == "good"}
    render.write_html(tmp_path, "title", sections.summary(entries), sections.sections(entries, images=[], root=None))
    tables.as_csv(entries).encode()


def test_a_figure_does_not_outlive_its_writing(tmp_path):
    alive = []

    def draw():
        figure = charts.loss_curves([charts.Curve([1], [1], best=0, stopped=False)])
        alive.append(weakref.ref(figure))
        return figure

    gc.disable()  # as good as off in a command
    try:
        render.write_html(tmp_path, "title", "lead", [Section("title", [Chart("a", "b", draw)] * 3)])
    finally:
        gc.enable()
    assert [ref() for ref in alive] == [None] * 3


def test_a_table_of_classes_has_a_dozen_experiments_at_most(entries):
    many = [replace(entries[0], config={**entries[0].config, "optimizer.lr": number}) for number in range(30)]
    made = sections.sections(many, images=[], root="/nowhere")
    (found,) = [section for section in made if section.title == "IoU of every class"]
    assert [len(table.columns) for table in found.blocks[1:]] == [14, 14, 8]


def test_a_cell_of_the_csv_is_no_formula(entries):
    texts = ("=1+1", "+1", "-1", "@x", "a=1")
    rows = tables.as_csv([replace(entries[0], config={**entries[0].config, "choices.=x": text, "seed": -1}) for text in texts])
    found = list(csv.DictReader(rows.splitlines()))
    assert [row["'=x"] for row in found] == ["'=1+1", "'+1", "'-1", "'@x", "a=1"]
    assert found[0]["seed"] == "-1"
