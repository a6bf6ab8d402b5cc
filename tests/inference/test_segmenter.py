"""Tests of `fcnseg.load` and the Segmenter that it gives."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fcnseg
from fcnseg.data import voc
from fcnseg.data.dataset import Classes
from fcnseg.inference import Segmenter
from fcnseg.runs import stored_network

THREE = Classes(("dark", "red", "green"), ((0, 0, 0), (200, 0, 0), (0, 200, 0)), 0)


class Colours(nn.Module):
    """Sees red and green where they are: what it sees of a pixel does not depend on other pixels."""

    def forward(self, image):
        return torch.cat([torch.zeros_like(image[:, :1]), image[:, :2]], 1) * 4


@pytest.fixture
def photograph():
    """Quarters: dark, red, green, dark."""
    pixels = np.zeros((90, 120, 3), np.uint8)
    pixels[:45, 60:, 0] = pixels[45:, :60, 1] = 255
    return Image.fromarray(pixels)


def quarters():
    labels = np.zeros((90, 120), np.uint8)
    labels[:45, 60:], labels[45:, :60] = 1, 2
    return labels


@pytest.mark.parametrize("settings", [{}, {"tile": 32}, {"tile": 64, "overlap": 0}, {"tile": 500}, {"tta": "flip"}])
def test_what_there_is_is_found_where_it_is(photograph, settings):
    found = Segmenter(Colours(), THREE, [90, 120], **settings)(photograph)
    assert (found.labels == quarters()).all()
    assert found.scores.shape == (90, 120)
    assert 0.34 < found.scores.min() <= found.scores.max() <= 1


class Border(nn.Module):
    """Gives logits that are the image's own last row and column, in every pixel."""

    def forward(self, image):
        return image[:, :, -1:, -1:].expand_as(image)


def test_a_small_photograph_is_padded_with_the_mean_colour():
    """As networks pad to their stride: with zeros after the normalisation."""
    logits = Segmenter(Border(), THREE, [20, 20]).logits(torch.full((1, 3, 20, 20), 200, dtype=torch.uint8))
    assert logits.shape == (1, 3, 20, 20)
    assert (logits == 0).all()


def test_the_ways_to_give_a_photograph_mean_the_same(run, root):
    path = next(iter(voc.VOCFolder.find(root).path.glob("JPEGImages/*.jpg")))
    image = Image.open(path)
    array = np.asarray(image)
    first, *others = fcnseg.load(run)([path, str(path), image, array, torch.from_numpy(array.copy()).permute(2, 0, 1)])
    for other in others:
        assert (other.labels == first.labels).all()
        assert other.scores == pytest.approx(first.scores, abs=1e-6)
    assert first.labels.shape == array.shape[:2]
    assert first.classes == voc.VOC


def test_a_mask_is_what_the_network_says_enlarged(run, root):
    trained = stored_network.load(run)
    path = next(iter(voc.VOCFolder.find(root).path.glob("JPEGImages/*.jpg")))
    small = np.asarray(Image.open(path).resize((48, 32), Image.Resampling.BILINEAR)) / np.float32(255)
    mean, std = np.float32((0.485, 0.456, 0.406)), np.float32((0.229, 0.224, 0.225))
    with torch.inference_mode():
        logits = trained.net(torch.from_numpy((small - mean) / std).permute(2, 0, 1)[None])
    found = fcnseg.load(run)(path)
    large = nn.functional.interpolate(logits.double(), found.labels.shape, mode="bilinear")[0]
    assert (large.argmax(0).numpy() == found.labels).mean() > 0.999  # but for ties
    assert found.scores == pytest.approx(large.softmax(0).amax(0).numpy(), abs=1e-4)


def test_photographs_of_any_sizes_come_back_in_their_order():
    sizes = [(40, 60), (300, 20), (33, 33), (20, 2000), (10, 10), (64, 64), (1, 1), (50, 70), (31, 200)]
    images = [np.full((*size, 3), 9 * place, np.uint8) for place, size in enumerate(sizes)]
    for settings in ({"batch_size": 2}, {"batch_size": 3, "tile": 40}):
        found = Segmenter(Colours(), THREE, 32, **settings)(images)
        assert [prediction.labels.shape for prediction in found] == sizes
        assert [prediction.source is image for prediction, image in zip(found, images, strict=True)] == [True] * len(sizes)


