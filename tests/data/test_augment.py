import pytest
import torch

from fcnseg.data.augment import Chain, EpochDraws, Flip, choose, draws

SAMPLES = torch.arange(100_000)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads spend more time waiting for one another than computing here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def batch(n=8):
    """Random masks, and images whose channels all repeat them, so that what happened to both can be compared."""
    mask = torch.randint(256, (n, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return mask[:, None].expand(-1, 3, -1, -1).contiguous(), mask


def drawn(seed, epoch, sample, times=1):
    draw = draws(seed, epoch, torch.as_tensor(sample))
    return torch.stack([draw() for _ in range(times)])


def test_an_epochs_draws_are_those_of_its_batches():
    made = EpochDraws(3, 2, 50, torch.device("cpu"))
    for sample in torch.randperm(50, generator=torch.Generator().manual_seed(0)).split(16):
        ours, wanted = made.of(sample), draws(3, 2, sample)
        assert all(torch.equal(ours(), wanted()) for _ in range(3))


@pytest.mark.parametrize("p", [{"horizontal": 0.5}, {"vertical": 0.5}, {"horizontal": 0.3, "vertical": 0.7}])
def test_image_and_mask_flip_together(p):
    image, mask = batch(64)
    flipped, labels = Flip(**p)(image, mask, draws(0, 0, torch.arange(64)))
    assert torch.equal(flipped, labels[:, None].expand_as(flipped))
    assert not torch.equal(labels, mask)
    assert flipped.dtype == labels.dtype == torch.uint8


@pytest.mark.parametrize(("horizontal", "vertical", "axes"), [(1, 0, [-1]), (0, 1, [-2]), (1, 1, [-1, -2])])
def test_a_certain_flip_and_twice_is_nothing(horizontal, vertical, axes):
    image, mask = batch()
    flip, draw = Flip(horizontal=horizontal, vertical=vertical), draws(0, 0, torch.arange(8))
    once = flip(image, mask, draw)
    assert torch.equal(once[0], image.flip(axes))
    assert torch.equal(once[1], mask.flip(axes))
    twice = flip(*once, draw)
    assert torch.equal(twice[0], image)
    assert torch.equal(twice[1], mask)


@pytest.mark.parametrize("augment", [Flip(horizontal=0, vertical=0), Chain()])
def test_no_flip(augment):
    image, mask = batch()
    found = augment(image, mask, draws(0, 0, torch.arange(8)))
    assert torch.equal(found[0], image)
    assert torch.equal(found[1], mask)


def test_each_sample_flips_on_its_own_and_the_axes_are_independent():
    mask = torch.tensor([[[1, 2], [3, 4]]], dtype=torch.uint8).expand(20_000, 2, 2)
    _, flipped = Flip()(mask[:, None].expand(-1, 3, -1, -1), mask, draws(0, 0, torch.arange(20_000)))
    corners = torch.bincount(flipped[:, 0, 0].long(), minlength=5)[1:] / 20_000  # 1: as it was, 2: horizontal, 3, 4: both
    assert corners.tolist() == pytest.approx([0.25] * 4, abs=0.015)


@pytest.mark.parametrize("p", [0.1, 0.9])
def test_the_probability_is_that_of_flipping(p):
    mask = torch.tensor([[[1, 2]]], dtype=torch.uint8).expand(20_000, 1, 2)
    _, flipped = Flip(horizontal=p, vertical=0)(mask[:, None], mask, draws(0, 0, torch.arange(20_000)))
    assert (flipped[:, 0, 0] == 2).float().mean().item() == pytest.approx(p, abs=0.01)


@pytest.mark.parametrize("shape", [(3, 5, 4), (5, 4)])
def test_choosing_is_where(shape):
    one, other = torch.randint(0, 256, (2, 16, *shape), dtype=torch.uint8)
    chosen = torch.rand(16) < 0.5
    wanted = torch.where(chosen.view(-1, *[1] * len(shape)), one, other)
    assert torch.equal(choose(chosen, one, other), wanted)


def test_a_sample_is_flipped_alike_in_any_batch():
    image, mask = batch(64)
    flip = Flip()
    _, wanted = flip(image, mask, draws(3, 2, torch.arange(64)))
    for part in torch.randperm(64).split(10):
        _, found = flip(image[part], mask[part], draws(3, 2, part))
        assert torch.equal(found, wanted[part])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_memory_format_stays(memory_format):
    image, mask = batch()
    flipped, _ = Flip()(image.contiguous(memory_format=memory_format), mask, draws(0, 0, torch.arange(8)))
    assert flipped.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("name", ["horizontal", "vertical"])
@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan")])
def test_no_probability(name, p):
    with pytest.raises(ValueError, match=f"^{name}={p}: wanted a number from 0 to 1"):
        Flip(**{name: p})


def test_draws_depend_on_seed_epoch_and_sample_alone():
    wanted = drawn(1, 2, SAMPLES[:50], times=3)
    order = torch.randperm(50)
    torch.manual_seed(123)
    assert torch.equal(drawn(1, 2, order, times=3), wanted[:, order])
    assert torch.equal(drawn(1, 2, [7], times=3), wanted[:, 7:8])


def plain_mix(x):
    for multiplier in (0x7FEB352D, 0x5BD1E995):
        x = (x ^ (x >> 16)) * multiplier % 2**32
    return x ^ (x >> 15)


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (2**32 - 1, 10_000), (2**40 + 3, 2)])
def test_draws_are_those_of_pythons_integers(seed, epoch):
    """Which have no sign and cannot overflow."""
    found = drawn(seed, epoch, SAMPLES[::1001], times=2)
    for column, sample in enumerate(SAMPLES[::1001].tolist()):
        state = plain_mix(plain_mix(plain_mix(seed % 2**32) ^ epoch) ^ sample)
        for row in range(2):
            state = plain_mix((state + 0x9E3779B9) % 2**32)
            assert found[row, column] == (state >> 8) / 2**24


