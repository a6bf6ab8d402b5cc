"""Pictures of images, masks and predictions, as uint8 RGB arrays."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fcnseg.data.dataset import Classes

Picture = npt.NDArray[np.uint8]  # (H, W, 3)
OPACITY = 0.6  # of a mask over its image
GAP = 4  # white pixels between the pictures of a panel


def colour(mask: Tensor, classes: Classes) -> Picture:
    """Labels (H, W) in the colours of their classes."""
    return np.asarray(classes.palette[mask.cpu().numpy()], dtype=np.uint8)


def photograph(image: Tensor) -> Picture:
    """An image (3, H, W) uint8."""
    return np.asarray(image.permute(1, 2, 0).cpu().numpy(), dtype=np.uint8)


def overlay(image: Tensor, mask: Tensor, classes: Classes) -> Picture:
    """An image (3, H, W) uint8 with labels (H, W) laid over it in their colours, where they are not background."""
    background = -1 if classes.background is None else classes.background
    shown = (mask != background).cpu().numpy()[..., None] * OPACITY
    return np.asarray(photograph(image) * (1 - shown) + colour(mask, classes) * shown, dtype=np.uint8)


def panel(images: Tensor, truths: Tensor, predictions: Tensor, classes: Classes) -> Picture:
    """A row a sample: the image, the truth, the prediction, and the prediction over the image.

    Args:
        images: (N, 3, H, W) uint8.
        truths: (N, H, W) labels, 255 for void.
        predictions: (N, H, W) labels.
        classes: The classes of the labels, in whose colours these are drawn.
    """
    rows = []
    for image, truth, prediction in zip(images, truths, predictions.to(torch.uint8), strict=True):
        coloured = (colour(truth, classes), colour(prediction, classes))
        pictures = [photograph(image), *coloured, overlay(image, prediction, classes)]
        framed = [np.pad(each, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for each in pictures]
        rows.append(np.concatenate(framed, axis=1))
    return np.asarray(np.concatenate(rows)[:-GAP, :-GAP], dtype=np.uint8)


def legend(masks: Sequence[Tensor], classes: Classes) -> dict[str, str]:
    """The classes in masks, of any shapes, with their colours as #rrggbb."""
    labels = sorted({label for mask in masks for label in mask.unique().tolist()})
    names = [*classes.names, *["void"] * (256 - len(classes))]
    return {names[label]: "#{:02x}{:02x}{:02x}".format(*classes.palette[label]) for label in labels}
