import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fcnseg.data import voc
from fcnseg.data.batch import Batch
from fcnseg.data.dataset import VOID
from fcnseg.learning import losses
from fcnseg.learning.divided_task import train_on
from fcnseg.learning.losses import OHEM, CrossEntropy, Dice, Focal, Loss, Lovasz, Sum, class_weights

# Counted from the official masks of VOC-2012's train set: 21 classes, void counted as background.
VOC_TRAIN = torch.tensor([
    182014429 + 14335564, 1780580, 758311, 2232247, 1514260, 1517186, 4375622, 3494749, 6752515, 2861091, 2060925,
    3381632, 4344951, 2283739, 2888641, 11995853, 1670340, 2254463, 3612229, 3984238, 2349235,
])  # fmt: skip
# Three classes, 6, 3 and 1 of 10 pixels, so w = (0.4, 0.7, 0.9).
TINY = torch.tensor([6, 3, 1])

LOSSES = {
    "plain": partial(CrossEntropy, weighted=False),
    "weighted": partial(CrossEntropy, weighted=True),
    "smoothed": partial(CrossEntropy, weighted=False, label_smoothing=0.1),
    "weighted, smoothed": partial(CrossEntropy, weighted=True, label_smoothing=0.1),
    "focal": partial(Focal, gamma=2.0),
    "focal with a root": partial(Focal, gamma=0.5),
    "ohem": partial(OHEM, share=0.25),
    "dice": Dice,
    "lovasz": Lovasz,
}
LOSSES["sum"] = partial(
    Sum, terms={name: {"weight": weight, "loss": LOSSES[name]} for name, weight in (("weighted", 0.5), ("dice", 2.0))}
)


def test_no_loss_is_left_out():
    tested = {make.func if isinstance(make, partial) else make for make in LOSSES.values()}
    there = {value for value in vars(losses).values() if isinstance(value, type) and issubclass(value, Loss)}
    assert tested == {*there, Sum} - {Loss}


@pytest.fixture(params=LOSSES)
def loss(request):
    return LOSSES[request.param](VOC_TRAIN)


def batch(num_classes=21, size=9):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, num_classes, size, size + 1, generator=generator)
    mask = torch.randint(num_classes + 3, (2, size, size + 1), generator=generator).to(torch.uint8)
    return logits, torch.where(mask < num_classes, mask, voc.VOID)


def test_class_weights_by_hand():
    assert class_weights(TINY).tolist() == pytest.approx([0.4, 0.7, 0.9])
    assert class_weights(TINY).dtype == torch.float32
    assert TINY.tolist() == [6, 3, 1]  # left as they were


def test_class_weights_of_voc():
    weights = dict(zip(voc.CLASSES, class_weights(VOC_TRAIN).tolist(), strict=True))
    assert weights["background"] == pytest.approx(0.25189, abs=5e-6)
    assert weights["person"] == pytest.approx(0.95430, abs=5e-6)
    assert weights["bicycle"] == pytest.approx(0.99711, abs=5e-6)
    assert sum(weights.values()) == pytest.approx(20)


def test_class_weights_of_no_pixel_are_one():
    assert class_weights(torch.zeros(3, dtype=torch.long)).tolist() == [1, 1, 1]


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


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradient_are_torchs(weighted, smoothing):
    logits, mask = batch()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = CrossEntropy(VOC_TRAIN, weighted=weighted, label_smoothing=smoothing)(ours, mask)
    weight = class_weights(VOC_TRAIN) if weighted else None
    wanted = nn.CrossEntropyLoss(weight=weight, ignore_index=255, label_smoothing=smoothing)(theirs, mask.long())
    loss.backward()
    wanted.backward()
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(ours.grad, theirs.grad)


