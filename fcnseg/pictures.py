"""Pictures of images, masks and predictions, as uint8 RGB arrays."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fcnseg.data.dataset import Classes

Picture = npt.NDArray[np.uint8]  # (H, W, 3)
ERRORS = {  # how a prediction differs from the truth, in colours that most readers can tell apart
    "right": (222, 226, 230),
    "missed": (33, 102, 172),
    "invented": (240, 228, 66),
    "wrong class": (204, 62, 78),
    "void": (255, 255, 255),
}
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


def errors(truth: Tensor, prediction: Tensor, classes: Classes) -> Picture:
    """Where labels (H, W) differ from the truth, in the colours of `ERRORS`.

    Missed is an object predicted as background, invented is background predicted as an object; without a background, all that
    is wrong is of a wrong class.
    """
    truth, prediction = truth.cpu().long(), prediction.cpu().long()
    background = -1 if classes.background is None else classes.background
    kind = torch.where(truth == prediction, 0, 3)
    kind[(kind == 3) & (prediction == background)] = 1
    kind[(kind == 3) & (truth == background)] = 2
    kind[truth >= len(classes)] = 4
    return np.asarray(np.array([*ERRORS.values()], dtype=np.uint8)[kind.numpy()])


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
