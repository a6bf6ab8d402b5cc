"""The numbers that the README, the evidence's page and the experiments' headers print are those of the stored results."""

import json
from pathlib import Path
from statistics import mean

import pytest

CHECKOUT = Path(__file__).parent.parent
EVIDENCE = CHECKOUT / "notebooks" / "evidence"
README, PAGE = ((path / "README.md").read_text(encoding="utf-8") for path in (CHECKOUT, EVIDENCE))
SENTENCES = " ".join(README.split())  # whatever their lines are
PAPER = ("baseline", "cosine", "flip", "weighted", "wilson", "transfer", "unet")
SIX = ("cat", "cow", "dog", "horse", "person", "sheep")


def results(pattern):
    """The results of the runs whose folders a pattern names, by seed."""
    found = [json.loads(path.read_text()) for path in sorted(EVIDENCE.glob(f"{pattern}/result.json"))]
    assert found, pattern
    return found


def paper(name, size):
    """The results of one of the paper's rows, a seed each."""
    backbone = "-model.backbone.mobilenet_v2" if name == "transfer" else ""
    return results(f"paper-{name}{backbone}{size}-seed*")


def score_of(result, name):
    return result["metrics"][f"test/{name}"]


def row(text, *begin):
    """The cells of the one line of a table that begins with these cells."""
    (line,) = [line for line in text.splitlines() if line.startswith("| " + " | ".join(begin))]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_rows(name):
    small, (large,) = paper(name, "-size96"), paper(name, "")
    scores = [score_of(result, "paper_iou") for result in small]
    cells = row(PAGE, name, f"{scores[0]:.4f}")
    assert cells[1:3] == [", ".join(f"{score:.4f}" for score in scores), f"{mean(scores):.4f}"]
    assert cells[6] == f"{mean(score_of(result, 'miou') for result in small):.4f}"
    at_224 = [f"{score_of(large, score):.4f}" for score in ("paper_iou", "paper_acc", "miou", "pixel_acc")]
    assert cells[7:9] == at_224[::2]
    assert row(README, f"{name} (Table")[3:] == at_224
    floor = [f"{large['floor'][score]:.4f}" for score in ("paper_iou", "paper_acc", "miou", "pixel_acc")]
    assert row(README, "background everywhere")[3:] == floor


def of_classes(result):
    return [*(f"{result['iou'][name]:.3f}" for name in SIX), f"{mean(result['iou'][name] for name in SIX):.3f}"]


def test_strong_small():
    runs = results("experiment.strong_small-seed*")
    scores = [score_of(run, "miou") for run in runs]
    for seed, run in enumerate(runs):
        cells = row(PAGE, str(seed), "official, 223")
        assert cells[2:11] == [f"{scores[seed]:.4f}", f"{run['floor']['miou']:.4f}", *of_classes(run)]
        assert float(cells[11]) == round(run["seconds"])
    assert row(PAGE, "mean")[2] == f"{mean(scores):.4f}"
    low, middle, high = (f"{number:.3f}" for number in (min(scores), mean(scores), max(scores)))
    assert f"`experiment=strong_small` has an mIoU of {middle} on all 223 images" in SENTENCES
    assert f"three seeds, {low} to {high})" in SENTENCES
    assert f"mIoU {middle} (floor 0.042), three seeds" in (CHECKOUT / "conf/experiment/strong_small.yaml").read_text()


def test_strong():
    (run,) = results("experiment.strong-model*")
    score, floor = score_of(run, "miou"), run["floor"]["miou"]
    cells = row(PAGE, "1, at 320 px", "official, 223")
    assert cells[2:] == [f"{score:.4f}", f"{floor:.4f}", *of_classes(run), f"{run['seconds']:.0f}"]
    words = f"mIoU {score:.3f} (floor {floor:.3f}), one seed, {run['seconds']:.0f} s on an H100"
    assert words in (CHECKOUT / "conf/experiment/strong.yaml").read_text()
    assert f"with a MobileNetV2 {score:.3f} at {run['size']} px (one)" in SENTENCES


@pytest.mark.parametrize(("images", "pattern"), [("92", "-limit92"), ("183", "-limit183"), ("366", "-limit366")])
def test_fewer_images(images, pattern):
    (run,) = results(f"experiment.strong_small{pattern}-seed0*")
    assert row(PAGE, images)[1:] == [f"{score_of(run, 'miou'):.4f}", *of_classes(run), f"{run['seconds']:.0f}"]
    assert run["images"]["train"] == int(images)


def test_scratch():
    (run,), wilson = results("experiment.scratch-data.split.halves-seed0*"), paper("wilson", "-size96")
    score, floor = score_of(run, "miou"), run["floor"]["miou"]
    best = mean(score_of(result, "miou") for result in wilson)
    above = f"{score - floor:.4f}"
    assert row(PAGE, "scratch", "halves")[2:] == [f"{score:.4f}", above, *of_classes(run), f"{run['seconds']:.0f}"]
    assert row(PAGE, "wilson, the best")[2:4] == [f"{best:.4f}", f"{best - floor:.4f}"]
    words = f"{score:.3f} on the paper's half of them (floor {floor:.3f}; Wilson's network {best:.3f})"
    assert f"`experiment=scratch` {words}" in SENTENCES
    header = (CHECKOUT / "conf/experiment/scratch.yaml").read_text()
    assert f"mIoU {score:.3f} (floor {floor:.3f}; Wilson's {best:.3f})" in header
