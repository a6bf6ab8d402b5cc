"""Augmentations that change pixels: image and mask agree afterwards, values are torchvision's, only draws decide."""

from itertools import chain, repeat

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from fcnseg.cli.configs import CONF
from fcnseg.data.augment import draws
from fcnseg.data.dataset import MEAN, VOID
from fcnseg.data.mixing import ClassMix, CutMix, Cutout
from fcnseg.data.transforms import LUMA, Blur, Colour, Crop, colour_bases

SIDE = 48
GREY = [round(255 * mean) for mean in MEAN]
PER_SAMPLE = [Crop(size=SIDE), Crop(size=[20, 30]), Colour(), Blur(p=1), Cutout(p=1)]
MIXES = [CutMix(p=1), ClassMix(p=1)]
OF = {"ids": lambda augment: type(augment).__name__}


def given(*numbers):
    """Draws that give these numbers to all samples, then halves: the middle of every range."""
    rest = chain(numbers, repeat(0.5))
    return lambda: torch.full((1,), next(rest))


def pictures(n, height=SIDE, width=SIDE):
    """Masks of quarters, each of a class or void, and images whose colours say the class."""
    generator = torch.Generator().manual_seed(0)
    quarters = torch.randint(0, 4, (n, 2, 2), generator=generator) * 20
    quarters[0, 0, 0] = VOID
    mask = quarters.byte().repeat_interleave(height // 2, 1).repeat_interleave(width // 2, 2)
    return of_labels(mask), mask


def of_labels(mask):
    """(N, 3, H, W), channels_last: a colour for each label, which for void is the mean colour."""
    image = torch.stack([mask * 3, 255 - mask * 3, mask], 3)
    image[mask == VOID] = torch.tensor(GREY, dtype=torch.uint8)
    return image.permute(0, 3, 1, 2)


def photo(n=1, side=SIDE, least=0, most=256):
    noise = torch.randint(least, most, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return v2.gaussian_blur(noise, [5, 5]).contiguous(memory_format=torch.channels_last)


def flat(mask, reach=4):
    """Where all labels within `reach` pixels are one, and none of these lies beyond the border."""
    labels = F.pad(mask[:, None].float(), [reach] * 4, value=-1)
    window = 2 * reach + 1
    return (F.max_pool2d(labels, window, 1) == -F.max_pool2d(-labels, window, 1))[:, 0]


@pytest.mark.parametrize("augment", [*PER_SAMPLE[:2], *PER_SAMPLE[3:], *MIXES], **OF)
def test_image_and_mask_change_together(augment):
    image, mask = pictures(16)
    found, labels = augment(image, mask, draws(0, 0, torch.arange(16)))
    known = flat(labels)
    wanted = of_labels(labels)
    apart = (found.int() - wanted.int()).abs().amax(1)
    assert (apart[known] <= 1).all()
    assert known.float().mean() > 0.05
    assert isinstance(augment, Blur) or not torch.equal(labels, mask)
    if isinstance(augment, (Cutout, CutMix, ClassMix)):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("augment", [*PER_SAMPLE, *MIXES], **OF)
@pytest.mark.parametrize(("n", "height", "width"), [(5, 48, 48), (1, 96, 64), (2, 32, 48)])
def test_shapes_types_formats_and_what_was_given_stay(augment, n, height, width):
    image, mask = pictures(n, height, width)
    before = image.clone(), mask.clone()
    found, labels = augment(image, mask, draws(0, 0, torch.arange(n)))
    size = augment.size if isinstance(augment, Crop) else (height, width)
    assert (found.shape, labels.shape) == ((n, 3, *size), (n, *size))
    assert found.dtype == labels.dtype == torch.uint8
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(image, before[0])
    assert torch.equal(mask, before[1])


@pytest.mark.parametrize("augment", PER_SAMPLE, **OF)
def test_a_sample_is_augmented_alike_in_any_batch(augment):
    image, mask = photo(32), pictures(32)[1]
    wanted = augment(image, mask, draws(3, 2, torch.arange(32)))
    assert not torch.equal(wanted[0], image)
    order = torch.randperm(32)
    torch.manual_seed(5)  # which nothing depends on
    for part in (*order[:-1].split(10), order[-1:]):
        found = augment(image[part], mask[part], draws(3, 2, part))
        assert all(torch.equal(one, whole[part]) for one, whole in zip(found, wanted, strict=True))
    other = augment(image, mask, draws(3, 3, torch.arange(32)))
    assert not torch.equal(other[0], wanted[0])


@pytest.mark.parametrize("size", [SIDE, [32, 48]])
def test_a_crop_that_changes_nothing(size):
    image, mask = photo(4), pictures(4)[1]
    if size != SIDE:
        image, mask = image[:, :, :32], mask[:, :32]
    found = Crop(size=size, scale=[1, 1], aspect=[1, 1], degrees=0)(image, mask, draws(0, 0, torch.arange(4)))
    assert torch.equal(found[0], image)
    assert torch.equal(found[1], mask)


def test_what_lies_outside_is_void_and_of_the_mean_colour():
    image, mask = torch.full((64, 3, 40, 40), 255, dtype=torch.uint8), torch.full((64, 40, 40), 7, dtype=torch.uint8)
    crop = Crop(size=40, scale=[0.5, 0.5], aspect=[1, 1], degrees=0)
    found, labels = crop(image, mask, draws(0, 0, torch.arange(64)))
    inside = labels == 7
    assert ((labels == VOID) == ~inside).all()
    assert (inside.sum((1, 2)) - 400).abs().max() <= 41  # all of the image in a quarter of the crop, but for a row
    outside = F.max_pool2d(inside[:, None].float(), 3, 1, 1)[:, 0] == 0
    assert (found.permute(0, 2, 3, 1)[outside] == torch.tensor(GREY, dtype=torch.uint8)).all()
    corners = inside.float().mean(0)[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.max() < 0.2  # images lie everywhere in their crops
    assert inside.any(0).float().mean() > 0.9


@pytest.mark.parametrize(
    ("degrees", "scale", "place"), [(15, 1, (0.5, 0.5)), (0, 2, (0.5, 0.5)), (0, 2, (0.1, 0.8)), (0, 1.5, (1, 0))]
)
def test_a_crop_is_torchvision_s_affine(degrees, scale, place):
    image, mask = photo(), pictures(1)[1]
    crop = Crop(size=SIDE, scale=[scale, scale], aspect=[1, 1], degrees=degrees)
    found, labels = crop(image, mask, given(0.5, 0.5, 1.0, *place))
    down, right = (-(2 * u - 1) * (scale - 1) * SIDE / 2 for u in place)
    arguments = {"angle": -degrees, "translate": [right, down], "scale": scale, "shear": [0.0, 0.0]}
    wanted = v2.affine(image, **arguments, interpolation=InterpolationMode.BILINEAR, fill=GREY)
    inside = flat(torch.where(labels == VOID, labels, 0), 2) & (labels != VOID)
    assert (found.int() - wanted.int()).abs().amax(1)[inside].max() <= 1
    assert inside.float().mean() > 0.5
    nearest = v2.affine(mask, **arguments, interpolation=InterpolationMode.NEAREST, fill=VOID)
    assert (labels == nearest).float().mean() > 0.995  # halves are rounded to one side or the other


@pytest.mark.parametrize(("u", "height", "width"), [(1.0, 1 / 2, 2), (0.0, 2, 1 / 2)])
def test_the_aspect_is_width_over_height(u, height, width):
    mask = torch.full((1, 80, 80), 3, dtype=torch.uint8)
    crop = Crop(size=80, scale=[0.5, 0.5], aspect=[0.25, 4], degrees=0)
    _, labels = crop(mask[:, None].expand(-1, 3, -1, -1), mask, given(0.5, u))
    inside = labels[0] == 3
    assert (inside.any(1).sum().item(), inside.any(0).sum().item()) == (80 * height / 2, 80 * width / 2)


def test_an_image_is_blurred_before_it_shrinks():
    stripes = (torch.arange(64) % 2 * 255).byte().expand(1, 3, 64, 64)
    crop = Crop(size=16, scale=[1, 1], aspect=[1, 1], degrees=0)
    found, _ = crop(stripes, stripes[:, 0], given())
    assert (found.int() - 127).abs().max() <= 8
    larger, _ = Crop(size=64, scale=[2, 2], aspect=[1, 1], degrees=0)(stripes, stripes[:, 0], given())
    assert larger.min() < 70


def test_a_larger_pack_gives_crops_their_detail():
    """A crop at twice the size shows the pixels of an image that is kept at twice the size of the crop."""
    image = photo(side=96)
    found, _ = Crop(size=48, scale=[2, 2], aspect=[1, 1], degrees=0)(image, image[:, 0], given())
    assert torch.equal(found, image[:, :, 24:72, 24:72])


LOW, HIGH = 0.0, 1.0 - 2**-24
PLAIN = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, "grey": 0}


@pytest.mark.parametrize("u", [LOW, 0.3, HIGH])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colours_are_torchvision_s(name, u):
    image = photo()
    number = list(PLAIN).index(name)
    found, _ = Colour(**PLAIN | {name: 0.8})(image, image[:, 0], given(*[0.5] * number, u))
    wanted = 255 * getattr(v2, f"adjust_{name}")(image / 255, 0.2 + 1.6 * u)
    assert (found - wanted).abs().max() <= 0.55  # found is rounded, and torchvision's grey has 0.2989 of red
    assert not torch.equal(found, image)


def test_colours_change_one_after_the_other():
    image = photo(least=60, most=190)  # so that nothing is cut off
    found, _ = Colour(brightness=0.2, contrast=0.2, saturation=0.2, hue=0, grey=0)(image, image[:, 0], given(0.9, 0.8, 0.7))
    wanted = v2.adjust_contrast(v2.adjust_brightness(image / 255, 1.16), 1.12)
    assert (found - 255 * v2.adjust_saturation(wanted, 1.08)).abs().max() <= 0.55


def test_an_image_becomes_grey():
    image = photo()
    found, _ = Colour(**PLAIN | {"grey": 1})(image, image[:, 0], given())
    assert (found - 255 * v2.rgb_to_grayscale(image / 255, 3)).abs().max() <= 0.55


def test_a_hue_is_turned_in_yiq():
    image = photo(least=60, most=190)
    found, _ = Colour(**PLAIN | {"hue": 0.1})(image, image[:, 0], given(0.5, 0.5, 0.5, HIGH))
    rows = image.permute(0, 2, 3, 1).double().numpy()
    to_yiq = np.array([LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])
    y, i, q = np.moveaxis(rows @ to_yiq.T, -1, 0)
    angle = 2 * np.pi * 0.1
    turned = np.stack([y, np.cos(angle) * i - np.sin(angle) * q, np.sin(angle) * i + np.cos(angle) * q], -1)
    wanted = turned @ np.linalg.inv(to_yiq).T
    assert np.abs(found.permute(0, 2, 3, 1).numpy() - wanted).max() <= 0.51
    assert not torch.equal(found, image)


def test_a_whole_turn_of_the_hue_is_none_and_grey_has_no_hue():
    bases = colour_bases(torch.device("cpu"))
    grey, rest, turned = bases
    torch.testing.assert_close(turned @ turned, -rest, atol=1e-5, rtol=0)
    torch.testing.assert_close((rest.sum(1), turned.sum(1)), (torch.zeros(3),) * 2, atol=1e-5, rtol=0)
    torch.testing.assert_close(grey @ turned, torch.zeros(3, 3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_a_blur_is_torchvision_s(sigma):
    image = photo()
    found, _ = Blur(p=1, sigma=[sigma, sigma])(image, image[:, 0], given())
    wanted = v2.gaussian_blur(image, [4 * int(np.ceil(sigma)) + 1 if sigma > 0.5 else 3] * 2, [sigma, sigma])
    assert (found.int() - wanted.int()).abs().max() <= 1
    assert not torch.equal(found, image)


@pytest.mark.parametrize("augment", [Blur(p=0), Cutout(p=0), CutMix(p=0), ClassMix(p=0), Colour(**PLAIN)], **OF)
def test_nothing_happens_to_those_that_are_not_chosen(augment):
    image, mask = photo(8), pictures(8)[1]
    found = augment(image, mask, draws(0, 0, torch.arange(8)))
    assert torch.equal(found[0], image)
    assert torch.equal(found[1], mask)


@pytest.mark.parametrize("box", [Cutout(p=1, area=[0.1, 0.3]), CutMix(p=1, area=[0.1, 0.3])], **OF)
def test_a_box_is_one_rectangle_of_a_share_of_the_image(box):
    inside = box.inside(torch.zeros(2000, 50, 50), draws(0, 0, torch.arange(2000)))
    rows, columns = inside.any(2).sum(1), inside.any(1).sum(1)
    assert torch.equal(rows * columns, inside.sum((1, 2)))
    share = inside.float().mean((1, 2))
    assert share.min() > 0.07
    assert share.max() < 0.34
    assert share.mean().item() == pytest.approx(0.2, abs=0.01)
    assert inside.any(0).all()
    shape = rows / columns
    assert (shape > 1.2).float().mean() > 0.3
    assert (shape < 0.8).float().mean() > 0.3


def test_the_probability_is_that_of_a_box():
    inside = Cutout(p=0.3).inside(torch.zeros(5000, 8, 8), draws(0, 0, torch.arange(5000)))
    assert inside.any(2).any(1).float().mean().item() == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("augment", MIXES, **OF)
def test_what_is_mixed_comes_from_the_sample_before(augment):
    mask = torch.stack([torch.full((8, 8), label) for label in (1, 2, 3)]).byte()
    mask[:, :4] += 10  # two classes in each
    image = of_labels(mask)
    for n in (1, 2, 3):
        _, labels = augment(image[:n], mask[:n], draws(0, 0, torch.arange(n)))
        for sample in range(n):
            allowed = {*mask[sample].unique().tolist(), *mask[sample - 1 if sample else n - 1].unique().tolist()}
            assert {*labels[sample].unique().tolist()} <= allowed
        assert torch.equal(labels, mask[:n]) == (n == 1)


def test_half_of_the_classes_are_chosen_and_void_never_is():
    n = 400
    row = torch.tensor([0, 4, 9, 20, 254, VOID], dtype=torch.uint8)  # five classes: two are chosen
    mask = torch.zeros(2 * n, 1, 6, dtype=torch.uint8) + 100
    mask[::2, 0] = row  # the partner of every odd sample
    _, labels = ClassMix(p=1)(of_labels(mask), mask, draws(0, 0, torch.arange(2 * n)))
    pasted = labels[1::2, 0]
    assert ((pasted == 100) | (pasted == row)).all()
    chosen = pasted != 100
    assert (chosen.sum(1) == 2).all()
    assert not chosen[:, -1].any()
    assert chosen[:, :5].float().mean(0).tolist() == pytest.approx([0.4] * 5, abs=0.09)
    assert len({tuple(line) for line in chosen.tolist()}) == 10  # all pairs of five
    own = labels[::2, 0]
    assert torch.equal(own, row.expand(n, 6))  # whose partner has one class: half of it is none


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda: Crop(size=32, scale=[2, 1]),
            r"^scale=\[2, 1\]: wanted two numbers from 0.1 to 10, the smaller one first",
        ),
        (lambda: Crop(size=32, scale=[0.01, 1]), "^scale="),
        (lambda: Crop(size=32, scale=[float("nan"), 1]), "^scale="),
        (lambda: Crop(size=32, scale=[1]), "^scale="),
        (lambda: Crop(size=32, aspect=[0, 1]), "^aspect="),
        (lambda: Crop(size=32, degrees=-1), "^degrees=-1: wanted a number from 0 to 180"),
        (lambda: Colour(brightness=1.5), "^brightness=1.5: wanted a number from 0 to 1"),
        (lambda: Colour(hue=0.6), "^hue=0.6: wanted a number from 0 to 0.5"),
        (lambda: Colour(grey=-0.5), "^grey=-0.5"),
        (lambda: Blur(sigma=[0, 11]), "^sigma="),
        *[(lambda kind=kind: kind(p=2), "^p=2: wanted") for kind in (Blur, Cutout, CutMix, ClassMix)],
        *[(lambda kind=kind: kind(area=[0.5, 1.5]), "^area=") for kind in (Cutout, CutMix)],
    ],
)
def test_settings_out_of_their_range(make, told):
    with pytest.raises(ValueError, match=told):
        make()


def test_every_augmentation_of_the_package_is_tested():
    """Here, but for chains and flips: those are in test_augment.py."""
    named = {OmegaConf.load(path)._target_ for path in (CONF / "aug").glob("*.yaml")}
    tested = {f"{type(augment).__module__}.{type(augment).__name__}" for augment in (*PER_SAMPLE, *MIXES)}
    assert named - tested == {"fcnseg.data.augment.Chain", "fcnseg.data.augment.Flip"}
