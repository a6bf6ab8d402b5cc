"""Augmentations that change the pixels of each image: crops, colours and blur.

Each is an augmentation as `fcnseg.data.augment` describes it. Places outside the image get the mean colour, and are
void in the mask.
"""

from collections.abc import Sequence
from functools import cache
from math import ceil, log, pi, sqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from fcnseg.data.augment import Draw
from fcnseg.data.batch import denormalize, normalize
from fcnseg.data.dataset import VOID
from fcnseg.data.settings import sides
from fcnseg.errors import check_number

LUMA = (0.299, 0.587, 0.114)  # the grey of red, green and blue: ITU-R BT.601, as Pillow and torchvision have it
LEAST_SIGMA = 0.01  # pixels: a blur that changes nothing


def between(draw: Draw, least: float, most: float) -> Tensor:
    """(N,) numbers, uniform between two."""
    return least + (most - least) * draw()


def log_between(draw: Draw, least: float, most: float) -> Tensor:
    """(N,) factors between two, whose logarithms are uniform: halving is as likely as doubling."""
    return between(draw, log(least), log(most)).exp()


def check_range(name: str, value: Sequence[float], least: float, most: float) -> tuple[float, float]:
    """Refuse all but two numbers from `least` to `most`, the smaller one first.

    Raises:
        ValueError: The value is refused; the message names the setting.
    """
    if len(value) != 2 or not least <= value[0] <= value[1] <= most:
        raise ValueError(f"{name}={[*value]}: wanted two numbers from {least:g} to {most:g}, the smaller one first")
    return value[0], value[1]


def smooth(image: Tensor, sigma: Tensor, largest: float) -> Tensor:
    """Blur each image by a Gaussian of its own; beyond its border, an image is mirrored.

    Args:
        image: (N, C, H, W) float32.
        sigma: (N,), the standard deviation of the Gaussian in pixels; 0 leaves an image as it is.
        largest: The largest possible `sigma`.
    """
    n, channels, height, width = image.shape
    radius = min(ceil(2 * largest), height - 1, width - 1)
    taps = torch.arange(-radius, radius + 1, device=image.device)
    kernel = (-0.5 * (taps / sigma.clamp(min=LEAST_SIGMA)[:, None]).square()).softmax(1)  # (N, taps)
    kernel = kernel.repeat_interleave(channels, 0)[:, None, :, None]  # (N * C, 1, taps, 1)
    # (1, N * C, H + 2 * radius, W + 2 * radius): planes of one image, each of which has its own kernel
    planes = F.pad(image.reshape(1, n * channels, height, width), [radius] * 4, mode="reflect")
    # (1, N * C, H, W): down the columns with (N * C, 1, taps, 1), along the rows with (N * C, 1, 1, taps)
    planes = F.conv2d(F.conv2d(planes, kernel, groups=n * channels), kernel.transpose(2, 3), groups=n * channels)
    return planes.view(image.shape)  # (N, C, H, W)


