"""Tests of a finished run on other image sets, other data sets, and at the images' own sizes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from fcnseg.data import voc
from fcnseg.evaluate import evaluate
from fcnseg.runs import stored_network


@pytest.fixture
def other(root, tmp_path):
    """A data set of three images in the image set test, and nothing else."""
    found = voc.VOCFolder.find(root)
    names = (*found.names("val")[:1], *found.names("train")[:2])
    folder = voc.new_folder(tmp_path / "other", {"test": names})
    for name in names:
        shutil.copy(found.image(name), folder.image(name))
        shutil.copy(found.mask(name), folder.mask(name))
    return folder


def evaluated(command, run, *args):
    """What a command adds to `evaluations`, which must be one file; the result stays as it is."""
    before, there = (run / "result.json").read_bytes(), set((run / "evaluations").glob("*.json"))
    outcome = command(evaluate, f"run={run}", *args)
    assert outcome.code == 0, outcome.err
    assert (run / "result.json").read_bytes() == before
    (path,) = set((run / "evaluations").glob("*.json")) - there
    assert str(path) in outcome.out
    return path.name, json.loads(path.read_text()), outcome.out


def enlarge(logits, height, width):
    """(C, h, w) to (C, H, W), bilinear, with the middles of the outer pixels kept: along one axis, then the other."""
    for axis, size in ((1, height), (2, width)):
        at = ((np.arange(size) + 0.5) * logits.shape[axis] / size - 0.5).clip(0, logits.shape[axis] - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, logits.shape[axis] - 1)
        share = (at - low).reshape([-1 if each == axis else 1 for each in range(3)])
        logits = logits.take(low, axis) * (1 - share) + logits.take(high, axis) * share
    return logits


def numpys(run, folder, names):
    """The confusion matrix (22, 21) of a run's network at the images' own sizes, by Pillow and NumPy."""
    net = stored_network.load(run).net
    matrix = np.zeros((22, 21), dtype=int)
    for name in names:
        small = np.asarray(Image.open(folder.image(name)).resize((48, 32), Image.Resampling.BILINEAR)) / np.float32(255)
        mean, std = (np.array(values, dtype=np.float32) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        image = torch.tensor(((small - mean) / std).transpose(2, 0, 1)[None].astype(np.float32))
        with torch.inference_mode():
            logits = net(image)[0].double().numpy()
        mask = np.asarray(Image.open(folder.mask(name)))
        assert mask.shape != (32, 48)
        prediction = enlarge(logits, *mask.shape).argmax(0)
        np.add.at(matrix, (np.where(mask == 255, 21, mask), prediction), 1)
    return matrix


def test_at_the_images_own_sizes_the_scores_are_numpys(command, run, root):
    name, found, printed = evaluated(command, run, "at=original")
    folder = voc.VOCFolder.find(root)
    matrix = numpys(run, folder, folder.names("val"))
    assert found["confusion"] == matrix.tolist()
    truth, right = matrix[:-1].sum(1), matrix[:-1].diagonal()
    union = truth + matrix[:-1].sum(0) - right
    iou = [right[c] / union[c] if union[c] else None for c in range(21)]
    assert [*found["iou"].values()] == pytest.approx(iou, abs=1e-9)
    metrics = found["metrics"]
    assert metrics["test/pixel_acc"] == pytest.approx(right.sum() / truth.sum(), abs=1e-9)
    assert metrics["test/mean_acc"] == pytest.approx((right[truth > 0] / truth[truth > 0]).mean(), abs=1e-9)
    assert metrics["test/miou"] == pytest.approx(np.mean([each for each in iou if each is not None]), abs=1e-9)
    whole = np.concatenate([matrix[:1] + matrix[-1], matrix[1:-1]])  # the paper's: void is background, four images a batch
    either = whole.sum(0) + whole.sum(1) - whole.diagonal()
    papers = whole.diagonal()[either > 0] / either[either > 0]
    assert metrics["test/paper_iou"] == pytest.approx(papers.mean(), abs=1e-9)
    assert metrics["test/paper_acc"] == pytest.approx(whole.diagonal().sum() / whole.sum(), abs=1e-9)
    floor, present = found["floor"], truth > 0
    assert floor["miou"] == pytest.approx(truth[0] / truth.sum() / present.sum(), abs=1e-9)
    assert floor["pixel_acc"] == pytest.approx(truth[0] / truth.sum(), abs=1e-9)
    assert metrics["test/loss"] is None
    assert "4 test images (official split) at their own sizes" in " ".join(printed.split())
    assert "-official-original-" in name


def test_any_image_set_of_any_folder(command, run, other):
    name, found, printed = evaluated(command, run, "data.root=other", "set=test")
    assert name.startswith("other-test-32x48-")
    assert (found["images"], found["split"], found["root"]) == ({"test": 3}, "test", "other")
    assert np.sum(found["confusion"]) == 3 * 32 * 48
    assert found["floor"]["pixel_acc"] > 0.3
    assert "3 test images (image set test) at 32x48 px" in " ".join(printed.split())
    _, original, _ = evaluated(command, run, "data.root=other", "set=test", "at=original")
    assert original["confusion"] == numpys(run, other, other.names("test")).tolist()


def test_an_image_set_of_the_runs_own_data(command, run):
    _, found, _ = evaluated(command, run, "set=train")
    assert found["images"] == {"test": 8}
    result = json.loads((run / "result.json").read_text())
    assert result["data_fingerprint"].startswith(found["data_fingerprint"])
    _, val, _ = evaluated(command, run, "set=val")
    assert (val["confusion"], val["metrics"]) == (result["confusion"], result["metrics"])


def test_fewer_images_than_a_training_needs(command, run, other):
    """A batch of the run, and its limit, are larger than train here: nothing is trained."""
    cfg = OmegaConf.load(run / ".hydra" / "config.yaml")
    cfg.data.limit = 8
    copy = Path(shutil.copytree(run, other.path.parent / "copy"))
    OmegaConf.save(cfg, copy / ".hydra" / "config.yaml")
    for image_set in ("train", "val"):
        other.list_of(image_set).write_text("\n".join(other.names("test")[: 2 if image_set == "train" else 1]))
    outcome = command(evaluate, f"run={copy}", "data.root=other")
    assert outcome.code == 2  # an image is in both lists, and that is said in place of what a training needs
    other.list_of("val").write_text(other.names("test")[2])
    outcome = command(evaluate, f"run={copy}", "data.root=other")
    assert outcome.code == 0, outcome.err
    assert "1 test image (official split)" in " ".join(outcome.out.split())
    (kept,) = (copy / "evaluations").glob("other-official-32x48-*.json")  # the images of another data set
    assert json.loads(kept.read_text())["images"]["test"] == 1


def test_mirror_images_are_looked_at_too(command, run, root):
    name, found, _ = evaluated(command, run, "tta=flip")
    assert name.startswith(f"{root.name}-official-32x48-flip-")
    assert found["tta"] == "flip"
    plain = json.loads((run / "result.json").read_text())
    assert found["confusion"] != plain["confusion"]
    assert found["metrics"]["test/loss"] is not None
    _, original, _ = evaluated(command, run, "tta=flip", "at=original")
    assert original["size"] == "original"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["tta=mirror"], ["tta=mirror", "none, flip, multiscale"]),
        (["set=test"], ["no image set 'test'", "train", "val"]),
        (["set=../Segmentation/val"], ["set=../Segmentation/val", "the name of an image set"]),
        (["at=native"], ["at=native", "training, original"]),
        (["data.root=other"], ["no image set 'train'"]),
    ],
)
def test_what_is_not_there_is_refused(command, run, other, args, words):
    before = sorted(run.rglob("*"))
    outcome = command(evaluate, f"run={run}", *args)
    assert outcome.code == 2
    assert [word for word in words if word not in outcome.err] == []
    assert "Traceback" not in outcome.err
    assert sorted(run.rglob("*")) == before


def test_nothing_is_written_through_a_link(command, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy", ignore=shutil.ignore_patterns("evaluations"))
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (copy / "evaluations").symlink_to(elsewhere)
    outcome = command(evaluate, f"run={copy}", "at=original")
    assert outcome.code == 2
    assert "is a symbolic link" in outcome.err
    assert [*Path(elsewhere).iterdir()] == []