def test_draws_are_the_same_for_ever():  # computed once with Python's integers
    assert (drawn(0, 0, [0, 1], times=2) * 2**24).tolist() == [[4767713, 1573494], [9654813, 15378236]]
    assert (drawn(42, 7, [5, 1463], times=2) * 2**24).tolist() == [[11301899, 12533013], [12936645, 2338617]]


@pytest.mark.parametrize("other", [(1, 0, 0), (0, 1, 0), (0, 0, 100_000), (2**31, 0, 0)])
def test_another_seed_epoch_or_sample_draws_independently(other):
    seed, epoch, shift = other
    one, two = drawn(0, 0, SAMPLES)[0], drawn(seed, epoch, SAMPLES + shift)[0]
    assert (one != two).float().mean() > 0.999
    assert correlation(one, two) < 0.02


def test_seed_and_epoch_do_not_stand_for_one_another():
    found = {tuple(drawn(seed, epoch, [sample], 2)[:, 0].tolist()) for seed, epoch, sample in torch.cartesian_prod(
        *[torch.arange(8)] * 3
    ).tolist()}  # fmt: skip
    assert len(found) == 8**3


def correlation(one, two):
    return torch.corrcoef(torch.stack([one, two]).double())[0, 1].abs()


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (42, 17)])
def test_draws_are_uniform(seed, epoch):
    for numbers in drawn(seed, epoch, SAMPLES, times=3):
        assert numbers.dtype == torch.float32
        assert numbers.min() >= 0
        assert numbers.max() < 1
        assert numbers.mean().item() == pytest.approx(1 / 2, abs=0.004)  # four standard errors
        assert numbers.var().item() == pytest.approx(1 / 12, abs=0.001)
        bins = torch.histc(numbers, 100, 0, 1)
        chi_square = (bins - 1000).square().sum() / 1000  # 99 degrees of freedom: 99 +- 14
        assert 50 < chi_square < 165


def test_draws_are_uncorrelated():
    one, two, three = drawn(0, 0, SAMPLES, times=3)
    neighbour = correlation(one[1:], one[:-1])
    assert max(correlation(one, two), correlation(two, three), correlation(one, three), neighbour) < 0.02


def test_a_chain_is_its_steps_one_after_the_other():
    def shift(image, mask, draw):
        return image + (9 * draw()[:, None, None, None]).byte(), mask

    image, mask = batch()
    draw = draws(0, 0, torch.arange(len(mask)))
    flipped = Flip()(image, mask, draw)
    wanted = shift(*flipped, draw)  # with the numbers that follow the flip's
    found = Chain(first=Flip(), then=shift)(image, mask, draws(0, 0, torch.arange(len(mask))))
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    swapped = Chain(then=shift, first=Flip())(image, mask, draws(0, 0, torch.arange(len(mask))))
    assert not torch.equal(swapped[0], wanted[0])
