import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from fcnseg.data.dataset import Classes
from fcnseg.learning.metrics import (
    RunningMean,
    SegmentationMetrics,
    accuracy,
    confusion,
    everywhere,
    iou_per_class,
    scores,
)
from fcnseg.names import PAPER_SCORES

CLASSES = 21
V = 255


def classes(number):
    return Classes(tuple(map(str, range(number))), ((0, 0, 0),) * number, 0)


def labels(*images):
    return torch.tensor(images, dtype=torch.uint8)


# One image of 2x4 and 4 classes. Labelled pixels as (truth, prediction): (0,0) (0,0) (0,1) (1,1) (1,2) (1,0); void: one
# predicted 1, one predicted 0. Class 3 is nowhere, class 2 is predicted alone.
TRUTH = labels([[0, 0, 0, 1], [1, 1, V, V]])
PREDICTION = labels([[0, 0, 1, 1], [2, 0, 1, 0]]).long()
MATRIX = [[2, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]]


def test_confusion_by_hand():
    matrices = confusion(PREDICTION, TRUTH, 4)
    assert matrices.dtype == torch.int64
    assert matrices.tolist() == [MATRIX]


def test_confusion_keeps_images_apart():
    both = confusion(torch.cat([PREDICTION, TRUTH.long() % V]), torch.cat([TRUTH, TRUTH]), 4)
    assert both[0].tolist() == MATRIX
    assert both[1].tolist() == [[3, 0, 0, 0], [0, 3, 0, 0], [0] * 4, [0] * 4, [2, 0, 0, 0]]


def test_scores_by_hand():
    matrices = torch.tensor([MATRIX])
    # IoU: class 0: 2 / (3 + 3 - 2), class 1: 1 / (3 + 2 - 1), class 2: 0 / 1, class 3: 0 / 0
    torch.testing.assert_close(
        iou_per_class(matrices[0, :4]), torch.tensor([1 / 2, 1 / 4, 0, math.nan]).double(), equal_nan=True
    )
    assert accuracy(matrices[0, :4]).item() == 3 / 6
    found = {name: score.item() for name, score in scores(matrices, 0).items()}
    assert found == pytest.approx({
        "miou": (1 / 2 + 1 / 4 + 0) / 3,
        "pixel_acc": 3 / 6,
        "mean_acc": (2 / 3 + 1 / 3) / 2,  # the recalls of the classes in the truth
        # Void becomes background: row 0 is 3, 2, 0. IoU: 3 / (5 + 4 - 3), 1 / (3 + 3 - 1), 0 / 1.
        "paper_iou": (3 / 6 + 1 / 5 + 0) / 3,
        "paper_acc": 4 / 8,
    })  # fmt: skip
    assert {score.dtype for score in scores(matrices, 0).values()} == {torch.float64}


def test_paper_scores_are_means_over_batches_of_16():
    right = confusion(torch.zeros(1, 2, 2).long(), torch.zeros(1, 2, 2).byte(), 2)
    wrong = confusion(torch.ones(1, 2, 2).long(), torch.zeros(1, 2, 2).byte(), 2)
    # Batch 1: 12 right and 4 wrong images: accuracy 3/4, IoU (3/4 + 0) / 2. Batch 2: one right image: 1 and 1.
    found = scores(torch.cat([*[right] * 12, *[wrong] * 4, right]), 0)
    assert found["paper_acc"].item() == (3 / 4 + 1) / 2
    assert found["paper_iou"].item() == (3 / 8 + 1) / 2
    assert found["pixel_acc"].item() == pytest.approx(13 / 17)
    assert found["miou"].item() == pytest.approx(13 / 17 / 2)


