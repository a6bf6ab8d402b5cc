"""What the test finds out about every image, held against NumPy loops."""

import json
import shutil
import zipfile
from math import hypot

import numpy as np
import pytest
import torch

from fcnseg.data.batch import Batch
from fcnseg.data.dataset import Classes
from fcnseg.evaluate import evaluate
from fcnseg.learning.image_metrics import BINS, TEMPERATURE, UNIT, DetailedMetrics, boundaries, calibration, softmin
from fcnseg.names import PER_IMAGE
from fcnseg.results.per_image import PerImage
from fcnseg.runs.folder import Run

N, H, W = 3, 40, 60


def drawn(num_classes, seed=0):
    """Logits, prediction and mask of blocks, with void in the first image and nothing labelled in the last."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.randint(0, num_classes, (N, H // 10, W // 10), generator=generator).repeat_interleave(10, 1)
    mask = mask.repeat_interleave(10, 2).to(torch.uint8)
    mask[0, 5:9, 7:20] = 255
    mask[2] = 255
    logits = torch.randn(N, num_classes, H, W, generator=generator) * 3
    for label in range(num_classes):
        logits[:, label] += 3 * (mask == label)
    return logits, logits.argmax(1), mask


def probabilities(logits):
    numbers = logits.double().numpy()
    powers = np.exp(numbers - numbers.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_calibration_is_numpys(num_classes):
    logits, prediction, mask = drawn(num_classes)
    found, confidence = calibration(logits, mask).numpy(), probabilities(logits).max(1)
    for n in range(N):
        for number in range(BINS):
            low, high = number / BINS, (number + 1) / BINS
            inside = (mask[n].numpy() != 255) & (confidence[n] >= low) & (confidence[n] < high)
            right = inside & (prediction[n] == mask[n]).numpy()
            assert found[n, number, 0] == inside.sum()
            assert found[n, number, 1] / UNIT == pytest.approx(confidence[n][inside].sum(), abs=1e-3)
            assert found[n, number, 2] == right.sum()


def test_a_certain_pixel_is_in_the_last_bin_and_nan_in_the_first():
    logits = torch.zeros(1, 2, 1, 2)
    logits[0, 1, 0, 0], logits[0, :, 0, 1] = 200, torch.nan
    assert calibration(logits, torch.ones(1, 1, 2, dtype=torch.uint8))[0, :, 0].tolist() == [1, *[0] * 13, 1]


@pytest.mark.parametrize("num_classes", [2, 5])
def test_softmin_is_numpys(num_classes):
    logits, _, mask = drawn(num_classes)
    found = softmin(logits, mask)
    for n in range(N - 1):
        labelled = (mask[n] != 255).numpy()
        rows, columns = labelled.nonzero()
        given = probabilities(logits)[n][mask[n].numpy()[labelled], rows, columns]
        weights = np.exp((1 - given) / TEMPERATURE)
        assert found[n].item() == pytest.approx((weights * given).sum() / weights.sum(), rel=1e-4)
    assert found[-1].isnan()  # nothing is labelled


@pytest.mark.parametrize("num_classes", [2, 5])
def test_boundaries_are_numpys(num_classes):
    _, prediction, mask = drawn(num_classes)
    near, found = boundaries(prediction, mask, num_classes)
    reach = round(0.02 * hypot(H, W))

    def near_others(labels):
        window = [
            [labels[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1] for x in range(W)] for y in range(H)
        ]
        return np.array([[(around != labels[y, x]).any() for x, around in enumerate(row)] for y, row in enumerate(window)])

    for n in range(N):
        truth, guess = mask[n].numpy(), prediction[n].numpy()
        labelled, of_truth, of_guess = truth != 255, near_others(truth), near_others(guess)
        assert near[n].tolist() == [(of_truth & labelled).sum(), (of_truth & labelled & (truth != guess)).sum()]
        for label in range(num_classes):
            one, other = (of_truth & labelled & (truth == label)), (of_guess & labelled & (guess == label))
            assert found[n, label].tolist() == [(one & other).sum(), one.sum(), other.sum()]


def test_nothing_of_a_device_is_float64():
    metrics = DetailedMetrics(Classes(("a", "b"), ((0, 0, 0), (9, 9, 9)), None))
    logits, prediction, mask = drawn(2)
    metrics.add(logits.bfloat16(), prediction, Batch(torch.empty(0), mask, torch.empty(0)))
    states = [*metrics.calibration, *metrics.softmin, *metrics.near, *metrics.boundary]
    assert {state.dtype for state in states} == {torch.int64, torch.float32}


@pytest.fixture(scope="module")
def run(train_in, tmp_path_factory):
    return Run(train_in(tmp_path_factory.mktemp("runs")))


def test_a_run_leaves_its_images_and_its_calibration(run):
    found, result = run.per_image, run.result
    size = len(result["classes"]["names"])
    matrix = np.zeros((size + 1, size), dtype=int)
    np.add.at(matrix, (found.cells[:, 1], found.cells[:, 2]), found.cells[:, 3])
    assert matrix.tolist() == result["confusion"]
    assert len(found.names) == len(set(found.names)) == result["images"]["test"] == 4
    for name in ("pixels", "right"):
        assert getattr(found, name).sum(0).tolist() == result["calibration"][name]
    pixels, confidence, right = (np.array(result["calibration"][key]) for key in ("pixels", "confidence", "right"))
    assert found.confidence.sum(0) == pytest.approx(confidence, rel=1e-4)
    gaps = [n / pixels.sum() * abs(sure / n - hits / n) for n, sure, hits in zip(pixels, confidence, right, strict=True) if n]
    assert result["calibration"]["error"] == pytest.approx(sum(gaps))
    assert pixels.sum() == matrix[:-1].sum()
    assert right.sum() == matrix[:-1].trace()
    assert not (run.path / "images.npz").stat().st_mode & 0o111


def test_evaluate_writes_them_anew_and_beside_its_own(command, run):
    then = run.per_image
    (run.path / PER_IMAGE).unlink()
    assert run.per_image is None
    assert command(evaluate, f"run={run.path}").code == 0
    for name in vars(then):
        assert np.array_equal(getattr(run.per_image, name), getattr(then, name)), name
    assert command(evaluate, f"run={run.path}", "at=original").code == 0
    (path,) = (run.path / "evaluations").glob("*.json")
    beside = PerImage.read(path.with_suffix(f".{PER_IMAGE}"))
    confusion = np.array(json.loads(path.read_text())["confusion"])
    assert beside.cells[:, 3].sum() == confusion.sum() != then.cells[:, 3].sum()


def test_a_test_that_was_not_finite_leaves_none(command, run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    stored = torch.load(best, weights_only=True)
    for name, value in stored["state_dict"].items():
        if name.startswith("net.") and value.is_floating_point():
            value.fill_(torch.nan)
    torch.save(stored, best)
    (tmp_path / "run" / PER_IMAGE).unlink()
    outcome = command(evaluate, "run=run", "verify=false")
    assert outcome.code == 0, outcome.err
    assert Run(tmp_path / "run").per_image is None


@pytest.mark.parametrize("name", ["names", "cells", "pixels", "boundary", "softmin"])
def test_arrays_that_do_not_go_together_are_refused(run, tmp_path, name):
    arrays = {key: getattr(run.per_image, key) for key in vars(run.per_image)}
    for wrong in (arrays[name][:-1, ...] if name != "cells" else arrays[name] + 99, np.zeros(3, complex), np.array(7)):
        np.savez(tmp_path / "images.npz", **{**arrays, name: wrong})
        with pytest.raises(ValueError, match=r"images.npz is damaged \((?!not enough)"):
            PerImage.read(tmp_path / "images.npz")


@pytest.mark.parametrize("damage", ["cut", "text", "pickled", "folder", "lacking", "large"])
def test_a_damaged_file_is_refused(run, tmp_path, damage):
    path, whole = tmp_path / "images.npz", (run.path / "images.npz").read_bytes()
    if damage in ("cut", "text"):
        path.write_bytes(whole[:900] if damage == "cut" else b"no archive")
    elif damage == "folder":
        path.mkdir()
    elif damage == "large":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("names.npy", "w") as file:
            for _ in range(300):
                file.write(bytes(1 << 20))
    else:
        arrays = {key: getattr(run.per_image, key) for key in vars(run.per_image) if damage == "pickled" or key != "near"}
        arrays["names"] = arrays["names"].astype(object) if damage == "pickled" else arrays["names"]
        np.savez(path, **arrays)
    with pytest.raises(ValueError, match=r"images.npz is damaged"):
        PerImage.read(path)
