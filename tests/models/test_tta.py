"""Tests of test-time augmentation."""

import pytest
import torch
from torch import nn

from fcnseg.models.tta import averaged


class Left(nn.Module):
    """Sees one class in the left half of an image, and another in the right half, whatever the image is."""

    def forward(self, image):
        place = torch.linspace(-1, 1, image.shape[-1]).expand(len(image), *image.shape[-2:])
        return torch.stack([-place, place], 1) * 3


class Bright(nn.Module):
    """Sees the second class where a pixel is bright: it sees in a mirror image the mirrored."""

    def forward(self, image):
        return torch.stack([-image[:, 0], image[:, 0]], 1)


def test_without_it_the_network_is_itself():
    assert averaged(net := Left(), "none") is net


def test_the_mean_of_the_mirror_images_probabilities():
    found = averaged(Left(), "flip")(torch.zeros(1, 3, 32, 40))
    assert found.softmax(1) == pytest.approx(torch.full((1, 2, 32, 40), 0.5))  # each half is seen both ways


@pytest.mark.parametrize("tta", ["flip", "multiscale"])
def test_a_network_that_sees_each_pixel_alone_sees_the_same(tta):
    image = torch.nn.functional.interpolate(torch.randn(2, 3, 3, 4), (48, 64), mode="bilinear")
    net = Bright()
    found, alone = averaged(net, tta)(image).softmax(1), net(image).softmax(1)
    assert found == pytest.approx(alone, abs=1e-5 if tta == "flip" else 0.1)


def test_the_result_is_finite_where_the_network_is_sure():
    class Sure(nn.Module):
        def forward(self, image):
            return torch.stack([image[:, 0] - 1e4, image[:, 0] + 1e4], 1)

    assert averaged(Sure(), "flip")(torch.zeros(1, 3, 32, 32)).isfinite().all()


def test_other_words_are_refused():
    with pytest.raises(ValueError, match="tta=mirror: wanted one of none, flip, multiscale"):
        averaged(Left(), "mirror")
