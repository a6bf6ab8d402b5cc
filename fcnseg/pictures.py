"""Pictures of images, masks and predictions, as uint8 RGB arrays."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fcnseg.data import voc

Picture = npt.NDArray[np.uint8]  # (H, W, 3)
OPACITY = 0.6  # of a mask over its image
GAP = 4  # white pixels between the pictures of a panel


def colour(mask: Tensor) -> Picture:
    """Labels (H, W) in VOC's colours: background black, void pale."""
    return np.asarray(voc.PALETTE[mask.cpu().numpy()], dtype=np.uint8)


def photograph(image: Tensor) -> Picture:
    """An image (3, H, W) uint8."""
    return np.asarray(image.permute(1, 2, 0).cpu().numpy(), dtype=np.uint8)


def overlay(image: Tensor, mask: Tensor) -> Picture:
    """An image (3, H, W) uint8 with labels (H, W) laid over it in VOC's colours, where they are not background."""
    shown = (mask != voc.BACKGROUND).cpu().numpy()[..., None] * OPACITY
    return np.asarray(photograph(image) * (1 - shown) + colour(mask) * shown, dtype=np.uint8)


def panel(images: Tensor, truths: Tensor, predictions: Tensor) -> Picture:
    """A row a sample: the image, the truth, the prediction, and the prediction over the image.

    Args:
        images: (N, 3, H, W) uint8.
        truths: (N, H, W) labels, 255 for void.
        predictions: (N, H, W) labels.
    """
    rows = []
    for image, truth, prediction in zip(images, truths, predictions.to(torch.uint8), strict=True):
        pictures = [photograph(image), colour(truth), colour(prediction), overlay(image, prediction)]
        framed = [np.pad(each, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for each in pictures]
        rows.append(np.concatenate(framed, axis=1))
    return np.asarray(np.concatenate(rows)[:-GAP, :-GAP], dtype=np.uint8)


def legend(masks: Sequence[Tensor]) -> dict[str, str]:
    """The classes in masks, of any shapes, with VOC's colours as #rrggbb."""
    labels = sorted({label for mask in masks for label in mask.unique().tolist()})
    names = [*voc.CLASSES, *["void"] * (256 - voc.NUM_CLASSES)]
    return {names[label]: "#{:02x}{:02x}{:02x}".format(*voc.PALETTE[label]) for label in labels}
