"""The prediction of a network for a photograph: labels, scores, pictures of them, and the mask as a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from fcnseg.data import decode, pictures
from fcnseg.data.dataset import Classes
from fcnseg.machine.files import replacing

Photograph = str | Path | Image.Image | npt.NDArray[np.uint8] | Tensor  # the forms in which a photograph is given
NOTE = "fcnseg"  # the key of the text that a mask keeps


@dataclass
class Prediction:
    """The prediction of a network for a photograph of H x W pixels.

    Attributes:
        labels: (H, W) uint8, the label of each pixel's class.
        scores: (H, W) float32, the probability of this class, 1/C to 1; empty unless it was asked for.
        classes: The classes that the labels stand for.
        source: The photograph, as it was given.
        orientation: The EXIF orientation of its file, 1 to 8; the labels are upright.
    """

    labels: npt.NDArray[np.uint8]
    scores: npt.NDArray[np.float32]
    classes: Classes
    source: Photograph
    orientation: int

    def colour(self) -> pictures.Picture:
        """The mask in the colours of its classes, (H, W, 3)."""
        return pictures.colour(torch.from_numpy(self.labels), self.classes)

    def overlay(self) -> pictures.Picture:
        """The mask over the photograph, (H, W, 3); a file is read again."""
        photograph = torch.from_numpy(np.array(photograph_of(self.source)))  # (H, W, 3)
        return pictures.overlay(photograph.permute(2, 0, 1), torch.from_numpy(self.labels), self.classes)

    def picture(self, values: npt.NDArray[Any], *, oriented: bool) -> Image.Image:
        """The labels, or other values of the pixels, as a grey image: upright, or laid out as the photograph's file is."""
        upright = Image.fromarray(values)
        return upright if oriented else decode.laid_out_as_stored(upright, self.orientation)

    def save(self, path: str | Path, *, oriented: bool = True, note: str = "") -> None:
        """Write the mask as a palette PNG whose indices are the labels, whole or not at all.

        Args:
            path: The file of the mask.
            oriented: Whether it is upright, as people see the photograph; otherwise its pixels are ordered as in the
                photograph's file.
            note: A text that the file keeps under the key `NOTE`.
        """
        mask = self.picture(self.labels, oriented=oriented)
        # A palette only gives the labels colours to be seen in: programs that read masks get the labels.
        mask.putpalette(self.classes.palette.tobytes())
        text = PngInfo()
        text.add_text(NOTE, note)
        with replacing(Path(path)) as file:
            mask.save(file, "PNG", pnginfo=text)


def photograph_of(source: Photograph) -> Image.Image:
    """The photograph as RGB; a file's is upright.

    Raises:
        ValueError: The file is missing or broken, or an array has another shape or type.
    """
    if isinstance(source, (str, Path)):
        return decode.read_image(Path(source))
    if isinstance(source, Image.Image):
        return decode.as_rgb(source, "from Pillow")
    pixels = source.permute(1, 2, 0).cpu().numpy() if isinstance(source, Tensor) and source.ndim == 3 else source
    # Not converted from other types: a dark photograph may be of values 0..1 or 0..255.
    is_uint8 = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8
    if not is_uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        found = f"{type(source).__name__} {tuple(getattr(source, 'shape', ()))} {getattr(source, 'dtype', '')}"
        raise ValueError(
            f"a photograph is a {found.strip()}: wanted a path, a Pillow image, or uint8 as an array (H, W, 3) or a tensor"
            " (3, H, W)"
        )
    return Image.fromarray(np.ascontiguousarray(pixels))
