"""Photographs and masks from files: a photograph becomes upright RGB, a mask becomes labels."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from fcnseg.data.dataset import MOST_CLASSES, VOID
from fcnseg.texts import first_of

# Only these formats are opened, under any suffix: Pillow would hand an EPS to Ghostscript, an external program.
READABLE = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
ORIENTATION = 0x0112  # EXIF's tag
TURNS = {  # the turn that makes a picture upright, by its orientation; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,  # from here on, width and height change places
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# From 89 million pixels on, Pillow warns that an image may be meant to fill the memory; from 179 million on it refuses it.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

RGB = tuple[int, int, int]  # a colour
UNKNOWN = MOST_CLASSES  # the entry of tables of labels that is no class and not void
SMOOTH = "; so many come from smoothed edges: export the masks without anti-aliasing"
MANY = 16  # the number of unknown numbers or colours in a mask above which smoothed edges are the likely cause
LOSSLESS = ("PNG", "BMP", "TIFF")


@dataclass(frozen=True)
class Legend:
    """The meaning of the numbers and colours in the files of masks.

    Attributes:
        values: The label of each stored number: of an index of a palette, or of a grey sample.
        colours: The label of each colour, and of void's. Empty if labels have no colours of their own.
        pictures: Whether masks may also be colour pictures, BMP or TIFF files; VOC's may not.
    """

    values: Mapping[int, int]
    colours: Mapping[RGB, int]
    pictures: bool = True

    @cached_property
    def by_colour(self) -> npt.NDArray[np.uint8]:
        """(2**24,) labels by colour: the index is the number of the bytes R, G, B, with R the lowest.

        The table is read once for each pixel; comparing a mask with each colour would take as many passes as classes.
        """
        table = np.full(2**24, UNKNOWN, dtype=np.uint8)
        for (red, green, blue), label in self.colours.items():
            table[red | green << 8 | blue << 16] = label
        return table

    @property
    def wanted(self) -> str:
        """The stored numbers that mean something, for messages."""
        labels = sorted(value for value, label in self.values.items() if label != VOID)
        void = sorted(set(self.values) - set(labels))
        dense = labels == [*range(len(labels))] and len(labels) > 1
        wanted = f"0..{labels[-1]}" if dense else ", ".join(map(str, labels))
        return f"{wanted} and {', '.join(map(str, void))} for void" if void else wanted


def read_image(path: Path) -> Image.Image:
    """The image as RGB and upright, from a file of any colour space, depth or EXIF orientation.

    Raises:
        ValueError: The file is missing, truncated or no image, or its format or depth is not supported.
    """
    return as_rgb(_upright(path, "image"), path)


def as_rgb(image: Image.Image, name: object) -> Image.Image:
    """A picture of any colour space as RGB; transparent parts are shown over white, and `info` stays.

    Raises:
        ValueError: Its depth is not supported.
    """
    info = image.info
    if image.mode in ("I", "F"):
        raise ValueError(f"image {name} has 32 bits a sample, wanted 8 or 16: convert it")
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:  # transparent pixels may have any colour
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        image = opaque
    image = image if image.mode == "RGB" else image.convert("RGB")
    image.info = {key: value for key, value in info.items() if key != "transparency"}
    return image


def squashed(image: Image.Image, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """An RGB image at another height and width, bilinear with antialias, as networks see it: (height, width, 3)."""
    return np.array(image.resize(size[::-1], Image.Resampling.BILINEAR))


def laid_out_as_stored(picture: Image.Image, orientation: int) -> Image.Image:
    """Turn an upright picture so that its pixels are stored as in a file of this EXIF orientation."""
    turn = TURNS.get({6: 8, 8: 6}.get(orientation, orientation))
    return picture if turn is None else picture.transpose(turn)


def read_mask(path: Path, image: Image.Image | None = None, *, legend: Legend) -> Image.Image:
    """The class mask as an image of mode "L" whose pixels are labels.

    A colour picture is read by its colours. Otherwise the numbers in the file give the labels: indices of a palette, as in
    VOC, or grey samples. Pillow would scale grey samples of fewer than 8 bits. Programs that sort a palette anew change the
    indices and keep the colours. So if the legend has every colour, and an index differs from the label of its colour, the
    colours count and `info["by_colour"]` is true.

    Args:
        path: The file that stores the mask.
        image: Its photograph, from `read_image`; the mask must have its size and orientation.
        legend: The meaning of numbers and colours.

    Raises:
        ValueError: The file is missing, broken, or of a format or mode that masks do not have. Or its size differs
            from its image's, its orientation or palette is unclear, or the legend lacks one of its numbers or colours.
    """
    return as_labels(path, stored_mask(path, pictures=legend.pictures), image, legend=legend)


def as_labels(path: Path, mask: Image.Image, image: Image.Image | None, *, legend: Legend) -> Image.Image:
    """The labels of a mask that `stored_mask` has read: see `read_mask`."""
    if image is not None:
        _check_fits(path, mask, image)
    if mask.mode == "RGB":
        return Image.fromarray(_by_colour(path, mask, legend))
    pixels = samples(mask)
    used = np.flatnonzero(np.bincount(pixels.ravel())).tolist()
    meant = _meant(path, mask, used, legend)
    table = np.zeros(max(used, default=0) + 1, dtype=np.uint8)
    table[used] = meant
    # Most masks store the labels themselves, without a table in a fraction of the time.
    found = Image.fromarray(pixels.astype(np.uint8) if meant == used else table[pixels])
    # The palette's colours gave other labels than the numbers would have given.
    found.info["by_colour"] = meant != [legend.values.get(value) for value in used]
    return found


def stored_mask(path: Path, *, pictures: bool = True) -> Image.Image:
    """The mask as its file stores it, upright: of mode P, L, 1, I;16 or, with `pictures`, RGB.

    Raises:
        ValueError: The file is missing, broken, or of a format or mode that masks do not have.
    """
    mask = _upright(path, "mask")
    if (format := mask.info["format"]) not in (LOSSLESS if pictures else LOSSLESS[:1]):
        lossy = ", whose compression changes labels" if format in ("JPEG", "WEBP") else ""
        raise ValueError(f"mask {path} is a {format} file{lossy}, wanted a PNG: export the masks anew as PNG")
    if pictures and mask.mode in ("RGBA", "LA"):
        mask = mask.convert(mask.mode[:-1])
    if mask.mode not in ("P", "L", "1", "I;16", "RGB") or (mask.mode == "RGB" and not pictures):
        wanted = "wanted labels: a palette PNG (mode P) or a grey one (mode L)"
        raise ValueError(f"mask {path} is a picture of mode {mask.mode}, {wanted}")
    return mask


def samples(mask: Image.Image) -> npt.NDArray[Any]:
    """(H, W) numbers as the file of a mask stores them."""
    pixels = np.asarray(mask, dtype=np.uint16 if mask.mode == "I;16" else np.uint8)
    scale = 255 // (2 ** mask.info["bits"] - 1) if mask.mode == "L" else 1
    return pixels // scale if scale > 1 else pixels


def _upright(path: Path, kind: str) -> Image.Image:
    """The picture as it is meant to be seen; its `info` has the file's format, orientation and bits a sample.

    Pillow's `exif_transpose` is not used: it writes the EXIF data anew, which fails if a tag is invalid.
    """
    remedies = ("correct its name, or leave it out", f"replace the file (by {', '.join(READABLE)}) or leave it out")
    with errors_named(f"{kind} {path}", *remedies), Image.open(path, formats=READABLE) as file:
        stored = file.getexif().get(ORIENTATION)
        orientation = stored if stored in TURNS else 1
        file.load()
        bits = path.read_bytes()[24] if file.format == "PNG" else 8  # a PNG's are in its header, which Pillow does not tell
        if isinstance(file, TiffImageFile):
            bits = int(file.tag_v2.get(258, (1,))[0])  # BitsPerSample
        turn = None if file.format == "TIFF" else TURNS.get(orientation)  # Pillow has turned a TIFF already
        picture = file if turn is None else file.transpose(turn)
        clear: dict[Any, Any] = {key: value for key, value in picture.info.items() if key == "transparency"}
        picture.info = {**clear, "format": file.format, "orientation": orientation, "bits": bits}
        return picture


@contextmanager
def errors_named(file: str, if_missing: str, if_broken: str) -> Iterator[None]:
    """Turn any error in the `with` block into a ValueError that names a file, such as "mask a.png", and one of the remedies.

    Decoders raise anything: struct.error, TypeError, KeyError, zlib.error, MemoryError, ...
    """
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"there is no {file}: {if_missing}") from error
    except Exception as error:
        raise ValueError(f"broken {file}: {str(error) or type(error).__name__}; {if_broken}") from error


def _check_fits(path: Path, mask: Image.Image, image: Image.Image) -> None:
    """Refuse a mask of another size than its image, or one whose orientation is unclear."""
    turned, own = image.info["orientation"], mask.info["orientation"]
    remedy = "save both upright, without EXIF orientation"
    if mask.size != image.size:
        sizes = ["x".join(map(str, picture.size)) for picture in (mask, image)]
        how = [f" (turned upright by its EXIF orientation {n})" if n != 1 else "" for n in (own, turned)]
        found = f"mask {path} is {sizes[0]}{how[0]}, its image {sizes[1]}{how[1]}"
        raise ValueError(f"{found}{f', wanted one size: {remedy}' if turned != own else ': make them one size'}")
    told_by_size = image.width != image.height and (turned >= 5) != (own >= 5)
    if turned != own and not told_by_size:
        found = f"mask {path} has the EXIF orientation {own}, its image {turned}"
        raise ValueError(f"{found}, which does not tell which way up the mask is: {remedy}")


def _meant(path: Path, mask: Image.Image, used: list[int], legend: Legend) -> list[int]:
    """The labels of the stored numbers `used`: by their colours in a palette, or by the numbers."""
    own = [legend.values.get(value) for value in used]
    if mask.mode == "P":
        palette = [*zip(*[iter(mask.getpalette() or [])] * 3, strict=True)]  # RGB by index
        labels = [legend.colours.get(palette[index]) if index < len(palette) else None for index in used]
        if any(label not in (None, value) for label, value in zip(labels, own, strict=True)):
            known = [label for label in labels if label is not None]
            if not (foreign := [index for label, index in zip(labels, used, strict=True) if label is None]):
                return known
            raise ValueError(
                f"mask {path} has the colours of the classes {known} at other indices, but its indices {foreign} are of no"
                " class's colour: wanted indices that are the labels, or colours that are the classes' throughout"
            )
    if strays := [value for value, label in zip(used, own, strict=True) if label is None]:
        remedy = SMOOTH if len(strays) > MANY else ""
        raise ValueError(f"mask {path} holds the labels {first_of(strays, in_line=True)}, wanted {legend.wanted}{remedy}")
    return [label for label in own if label is not None]


def _by_colour(path: Path, mask: Image.Image, legend: Legend) -> npt.NDArray[np.uint8]:
    """(H, W) labels of a colour picture."""
    padded = np.frombuffer(mask.tobytes("raw", "RGBX"), dtype="<u4").reshape(mask.height, mask.width)
    labels: npt.NDArray[np.uint8] = legend.by_colour[padded & 0xFFFFFF]
    if (labels == UNKNOWN).any():
        raise ValueError(f"mask {path} {_strange(mask, legend.colours)}")
    return labels


def _strange(mask: Image.Image, known: Mapping[RGB, int]) -> str:
    """The part of a message about the colours of a picture that no class has."""
    if not known:
        return "is a picture of colours, but no class has a colour: write colors: into classes.yaml"
    counted = sorted(((n, colour) for n, colour in colours(mask) if colour not in known), reverse=True)
    shown = []
    for n, colour in counted[:5]:
        nearest = min(known, key=lambda other: sum((a - b) ** 2 for a, b in zip(colour, other, strict=True)))
        shown.append(f"{colour} in {n} pixels (nearest: {nearest})")
    more = f" and {len(counted) - 5} more" if len(counted) > 5 else ""
    remedy = SMOOTH if len(counted) > MANY else ""
    return f"holds colours that no class has: {', '.join(shown)}{more}; wanted those of the classes{remedy}"


def colours(mask: Image.Image) -> list[tuple[int, RGB]]:
    """The number of pixels of every colour of an RGB picture."""
    return [(n, cast(RGB, colour)) for n, colour in mask.getcolors(mask.width * mask.height) or ()]
