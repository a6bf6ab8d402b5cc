"""The findings of a test in every image, as the file images.npz: a few hundred bytes an image."""

import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fcnseg.machine.files import replacing

MOST_BYTES = 1 << 28  # the most bytes of a file's arrays: a hostile file could fill the memory
Numbers = npt.NDArray[Any]


@dataclass(frozen=True)
class PerImage:
    """The findings of a test in each of N images of C classes.

    Attributes:
        names: (N,) the names of the images.
        cells: (M, 4) integers: the number of the image, the label in the truth (C for void), the predicted label, and how many
            pixels have both. Cells of a confusion matrix that are 0 are left out.
        pixels: (N, B) labelled pixels in each of B bins of confidence, of equal width from 0 to 1.
        confidence: (N, B) the sum of the confidence of these pixels.
        right: (N, B) the number of these pixels that are right.
        softmin: (N,) the soft minimum of the probability of the given labels: see `fcnseg.learning.image_metrics.softmin`.
        near: (N, 2) the labelled pixels near a true boundary, and the wrong ones of these.
        boundary: (N, C, 3) the pixels of a class near its boundary: in both, in the truth, in the prediction.
    """

    names: Numbers
    cells: Numbers
    pixels: Numbers
    confidence: Numbers
    right: Numbers
    softmin: Numbers
    near: Numbers
    boundary: Numbers

    def __post_init__(self) -> None:
        """Check that the arrays match each other.

        Raises:
            ValueError: They do not match.
        """
        if (self.pixels.ndim, self.boundary.ndim) != (2, 3):
            raise ValueError(
                f"pixels is of {self.pixels.shape}, boundary of {self.boundary.shape}, wanted (N, B) and (N, C, 3)"
            )
        (images, bins), (_, classes, _) = self.pixels.shape, self.boundary.shape
        wanted = {  # of every array, the kinds of numbers in NumPy's letters, and the shape
            "names": ("U", (images,)),
            "cells": ("iu", (*self.cells.shape[:1], 4)),
            "pixels": ("iuf", (images, bins)),
            "confidence": ("iuf", (images, bins)),
            "right": ("iuf", (images, bins)),
            "softmin": ("iuf", (images,)),
            "near": ("iu", (images, 2)),
            "boundary": ("iu", (images, classes, 3)),
        }
        for name, (kinds, shape) in wanted.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype.kind not in kinds:
                raise ValueError(f"{name} is {array.dtype} of {array.shape}, wanted {shape}")
            if name != "names" and ((array < 0) | (array > 1 << 40)).any():
                raise ValueError(f"{name} holds values that cannot be")
        if len(self.cells) and (self.cells[:, :3].max(0) >= (images, classes + 1, classes)).any():
            raise ValueError("cells holds an image or a class that is not there")

    def write(self, path: Path) -> None:
        """Replace the file `path` by this."""
        with replacing(path) as file:
            np.savez_compressed(file, allow_pickle=False, **vars(self))

    @classmethod
    def read(cls, path: Path) -> "PerImage | None":
        """Read a file of `write`, which may come from anybody; None if there is no such file, as in runs of earlier versions.

        Raises:
            ValueError: The file is damaged.
        """
        if not path.exists():
            return None
        try:
            if not path.is_file():
                raise ValueError("it is no ordinary file")
            with zipfile.ZipFile(path) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > MOST_BYTES:
                    raise ValueError(f"it holds more than {MOST_BYTES} bytes")
            with np.load(path, allow_pickle=False) as stored:
                return cls(**{field.name: stored[field.name] for field in fields(cls)})
        except Exception as error:  # a damaged file may raise any error
            raise ValueError(f"{path} is damaged ({error}): evaluate the run again to replace it") from error
