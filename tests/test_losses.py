import math

import pytest
import torch
from torch import nn

from fcnseg.data import voc
from fcnseg.losses import CrossEntropy, class_weights

# Counted from the official masks of VOC-2012's train set: 21 classes, then void.
VOC_TRAIN = torch.tensor([
    182014429, 1780580, 758311, 2232247, 1514260, 1517186, 4375622, 3494749, 6752515, 2861091, 2060925,
    3381632, 4344951, 2283739, 2888641, 11995853, 1670340, 2254463, 3612229, 3984238, 2349235, 14335564,
])  # fmt: skip
# Three classes and void: background and void 6 of 10, so w = (0.4, 0.7, 0.9).
TINY = torch.tensor([4, 3, 1, 2])


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def batch(num_classes=21, size=9):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, num_classes, size, size + 1, generator=generator)
    mask = torch.randint(num_classes + 3, (2, size, size + 1), generator=generator).to(torch.uint8)
    return logits, torch.where(mask < num_classes, mask, voc.VOID)


def test_class_weights_by_hand():
    assert class_weights(TINY).tolist() == pytest.approx([0.4, 0.7, 0.9])
    assert class_weights(TINY).dtype == torch.float32
    assert TINY.tolist() == [4, 3, 1, 2]  # left as they were


def test_class_weights_of_voc():
    weights = dict(zip(voc.CLASSES, class_weights(VOC_TRAIN).tolist(), strict=True))
    assert weights["background"] == pytest.approx(0.25189, abs=5e-6)
    assert weights["person"] == pytest.approx(0.95430, abs=5e-6)
    assert weights["bicycle"] == pytest.approx(0.99711, abs=5e-6)
    assert sum(weights.values()) == pytest.approx(20)


def test_class_weights_of_no_pixel_are_one():
    assert class_weights(torch.zeros(4, dtype=torch.long)).tolist() == [1, 1, 1]


# Pixel 1: equal logits, so -log p = log 3 for its class 2. Pixel 2: p = (1/2, 1/4, 1/4) and class 0: log 2. Pixel 3: void.
# Plain: (log 3 + log 2) / 2. Weighted: (0.9 log 3 + 0.4 log 2) / (0.9 + 0.4).
@pytest.mark.parametrize(
    ("weighted", "wanted"),
    [(False, math.log(6) / 2), (True, (0.9 * math.log(3) + 0.4 * math.log(2)) / 1.3)],
)
def test_three_pixels_by_hand(weighted, wanted):
    logits = torch.tensor([[0.0, 0, 0], [math.log(2), 0, 0], [7, -5, 3]]).T.view(1, 3, 1, 3)
    mask = torch.tensor([[[2, 0, 255]]], dtype=torch.uint8)
    loss = CrossEntropy(TINY, weighted=weighted)(logits, mask)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(wanted)


@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradient_are_torchs(weighted):
    logits, mask = batch()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = CrossEntropy(VOC_TRAIN, weighted=weighted)(ours, mask)
    weight = class_weights(VOC_TRAIN) if weighted else None
    wanted = nn.CrossEntropyLoss(weight=weight, ignore_index=255)(theirs, mask.long())
    loss.backward()
    wanted.backward()
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("weighted", [False, True])
def test_void_pixels_do_not_matter(weighted):
    logits, mask = batch()
    void = (mask == voc.VOID)[:, None]
    assert void.any()
    loss = CrossEntropy(VOC_TRAIN, weighted=weighted)
    logits.requires_grad_()
    wanted = loss(logits, mask)
    wanted.backward()
    assert not logits.grad.masked_select(void).any()
    assert torch.equal(loss(torch.where(void, 100 * torch.randn_like(logits), logits), mask), wanted)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_batch_of_void_gives_zero_and_no_gradient(weighted):
    logits, mask = batch()
    logits.requires_grad_()
    loss = CrossEntropy(VOC_TRAIN, weighted=weighted)(logits, torch.full_like(mask, voc.VOID))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("weighted", [False, True])
def test_memory_format_does_not_matter(weighted):
    logits, mask = batch()
    loss = CrossEntropy(VOC_TRAIN, weighted=weighted)
    assert torch.equal(loss(logits.contiguous(memory_format=torch.channels_last), mask), loss(logits, mask))


@pytest.mark.parametrize("weighted", [False, True])
def test_deterministic_mode(weighted, deterministic):
    logits, mask = batch()
    gradients = []
    for _ in "12":
        leaf = logits.clone().requires_grad_()
        CrossEntropy(VOC_TRAIN, weighted=weighted)(leaf, mask).backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_single_precision(dtype):
    logits, mask = batch(size=60)
    loss = CrossEntropy(VOC_TRAIN, weighted=True)
    low = logits.to(dtype).requires_grad_()
    found = loss(low, mask)
    found.backward()
    assert found.dtype == torch.float32
    assert torch.equal(found, loss(logits.to(dtype).float(), mask))
    assert low.grad.dtype == dtype
    assert low.grad.any()


def test_the_weights_go_where_the_loss_goes():
    loss = CrossEntropy(VOC_TRAIN, weighted=True)
    assert torch.equal(loss.state_dict()["weight"], class_weights(VOC_TRAIN))
    assert loss.to("meta").weight.device.type == "meta"