# Three labelled pixels and a void one, with three classes. The softmax's rows are, of pixels with the classes 0, 0, 1:
# (1/2, 1/4, 1/4), (1/4, 1/2, 1/4), (1/4, 1/2, 1/4); class 2 is absent.
# Label smoothing 0.3: 0.7 of -log p of the class and 0.1 of -log p of each class, whose sum is log 32 in each row.
# Focal, gamma 2: (1/2)^2 log 2, (3/4)^2 log 4, (1/2)^2 log 2. OHEM: half of 3 is 2 pixels, log 4 and log 2.
# Dice, class 0: 2 (3/4) / (1 + 2), class 1: 2 (1/2) / (5/4 + 1).
# Lovasz, class 0: errors 3/4 (true), 1/2 (true), 1/4: Jaccard losses 1/2, 1, 1, so 3/4 1/2 + 1/2 1/2.
#         class 1: errors 1/2 (true) and 1/2 in either order, 1/4: true first 1, 1, 1, so 1/2 1 + 0; last 1/2, 1: the same.
@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (LOSSES["plain"], math.log(16) / 3),
        (partial(CrossEntropy, weighted=False, label_smoothing=0.3), 0.7 * math.log(16) / 3 + 0.1 * math.log(32)),
        (partial(Focal, gamma=2.0), (math.log(2) / 2 + 9 / 8 * math.log(2)) / 3),
        (partial(Focal, gamma=0.0), math.log(16) / 3),
        (partial(OHEM, share=0.5), math.log(8) / 2),
        (partial(OHEM, share=1.0), math.log(16) / 3),
        (Dice, 1 - (1 / 2 + 4 / 9) / 2),
        (Lovasz, (5 / 8 + 1 / 2) / 2),
        (
            partial(Sum, terms={"a": {"weight": 0.5, "loss": Dice}, "b": {"weight": 2.0, "loss": Lovasz}}),
            0.5 * (1 - (1 / 2 + 4 / 9) / 2) + 2 * (5 / 8 + 1 / 2) / 2,
        ),
    ],
)
def test_four_pixels_by_hand(make, wanted):
    p = torch.tensor([[2, 1, 1], [1, 2, 1], [1, 2, 1], [9, 3, 7]]) / 4
    logits, mask = p.log().T.view(1, 3, 2, 2), torch.tensor([[[0, 0], [1, 255]]], dtype=torch.uint8)
    assert make(TINY)(logits, mask).item() == pytest.approx(wanted)


def softmax_rows(logits, mask):
    """The softmax and the label of every labelled pixel, in float64."""
    rows = logits.double().numpy().transpose(0, 2, 3, 1).reshape(-1, logits.shape[1])
    p = np.exp(rows) / np.exp(rows).sum(1, keepdims=True)
    return p[(labelled := mask.numpy().ravel() != voc.VOID)], mask.numpy().ravel()[labelled]


def slow_cross_entropy(p, labels, smoothing=0.0):
    return np.mean(
        [-(1 - smoothing) * np.log(row[label]) - smoothing * np.log(row).mean() for row, label in zip(p, labels, strict=True)]
    )


def slow_focal(p, labels, gamma):
    return np.mean([-((1 - row[label]) ** gamma) * np.log(row[label]) for row, label in zip(p, labels, strict=True)])


def slow_ohem(p, labels, share):
    losses = sorted((-np.log(row[label]) for row, label in zip(p, labels, strict=True)), reverse=True)
    return np.mean(losses[: math.ceil(share * len(losses))])


def slow_dice(p, labels):
    return np.mean([1 - 2 * p[labels == c, c].sum() / (p[:, c].sum() + (labels == c).sum()) for c in np.unique(labels)])


def slow_lovasz(p, labels):
    """By the definition: the pixels become wrong one by one, the largest error first."""
    means = []
    for c in np.unique(labels):
        errors = np.abs((labels == c) - p[:, c])
        total, before, wrong = 0.0, 0.0, np.zeros(len(labels), dtype=bool)
        for pixel in np.argsort(-errors):
            wrong[pixel] = True
            predicted = (labels == c) ^ wrong
            jaccard = 1 - (predicted & (labels == c)).sum() / (predicted | (labels == c)).sum()
            total, before = total + errors[pixel] * (jaccard - before), jaccard
        means.append(total)
    return np.mean(means)


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize(
    ("name", "slow"),
    {
        "plain": slow_cross_entropy,
        "smoothed": partial(slow_cross_entropy, smoothing=0.1),
        "focal": partial(slow_focal, gamma=2.0),
        "focal with a root": partial(slow_focal, gamma=0.5),
        "ohem": partial(slow_ohem, share=0.25),
        "dice": slow_dice,
        "lovasz": slow_lovasz,
    }.items(),
)
def test_a_slow_twin_agrees(name, slow, absent):
    logits, mask = batch(size=12)
    if absent:
        mask[(mask > 4) & (mask < 9)] = 2
    assert LOSSES[name](VOC_TRAIN)(logits, mask).item() == pytest.approx(slow(*softmax_rows(logits, mask)), rel=1e-5)