def slow(prediction, truth):
    """The definitions, pixel set by pixel set."""

    def ious(p, t):
        sets = [(p == c, t == c) for c in range(CLASSES)]
        return [(a & b).sum() / (a | b).sum() for a, b in sets if (a | b).any()]

    p, t = prediction[truth != V], truth[truth != V]
    recalls = [(p[t == c] == c).mean() for c in range(CLASSES) if (t == c).any()]
    filled = np.where(truth == V, 0, truth)
    batches = [(prediction[i : i + 16], filled[i : i + 16]) for i in range(0, len(truth), 16)]
    mean = lambda values: np.mean(values) if len(values) else math.nan  # noqa: E731
    return {
        "miou": mean(ious(p, t)),
        "pixel_acc": mean(p == t),
        "mean_acc": mean(recalls),
        "paper_iou": mean([mean(ious(*batch)) for batch in batches]),
        "paper_acc": mean([mean(a == b) for a, b in batches]),
    }


@st.composite
def masks(draw):
    """Predictions and truths of 1 to 40 images, few classes in each as in photographs, with void."""
    n, seed = draw(st.integers(1, 40)), draw(st.integers(0, 2**32 - 1))
    present = draw(st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=6))
    rng = np.random.default_rng(seed)
    shape = (n, draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    return rng.choice(present, shape), rng.choice([*present, V], shape).astype(np.uint8)


def of_batches(prediction, truth, size):
    metrics = SegmentationMetrics(classes(CLASSES))
    for p, t in zip(torch.tensor(prediction).split(size), torch.tensor(truth).split(size), strict=True):
        metrics.update(p, t)
    return {name: score.item() for name, score in metrics.compute().items()}


@settings(max_examples=60, deadline=None)
@given(masks=masks(), size=st.integers(1, 41))
def test_scores_are_the_slow_ones_whatever_the_batches(masks, size):
    assert of_batches(*masks, size) == pytest.approx(slow(*masks), nan_ok=True)


@settings(max_examples=20, deadline=None)
@given(masks=masks())
def test_scores_are_torchmetrics(masks):
    prediction, truth = map(torch.tensor, masks)
    if (truth == V).all():
        return  # torchmetrics says 0
    found = of_batches(*masks, 7)
    jaccard = MulticlassJaccardIndex(CLASSES, ignore_index=V)(prediction, truth.long())
    share = MulticlassAccuracy(CLASSES, average="micro", ignore_index=V)(prediction, truth.long())
    assert found["miou"] == pytest.approx(jaccard.item(), abs=1e-6)
    assert found["pixel_acc"] == pytest.approx(share.item(), abs=1e-6)


def test_everywhere_is_the_prediction_of_one_class():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(CLASSES + 1, (20, 5, 5), generator=generator)
    truth = torch.where(truth == CLASSES, V, truth).byte()
    prediction = torch.randint(CLASSES, (20, 5, 5), generator=generator)
    matrices = confusion(prediction, truth, CLASSES)
    for label in (0, 7):
        one = torch.full_like(prediction, label)
        assert torch.equal(everywhere(label, matrices), confusion(one, truth, CLASSES))
    assert matrices[..., 1:].any()  # left as they were


def test_the_floor_of_vocs_val():
    """Background is 73.318 % of val's labelled pixels and all 21 classes occur: mIoU 0.73318 / 21."""
    matrices = torch.zeros(1, 22, 21, dtype=torch.int64)
    matrices[0, :21, 5] = torch.tensor([73318, *[1334] * 19, 1336])
    matrices[0, 21, 7] = 5810  # 5.49 % void
    found = scores(everywhere(0, matrices), 0)
    assert found["pixel_acc"].item() == pytest.approx(0.73318)
    assert found["miou"].item() == pytest.approx(0.0349, abs=5e-5)
    assert found["mean_acc"].item() == pytest.approx(1 / 21)
    assert found["paper_acc"].item() == pytest.approx(0.748, abs=5e-4)


def test_where_nothing_is_labelled_vocs_scores_are_nan():
    found = scores(confusion(torch.zeros(2, 3, 3).long(), torch.full((2, 3, 3), V).byte(), CLASSES), 0)
    assert {name for name, score in found.items() if score.isnan()} == {"miou", "pixel_acc", "mean_acc"}
    assert found["paper_iou"] == found["paper_acc"] == 1  # void is background there


def test_metrics_keep_the_order_and_forget_on_reset():
    metrics = SegmentationMetrics(classes(4))
    metrics.update(PREDICTION, TRUTH)
    metrics.update(TRUTH.long() % V, TRUTH)
    assert metrics.all_matrices().shape == (2, 5, 4)
    assert metrics.all_matrices()[0].tolist() == MATRIX
    metrics.reset()
    metrics.update(TRUTH.long() % V, TRUTH)
    assert metrics.compute()["miou"] == 1
    assert len(metrics.all_matrices()) == 1


def test_running_mean_is_weighted_and_pop_starts_again():
    mean = RunningMean()
    assert mean.pop().isnan()
    mean.add(torch.tensor(1.0), 3)
    mean.add(torch.tensor(5.0, requires_grad=True), 1)
    popped = mean.pop()
    mean.add(torch.tensor(7.0), 2)
    assert popped.item() == 2  # (3 * 1 + 1 * 5) / 4
    assert mean.pop().item() == 7
    assert mean.pop().isnan()


def test_running_mean_goes_on_from_its_state():
    mean, other = RunningMean(), RunningMean()
    mean.add(torch.tensor(1.0), 3)
    other.load_state_dict(copy.deepcopy(mean.state_dict()))
    other.add(torch.tensor(5.0), 1)
    assert other.pop().item() == 2
    assert mean.pop().item() == 1


def test_running_mean_sums_in_double_precision():
    mean = RunningMean()
    for value in (2.0**25, 1.0):
        mean.add(torch.tensor(value), 1)
    assert mean.pop().item() == (2**25 + 1) / 2


@pytest.mark.parametrize("number", [2, 180, 181, 182, 254])
def test_confusion_of_up_to_254_classes_is_numpys(number):
    rng = np.random.default_rng(number)
    truth, prediction = rng.choice([*range(number), V], (2, 40, 50)), rng.integers(0, number, (2, 40, 50))
    truth[0, 0, :2], prediction[0, 0, :2] = [number - 1, V], number - 1  # the last cells
    found = confusion(torch.tensor(prediction), torch.tensor(truth).byte(), number)
    wanted = np.zeros((2, number + 1, number), dtype=int)
    for image in range(2):
        np.add.at(wanted[image], (np.minimum(truth[image], number), prediction[image]), 1)
    assert np.array_equal(found.numpy(), wanted)


# Ten pixels of two classes: truth 0 four times, of which 3 are right; truth 1 four times, of which 2 are; void twice, one of
# each prediction.
TWO = torch.tensor([[[3, 1], [2, 2], [1, 1]]])


def test_scores_of_two_classes_by_hand():
    found = {name: score.item() for name, score in scores(TWO, 0).items()}
    assert found == pytest.approx({
        "miou": (3 / 6 + 2 / 5) / 2,
        "pixel_acc": 5 / 8,
        "mean_acc": (3 / 4 + 2 / 4) / 2,
        "paper_iou": (4 / 8 + 2 / 6) / 2,  # row 0 is 4, 2 with void in it
        "paper_acc": 6 / 10,
    })  # fmt: skip
    other = {name: score.item() for name, score in scores(TWO, 1).items()}
    assert other["paper_iou"] == pytest.approx((3 / 7 + 3 / 7) / 2)  # with background 1, row 1 is 3, 3
    floor = {name: score.item() for name, score in scores(everywhere(1, TWO), 0).items()}
    assert floor == pytest.approx(
        {"miou": 1 / 4, "pixel_acc": 1 / 2, "mean_acc": 1 / 2, "paper_iou": (0 + 4 / 10) / 2, "paper_acc": 4 / 10}
    )


def test_without_a_background_the_papers_scores_are_nan():
    found, beside = ({name: score.item() for name, score in scores(TWO, kind).items()} for kind in (None, 0))
    assert {name for name, score in found.items() if math.isnan(score)} == set(PAPER_SCORES)
    assert all(found[name] == beside[name] for name in found.keys() - set(PAPER_SCORES))
