"""Photographs and masks from files: a photograph becomes upright RGB, a mask becomes labels."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

# Whatever a file's suffix is: of Pillow's other formats, EPS would be handed to Ghostscript, a program of its own.
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
ORIENTATION = 0x0112  # EXIF's tag
TURNS = {  # what makes a picture upright, by its orientation; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,  # from here on, width and height change places
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Colours = Mapping[tuple[int, int, int], int]  # the label of each RGB colour


def read_image(path: Path) -> Image.Image:
    """The image as RGB and upright, from a file of any colour space, depth or EXIF orientation.

    Raises:
        ValueError: The file is missing, truncated, no image, or one of a format or depth that is not read.
    """
    image = _upright(path, "image")
    info = image.info
    if image.mode in ("I", "F"):
        raise ValueError(f"image {path} has 32 bits a sample, wanted 8 or 16: convert it")
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image if image.mode == "RGB" else image.convert("RGB")
    image.info = info
    return image


def read_mask(path: Path, image: Image.Image | None = None, *, colours: Colours) -> Image.Image:
    """The class mask as an image of mode "L" whose pixels are labels.

    The labels are the numbers that the file stores: the indices of a palette PNG, as VOC's are, or the samples of a grey
    PNG, which Pillow would scale where they have fewer than 8 bits. Programs that sort a palette anew change the indices
    and keep the colours: where every colour is one of `colours` and an index is not its label, the colours count, and
    `info["by_colour"]` is true.

    Args:
        path: The file.
        image: Its photograph, from `read_image`, whose size and orientation the mask must share.
        colours: The label of each class's colour, and of void's.

    Raises:
        ValueError: The file is missing, broken, no PNG or a colour picture; its size is not its image's; its orientation or
            the meaning of its palette is unclear; or `colours` does not have one of its labels.
    """
    mask = _upright(path, "mask")
    if (format := mask.info["format"]) != "PNG":
        lossy = ", whose compression changes labels" * (format == "JPEG")
        raise ValueError(f"mask {path} is a {format} file{lossy}, wanted a PNG: export the masks anew as PNG")
    if mask.mode not in ("P", "L", "1", "I;16"):
        wanted = "wanted labels: a palette PNG (mode P) or a grey one (mode L)"
        raise ValueError(f"mask {path} is a picture of mode {mask.mode}, {wanted}")
    if image is not None:
        _check_fits(path, mask, image)
    pixels = np.asarray(mask, dtype=np.uint16 if mask.mode == "I;16" else np.uint8)
    if mask.mode == "L" and (scale := 255 // (2 ** mask.info["bits"] - 1)) > 1:
        pixels = pixels // scale
    used = np.flatnonzero(np.bincount(pixels.ravel())).tolist()
    meant = _meant(path, mask, used, colours) if mask.mode == "P" else used
    if strays := [label for label in meant if label not in colours.values()]:
        *_, last, void = sorted(colours.values())
        raise ValueError(f"mask {path} holds the labels {strays}, wanted 0..{last} and {void} for void")
    table = np.zeros(256, dtype=np.uint8)
    table[used] = meant
    labels = Image.fromarray(table[pixels] if meant != used else pixels.astype(np.uint8))
    labels.info["by_colour"] = meant != used
    return labels


def _upright(path: Path, kind: str) -> Image.Image:
    """The picture as it is meant to be seen; its `info` has the file's format, orientation and bits a sample.

    Not by Pillow's `exif_transpose`, which writes the EXIF data anew and fails where a tag of them is odd.
    """
    try:
        with Image.open(path, formats=FORMATS) as file:
            stored = file.getexif().get(ORIENTATION)
            orientation = stored if stored in TURNS else 1
            file.load()
            bits = path.read_bytes()[24] if file.format == "PNG" else 8  # of a PNG's header, which Pillow does not tell
            turn = None if file.format == "TIFF" else TURNS.get(orientation)  # Pillow has turned a TIFF already
            picture = file if turn is None else file.transpose(turn)
            picture.info = {"format": file.format, "orientation": orientation, "bits": bits}
            return picture
    except Exception as error:  # decoders raise anything: struct.error, TypeError, KeyError, ...
        remedy = f"replace the file (by {', '.join(FORMATS)}) or take its name out of the image set"
        raise ValueError(f"broken {kind} {path}: {str(error) or type(error).__name__}; {remedy}") from error


def _check_fits(path: Path, mask: Image.Image, image: Image.Image) -> None:
    """Refuse a mask of another size than its image, or one whose orientation is unclear."""
    turned, own = image.info["orientation"], mask.info["orientation"]
    remedy = "save both upright, without EXIF orientation"
    if mask.size != image.size:
        found, wanted = ("x".join(map(str, picture.size)) for picture in (mask, image))
        why = f", turned by the EXIF orientations {own} and {turned}: {remedy}" if turned != own else ""
        raise ValueError(f"mask {path} is {found}, its image {wanted}{why or ': make them one size'}")
    told_by_size = image.width != image.height and (turned >= 5) != (own >= 5)
    if turned != own and not told_by_size:
        found = f"mask {path} has the EXIF orientation {own}, its image {turned}"
        raise ValueError(f"{found}, which does not tell which way up the mask is: {remedy}")


def _meant(path: Path, mask: Image.Image, used: list[int], colours: Colours) -> list[int]:
    """The labels that the indices `used` of a palette PNG mean: those of their colours, or the indices themselves."""
    palette = [*zip(*[iter(mask.getpalette() or [])] * 3, strict=True)]  # RGB by index
    labels = [colours.get(palette[index]) if index < len(palette) else None for index in used]
    if all(label in (None, index) for label, index in zip(labels, used, strict=True)):
        return used
    known = [label for label in labels if label is not None]
    if len(known) == len(used):
        return known
    foreign = [index for label, index in zip(labels, used, strict=True) if label is None]
    raise ValueError(
        f"mask {path} has the colours of the classes {known} at other indices, but its indices {foreign} are of no class's"
        " colour: wanted indices that are the labels, or colours that are the classes' throughout"
    )