@pytest.mark.parametrize("name", ["dice", "lovasz"])
def test_what_is_predicted_of_an_absent_class_does_not_matter_to_the_mean(name):
    """The other classes' losses count as before, though the absent one takes their probability."""
    logits, mask = torch.zeros(1, 3, 1, 2), torch.tensor([[[0, 1]]], dtype=torch.uint8)
    logits[0, 0, 0, 0] = logits[0, 1, 0, 1] = 50.0
    assert LOSSES[name](TINY)(logits, mask).item() == pytest.approx(0, abs=1e-6)  # 1/3 if class 2 counted as wrong


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (partial(CrossEntropy, weighted=False, label_smoothing=1.5), r"label_smoothing=1\.5: wanted .* 0 to 1"),
        (partial(Focal, gamma=-1.0), r"gamma=-1\.0: wanted a number from 0 up"),
        (partial(OHEM, share=0.0), r"share=0\.0: wanted a number from 0\.001 to 1"),
    ],
)
def test_settings_out_of_their_range_are_refused(make, told):
    with pytest.raises(ValueError, match=told):
        make(TINY)


def test_void_pixels_do_not_matter(loss):
    logits, mask = batch()
    void = (mask == voc.VOID)[:, None]
    assert void.any()
    logits.requires_grad_()
    wanted = loss(logits, mask)
    wanted.backward()
    assert not logits.grad.masked_select(void).any()
    assert torch.equal(loss(torch.where(void, 100 * torch.randn_like(logits), logits), mask), wanted)


def test_a_batch_of_void_gives_zero_and_no_gradient(loss):
    logits, mask = batch()
    logits.requires_grad_()
    found = loss(logits, torch.full_like(mask, voc.VOID))
    found.backward()
    assert found.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_a_sure_network_has_finite_gradients(loss):
    _, mask = batch()
    sure = 1e4 * (mask[:, None] == torch.arange(21)[:, None, None]).float()
    for leaf in (sure.requires_grad_(), (-sure).detach().requires_grad_()):
        found = loss(leaf, mask)
        found.backward()
        assert found.isfinite()
        assert leaf.grad.isfinite().all()


def test_memory_format_does_not_matter(loss):
    logits, mask = batch()
    assert torch.equal(loss(logits.contiguous(memory_format=torch.channels_last), mask), loss(logits, mask))


def test_deterministic_mode(loss, deterministic):
    logits, mask = batch()
    gradients = []
    for _ in "12":
        leaf = logits.clone().requires_grad_()
        loss(leaf, mask).backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_single_precision(dtype, loss):
    logits, mask = batch(size=60)
    low = logits.to(dtype).requires_grad_()
    found = loss(low, mask)
    found.backward()
    assert found.dtype == torch.float32
    assert torch.equal(found, loss(logits.to(dtype).float(), mask))
    assert low.grad.dtype == dtype
    assert low.grad.any()