class Crop:
    """A random part of each image, scaled, stretched and turned, in one sampling: bilinear for images, nearest for masks.

    Places outside the image get the mean colour, and are void in the mask. If a crop has fewer pixels than its part of the
    image, the image is blurred first.

    Args:
        size: Height and width of the crop, or the side of a square: `data.size`.
        scale: The least and the largest size of the whole image, as a factor of the crop's: 2 shows a quarter of the image,
            0.5 shows all of it in a quarter of the crop.
        aspect: The least and the largest factor by which width over height changes.
        degrees: The largest angle by which the image is turned, to either side.

    Raises:
        ValueError: A setting is out of its range.
    """

    def __init__(
        self,
        *,
        size: int | Sequence[int],
        scale: Sequence[float] = (0.5, 2.0),
        aspect: Sequence[float] = (0.75, 1.33),
        degrees: float = 10.0,
    ) -> None:
        self.size = sides(size)
        self.scale, self.aspect = check_range("scale", scale, 0.1, 10), check_range("aspect", aspect, 0.1, 10)
        self.degrees = check_number("degrees", degrees, 0, 180)

    def __call__(self, image: Tensor, mask: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Crop every sample together with its mask, to (N, 3, *size) and (N, *size)."""
        scale, stretch = log_between(draw, *self.scale), log_between(draw, *self.aspect).sqrt()
        scales = scale / stretch, scale * stretch  # of height and width, (N,) each
        grid = self._grid(scales, between(draw, -self.degrees, self.degrees) * (pi / 180), draw)
        pixels = normalize(image)  # the mean colour is 0, with which grid_sample fills what is outside
        shrinks = max(side / new for side, new in zip(image.shape[2:], self.size, strict=True))
        if (most := shrinks / self.scale[0]) > 1:  # a pixel stands for a Gaussian of half its side
            sigma = 0.5 * ((shrinks / scale).square() - 1).clamp(min=0).sqrt()
            pixels = smooth(pixels, sigma, 0.5 * sqrt(most**2 - 1))
        pixels = F.grid_sample(pixels, grid, align_corners=False)
        # (N, 1, H, W), as the images have channels
        labels = F.grid_sample(mask[:, None].float() - VOID, grid, mode="nearest", align_corners=False)
        return denormalize(pixels), (labels[:, 0] + VOID).byte()

    def _grid(self, scales: tuple[Tensor, Tensor], angle: Tensor, draw: Draw) -> Tensor:
        """The place in the image of each pixel of the crop: (N, H, W, 2), x and y, -1 to 1 from border to border."""
        height, width = self.size
        y, x = ((torch.arange(side, device=angle.device) * 2 + 1) / side - 1 for side in self.size)
        y, sine, cosine = y[:, None], angle.sin()[:, None, None], angle.cos()[:, None, None]
        # What x and y of the crop's pixels add to the place in the image, down and right: (N, H, 1) and (N, 1, W) each.
        turned = (cosine * y, sine * x * (width / height)), (sine * -y * (height / width), cosine * x)
        places = []
        for (down, right), factor in zip(turned, scales, strict=True):  # (N, H, 1) and (N, 1, W), and (N,)
            # An image that is larger than the crop fills it; a smaller image is inside it.
            middle = between(draw, -1, 1) * (1 - 1 / factor).abs()  # (N,)
            places.append((down / factor[:, None, None] + middle[:, None, None]) + right / factor[:, None, None])
        return torch.stack(places[::-1], -1)  # two of (N, H, W), x first


@cache  # making a tensor on a GPU waits for the GPU
def colour_bases(device: torch.device) -> Tensor:
    """(3, 3, 3): the matrices that take the grey of a colour, the rest of it, and the rest turned by 90 degrees in YIQ."""
    to_yiq = torch.tensor([LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)], dtype=torch.float64)
    quarter = torch.tensor([(0, 0, 0), (0, 0, -1), (0, 1, 0)], dtype=torch.float64)
    grey = to_yiq[0].expand(3, 3)  # each row turns a colour into its grey
    return torch.stack([grey, torch.eye(3) - grey, to_yiq.inverse() @ quarter @ to_yiq]).float().to(device)


class Colour:
    """Brightness, contrast, saturation and hue of each image, changed by one matrix; some images become grey.

    Brightness, contrast and saturation are torchvision's, without rounding between them. A hue is turned in YIQ, where this is
    linear, and not in HSV. Masks stay as they are.

    Args:
        brightness: The largest change of the factor that every colour is multiplied by: 0.4 stands for 0.6 to 1.4.
        contrast: The largest change of the factor of every colour's distance from the image's mean grey.
        saturation: The largest change of the factor of every colour's distance from its own grey.
        hue: The largest turn of the hue, to either side, as a share of the whole circle.
        grey: The probability of an image without colours.

    Raises:
        ValueError: A setting is out of its range.
    """

    def __init__(
        self,
        *,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.05,
        grey: float = 0.1,
    ) -> None:
        changes = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        self.changes = [check_number(name, value, 0, 1) for name, value in changes.items()]
        self.hue, self.grey = check_number("hue", hue, 0, 0.5), check_number("grey", grey, 0, 1)

    def __call__(self, image: Tensor, mask: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Change the colours of every image."""
        brightness, contrast, saturation = (between(draw, 1 - change, 1 + change) for change in self.changes)
        angle = between(draw, -self.hue, self.hue) * (2 * pi)
        colourful = saturation * (draw() >= self.grey)
        parts = torch.stack([torch.ones_like(angle), colourful * angle.cos(), colourful * angle.sin()], 1)  # (N, 3)
        bases = colour_bases(image.device)
        matrix = (parts[:, :, None, None] * bases).sum(1) * (brightness * contrast)[:, None, None]  # (N, 3, 3)
        pixels = image.permute(0, 2, 3, 1).flatten(1, 2)  # (N, H * W, 3)
        mean = (pixels.sum(1).float() * bases[0, 0]).sum(1) / pixels.shape[1]  # (N,), of the greys
        shift = (brightness * (1 - contrast) * mean)[:, None, None]  # (N, 1, 1)
        # (N, H * W, 3) uint8: every pixel times the matrix of its image, plus the shift
        pixels = torch.baddbmm(shift, pixels.float(), matrix.transpose(1, 2)).round_().clamp_(0, 255).byte()
        return pixels.unflatten(1, image.shape[2:]).permute(0, 3, 1, 2), mask  # (N, 3, H, W), channels_last


class Blur:
    """A Gaussian blur of some of the images.

    Args:
        p: The probability of a blur.
        sigma: The least and the largest standard deviation of the Gaussian, in pixels.

    Raises:
        ValueError: A setting is out of its range.
    """

    def __init__(self, *, p: float = 0.3, sigma: Sequence[float] = (0.1, 1.5)) -> None:
        self.p, self.sigma = check_number("p", p, 0, 1), check_range("sigma", sigma, 0, 10)

    def __call__(self, image: Tensor, mask: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Blur some of the images."""
        sigma = (draw() < self.p) * between(draw, *self.sigma)
        return denormalize(smooth(normalize(image), sigma, self.sigma[1])), mask
