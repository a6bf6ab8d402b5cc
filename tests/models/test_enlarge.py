"""Tests of enlarged logits against PyTorch's own interpolation of all of them."""

import pytest
import torch
from torch.nn import functional as F

from fcnseg.models import enlarge

SIZES = [
    ((21, 24, 24), (75, 100)),
    ((3, 32, 48), (20, 17)),
    ((2, 40, 33), (333, 20)),
    ((5, 1, 1), (4, 3)),
    ((2, 7, 9), (7, 9)),
]


def smooth(classes, height, width):
    torch.manual_seed(0)
    return F.interpolate(torch.randn(1, classes, 5, 5), (height, width), mode="bicubic")[0] * 5


@pytest.mark.parametrize(("old", "new"), SIZES)
@pytest.mark.parametrize("make", [smooth, torch.randn])
@pytest.mark.parametrize("band", [2**20, 50])
def test_labels_and_scores_are_those_of_all_logits_enlarged(monkeypatch, old, new, make, band):
    monkeypatch.setattr(enlarge, "BAND", band)
    logits = make(*old)
    whole = F.interpolate(logits[None].double(), new, mode="bilinear")[0]
    labels, scores = enlarge.labels(logits, *new), enlarge.scores(logits, *new)
    assert labels.dtype == torch.uint8
    assert torch.equal(labels, whole.argmax(0).byte())
    assert scores == pytest.approx(whole.softmax(0).amax(0).float(), abs=1e-5)