@pytest.mark.parametrize(("name", "key"), [("weighted", "weight"), ("sum", "losses.weighted.weight")])
def test_the_weights_go_where_the_loss_goes(name, key):
    loss = LOSSES[name](VOC_TRAIN)
    assert torch.equal(loss.state_dict()[key], class_weights(VOC_TRAIN))
    assert loss.to("meta").state_dict()[key].device.type == "meta"


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("ohem", "dice", "lovasz", "sum")])
def test_parts_of_a_batch_counted_by_their_size_are_the_whole(name):
    """Of several devices, of which each has a part with more or less void in it."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 21, 8, 8, generator=generator, requires_grad=True)
    mask = torch.randint(0, 21, (4, 8, 8), generator=generator, dtype=torch.uint8)
    mask[2:, 2:] = VOID
    loss = LOSSES[name](VOC_TRAIN)
    (wanted,) = torch.autograd.grad(loss(logits, mask), logits)
    sizes = [losses.divisor(loss, part) for part in mask.split(2)]
    parts = zip(logits.split(2), mask.split(2), sizes, strict=True)
    total = sum(loss(*part) * size / sum(sizes) for *part, size in parts)
    torch.testing.assert_close(total, loss(logits, mask))
    torch.testing.assert_close(torch.autograd.grad(total, logits)[0], wanted)
    assert sizes[0] > 2 * sizes[1] > 0


def test_a_sum_s_batch_of_void_counts_nothing_in_parts():
    """However large its weights are: a divisor of 0 is not divided by."""
    loss = Sum(VOC_TRAIN, terms={"weighted": {"weight": 100.0, "loss": LOSSES["weighted"]}})
    logits, mask = batch(size=8)
    net = nn.Conv2d(21, 21, 1)
    void = Batch(logits, torch.full_like(mask, VOID), None)
    last, value = train_on(void, 2, net=net, loss=loss, backward=lambda part, _: part.backward())
    last.backward()
    assert (last.item(), value.item()) == (0, 0)
    assert not any(each.grad.any() for each in net.parameters())


def test_the_parts_of_a_sum_s_batch_count_by_the_size_that_each_loss_has():
    """Weighted cross-entropy divides by weights, and focal loss by pixels."""
    inner = partial(Sum, terms={"plain": {"weight": 2.0, "loss": LOSSES["plain"]}})
    makes = {"weighted": (1.0, LOSSES["weighted"]), "focal": (3.0, Focal), "inner": (0.5, inner)}
    loss = Sum(VOC_TRAIN, terms={name: {"weight": weight, "loss": make} for name, (weight, make) in makes.items()})
    logits, mask = batch(size=8)
    mask[1:, 2:] = VOID
    net = nn.Conv2d(21, 21, 1)
    wanted = loss(net(logits), mask)
    gradients = torch.autograd.grad(wanted, [*net.parameters()])
    last, value = train_on(Batch(logits, mask, None), 2, net=net, loss=loss, backward=lambda part, _: part.backward())
    last.backward()
    torch.testing.assert_close(value, wanted.detach())
    torch.testing.assert_close([each.grad for each in net.parameters()], [*gradients])


class Halved(Sum):
    """A sum that adds up in its own way."""

    def forward(self, logits, mask):
        return super().forward(logits, mask) / 2


class MeanOfImages(nn.Module):
    """A loss of one's own whose divisor is no tensor."""

    def __init__(self, class_pixels):
        super().__init__()

    def forward(self, logits, mask):
        pairs = zip(logits.split(1), mask.long().split(1), strict=True)
        return torch.stack([F.cross_entropy(*pair, ignore_index=VOID) for pair in pairs]).mean()

    def divisor(self, mask):
        return len(mask)


@pytest.mark.parametrize("make", [partial(Halved, terms={"plain": {"weight": 1.0, "loss": LOSSES["plain"]}}), MeanOfImages])
def test_a_loss_of_one_s_own_is_the_same_in_parts(make):
    logits, mask = batch(size=8)
    mask[1:, 2:] = VOID
    loss, net = make(VOC_TRAIN), nn.Conv2d(21, 21, 1)
    wanted = loss(net(logits), mask).detach()
    _, value = train_on(Batch(logits, mask, None), 2, net=net, loss=loss, backward=lambda part, _: part.backward())
    torch.testing.assert_close(value, wanted)


def test_a_stored_sum_may_have_a_weight_of_0():
    """Earlier versions trained such runs, which are tested again; a command may not ask for one."""
    terms = {"plain": {"weight": 1.0, "loss": LOSSES["plain"]}, "focal": {"weight": 0.0, "loss": LOSSES["focal"]}}
    logits, mask = batch(size=8)
    assert Sum(VOC_TRAIN, terms=terms)(logits, mask) == LOSSES["plain"](VOC_TRAIN)(logits, mask)