def test_a_photograph_that_cannot_be_read_keeps_its_place():
    images = [np.full((40 + n, 60, 3), n, np.uint8) for n in range(5)]
    for settings in ({"batch_size": 1}, {"batch_size": 3}, {"batch_size": 2, "tile": 32}):
        found = Segmenter(Colours(), THREE, 32, **settings).stream([*images, "none.jpg", images[0]])
        heights = [each.labels.shape[0] if not isinstance(each, ValueError) else "none.jpg" for each in found]
        assert heights == [40, 41, 42, 43, 44, "none.jpg", 40]


def test_every_orientation_is_upright_and_can_be_undone(tmp_path, photograph):
    upright = Segmenter(Colours(), THREE, [90, 120])
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        photograph.save(path := tmp_path / f"{orientation}.png", exif=exif)
        found = upright(path)
        found.save(tmp_path / "mask.png", oriented=False)
        assert (np.asarray(Image.open(tmp_path / "mask.png")) == quarters()).all()  # as the file's pixels lie
        assert found.labels.shape == ((90, 120) if orientation < 5 else (120, 90))
        assert (found.overlay()[found.labels == 1] == (0.6 * 200 + 0.4 * 255, 0, 0)).all()


def test_a_saved_mask_has_the_labels_as_indices_and_the_classes_colours(tmp_path, photograph):
    found = Segmenter(Colours(), THREE, [90, 120])(photograph, scores=False)
    found.save(tmp_path / "mask.png")
    mask = Image.open(tmp_path / "mask.png")
    assert (mask.mode, mask.size) == ("P", (120, 90))
    assert (np.asarray(mask) == quarters()).all()
    assert (np.asarray(mask.convert("RGB")) == found.colour()).all()
    assert found.colour()[0, 119].tolist() == [200, 0, 0]
    assert found.scores.size == 0


def test_a_run_on_classes_of_ones_own(tmp_path, train_in):
    run = train_in(tmp_path, "data=folder", "data.size=32")
    assert fcnseg.load(run).classes == stored_network.load(run).classes


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("none.jpg", ["there is no image none.jpg: correct its name, or leave it out"]),
        (np.zeros((4, 5), np.uint8), ["ndarray (4, 5) uint8", "(H, W, 3)"]),
        (np.zeros((4, 5, 3)), ["ndarray (4, 5, 3) float64", "uint8"]),
        (torch.zeros(3, 4, 5), ["Tensor (3, 4, 5) torch.float32", "(3, H, W)"]),
        (np.zeros((0, 5, 3), np.uint8), ["ndarray (0, 5, 3) uint8"]),
        (None, ["NoneType"]),
    ],
)
def test_what_is_no_photograph_is_refused(image, words):
    with pytest.raises(ValueError, match=r".") as error:
        Segmenter(Colours(), THREE, 32)([np.zeros((40, 40, 3), np.uint8), image])
    assert [word for word in words if word not in str(error.value)] == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tile": 16}, "tile=16: wanted a whole number from 32 up"),
        ({"tile": 64, "overlap": 40}, "overlap=40: wanted at most half of tile=64"),
        ({"overlap": 8}, "overlap=8 is that of tiles: give tile=, too"),
        ({"batch_size": 0}, "batch_size=0: wanted a whole number from 1 up"),
        ({"tta": "mirror"}, "tta=mirror: wanted one of"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Segmenter(Colours(), THREE, 32, **settings)


@pytest.mark.parametrize("size", ["abc", "null", "[32, 32, 32]", "16", "{a: 1}"])
def test_a_run_whose_size_is_damaged_is_refused(run, tmp_path, size):
    copy = shutil.copytree(run, tmp_path / "copy")
    path = copy / ".hydra" / "config.yaml"
    path.write_text(re.sub(r"  size:\n  - 32\n  - 48\n", f"  size: {size}\n", path.read_text()))
    with pytest.raises(ValueError, match=r"data\.size="):
        fcnseg.load(copy)


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="device=toaster"):
        Segmenter(Colours(), THREE, 32).to("toaster")


def test_neither_hydra_nor_lightning_is_imported(run):
    code = f"import sys, fcnseg; fcnseg.load({str(run)!r}); print({{'hydra', 'lightning', 'torchmetrics'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
