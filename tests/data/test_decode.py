import io
import struct
import zlib
from functools import partial

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from fcnseg.data import decode, voc

read_mask = partial(decode.read_mask, legend=voc.LEGEND)


@pytest.fixture
def file(tmp_path):
    """Saves a picture, or bytes, and says where."""

    def saved(content, format="PNG", **options):
        path = tmp_path / "some.file"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.save(path, format, **options)
        return path

    return saved


def as_bytes(picture, format):
    buffer = io.BytesIO()
    picture.save(buffer, format)
    return buffer.getvalue()


def rgb(height=6, width=9):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP"])
def test_read_image_as_it_is(file, format):
    found = decode.read_image(file(Image.fromarray(rgb()), format))
    assert found.mode == "RGB"
    assert np.array_equal(np.asarray(found), rgb())


def test_read_image_of_a_palette(file):
    picture = Image.fromarray(rgb()).quantize(8)
    assert np.array_equal(np.asarray(decode.read_image(file(picture))), np.asarray(picture.convert("RGB")))


def test_read_image_of_cmyk(file):
    path = file(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    found = decode.read_image(path)
    assert found.mode == "RGB"
    assert np.abs(np.asarray(found).astype(int) - (255, 0, 0)).max() <= 6


@pytest.mark.parametrize("depth", [8, 16])
def test_read_image_of_grey(file, depth):
    grey = rgb()[..., 0]
    values = grey if depth == 8 else grey.astype(np.uint16) * 256 + 200  # dark ones stay dark
    found = np.asarray(decode.read_image(file(Image.fromarray(values))))
    assert np.array_equal(found, np.stack([grey] * 3, axis=-1))


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


ORIENTATIONS = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 6: lambda a: np.rot90(a, -1), 8: np.rot90}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_read_image_upright(file, orientation):
    path = file(Image.fromarray(rgb()), exif=turned(orientation))
    assert np.array_equal(np.asarray(decode.read_image(path)), ORIENTATIONS[orientation](rgb()))


@pytest.mark.parametrize("read", [decode.read_image, read_mask])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"<html>not found</html>",
        as_bytes(Image.fromarray(rgb(60, 60)), "JPEG")[:900],
        as_bytes(Image.fromarray(rgb(60, 60)), "PNG")[:900],
    ],
    ids=["empty", "magic", "html", "half a JPEG", "half a PNG"],
)
def test_broken_files(file, read, content):
    with pytest.raises(ValueError, match=r"^broken (image|mask) .*some\.file: .*; replace the file"):
        read(file(content))


@pytest.mark.parametrize("read", [decode.read_image, read_mask])
def test_missing_file(tmp_path, read):
    with pytest.raises(ValueError, match=r"^there is no (image|mask) .*absent\.png"):
        read(tmp_path / "absent.png")


def labels():
    return np.array([[0, 1, 20], [255, 255, 15]], dtype=np.uint8)


def with_palette(indices, colours=voc.PALETTE):
    mask = Image.fromarray(np.asarray(indices, dtype=np.uint8)).convert("P")
    mask.putpalette(np.asarray(colours, dtype=np.uint8).tobytes())
    return mask


def photograph(size, orientation=1):
    """A photograph as `read_image` gives it."""
    image = Image.new("RGB", size)
    image.info = {"orientation": orientation}
    return image


def read(path, image=None):
    """The labels of a mask, which is always read into mode L: any resize but nearest would mix them."""
    mask = read_mask(path, image)
    assert mask.mode == "L"
    return np.asarray(mask)


@pytest.mark.parametrize("mode", ["P", "L"])
@pytest.mark.parametrize("image", [None, photograph((3, 2))])
def test_read_mask(file, mode, image):
    mask = Image.fromarray(labels()) if mode == "L" else with_palette(labels())
    assert np.array_equal(read(file(mask), image), labels())


@pytest.mark.parametrize(
    ("mask", "size", "told"),
    [
        (Image.fromarray(rgb()), None, "is a picture of mode RGB, wanted labels"),
        (Image.fromarray(rgb()).convert("RGBA"), None, "is a picture of mode RGBA, wanted labels"),
        (Image.fromarray(labels()), (2, 3), "is 3x2, its image 2x3: make them one size"),
        (Image.fromarray(labels() // 10 * 7), None, r"holds the labels 175, wanted 0..20 and 255"),
        (Image.fromarray(np.array([[0, 21, 254, 21]], dtype=np.uint8)), None, r"holds the labels 21, 254"),
        (with_palette([[0, 21, 254, 21]]), None, r"holds the labels 21, 254"),
        (Image.fromarray(np.array([[0, 256, 65535]], dtype=np.uint16)), None, r"holds the labels 256, 65535"),
    ],
    ids=["RGB", "RGBA", "size", "stray", "bounds", "bounds of a palette", "16 bit"],
)
def test_masks_that_are_none(file, mask, size, told):
    with pytest.raises(ValueError, match=rf"^mask .*some\.file {told}"):
        read_mask(file(mask), size and photograph(size))


@pytest.mark.parametrize("format", ["JPEG", "BMP", "TIFF", "WEBP"])
def test_masks_are_png(file, format):
    """A JPEG's compression makes labels that nobody has drawn."""
    mask = Image.fromarray(np.repeat(np.repeat(labels(), 16, 0), 16, 1) // 20)
    reason = "a JPEG file, whose compression changes labels, wanted a PNG" if format == "JPEG" else "wanted a PNG"
    with pytest.raises(ValueError, match=rf"^mask .*some\.file is .*{reason}"):
        read_mask(file(mask, format))


def png(depth, kind, rows):
    """A PNG of few bits a sample, which Pillow does not write: grey (kind 0) or with a palette (kind 3)."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    packed = b""
    for row in rows:
        bits = "".join(f"{value:0{depth}b}" for value in row)
        packed += b"\0" + int(bits.ljust(-len(bits) % 8 + len(bits), "0"), 2).to_bytes((len(bits) + 7) // 8, "big")
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), depth, kind, 0, 0, 0)
    palette = chunk(b"PLTE", voc.PALETTE[: 2**depth].tobytes()) if kind == 3 else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + chunk(b"IDAT", zlib.compress(packed)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", [0, 3], ids=["grey", "palette"])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_mask_s_samples_are_what_the_file_stores(file, depth, kind):
    """Pillow scales grey of 2 bits by 85 and of 4 bits by 17."""
    rows = np.arange(12).reshape(3, 4) % min(2**depth, 12)
    assert np.array_equal(read(file(png(depth, kind, rows.tolist()))), rows)


def test_a_mask_of_16_bits_is_read(file):
    assert np.array_equal(read(file(Image.fromarray(labels().astype(np.uint16)))), labels())


def test_colours_count_where_all_are_the_classes(file):
    """As optimisers, GIMP and Pillow's `quantize` store a mask: the palette holds the colours in use, in any order."""
    colours = voc.PALETTE[labels()]
    looks = {
        "compacted": with_palette(np.searchsorted([0, 1, 15, 20, 255], labels()), voc.PALETTE[[0, 1, 15, 20, 255]]),
        "quantised": Image.fromarray(colours).quantize(8),
        "adaptive": Image.fromarray(colours).convert("P", palette=Image.Palette.ADAPTIVE),
    }
    for name, mask in looks.items():
        assert np.array_equal(np.asarray(mask.convert("RGB")), colours)
        path = file(mask)
        assert np.array_equal(read(path), labels()), name
        assert read_mask(path).info["by_colour"]
    assert not read_mask(file(with_palette(labels()))).info["by_colour"]


@pytest.mark.parametrize("palette", ["grey", "bright", "short", "coincidence"])
def test_indices_count_where_colours_are_no_class_s(file, palette):
    colours = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)  # a grey ramp, as Pillow gives a "P" image
    if palette == "bright":
        colours[1:4] = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    if palette == "coincidence":
        colours[1] = voc.PALETTE[1]
    indices = [[0, 1, 2, 3]] if palette != "short" else [[0, 1, 1, 1]]
    path = file(with_palette(indices, colours[:2] if palette == "short" else colours))
    assert read(path).tolist() == indices
    assert not read_mask(path).info["by_colour"]


def test_a_palette_with_some_of_the_classes_colours_elsewhere_is_refused(file):
    """By index or by colour, some of its labels would be wrong."""
    mask = with_palette([[0, 1, 2]], [(0, 0, 0), (1, 2, 3), voc.PALETTE[15]])
    with pytest.raises(ValueError, match=r"the colours of the classes \[0, 15\] at other indices, .* indices \[1\] are of no"):
        read_mask(file(mask))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_mask_is_turned_together_with_its_image(file, orientation):
    image = decode.read_image(file(Image.fromarray(rgb(2, 3)), exif=turned(orientation)))
    path = file(with_palette(labels()), exif=turned(orientation))
    assert np.array_equal(read(path, image), ORIENTATIONS[orientation](labels()))


def test_a_mask_drawn_over_the_upright_image_stays(file):
    image = decode.read_image(file(Image.fromarray(rgb(3, 2)), exif=turned(6)))
    assert np.array_equal(read(file(with_palette(labels())), image), labels())


@pytest.mark.parametrize(
    ("one", "other", "size", "told"),
    [
        (3, 1, (3, 2), "orientation 1, its image 3, which does not tell which way up"),
        (1, 2, (3, 2), "orientation 2, its image 1, which does not tell which way up"),
        (6, 1, (2, 2), "orientation 1, its image 6, which does not tell which way up"),
        (6, 8, (3, 2), "orientation 8, its image 6, which does not tell which way up"),
        (6, 1, (3, 2), r"is 3x2, its image 2x3 \(turned upright by its EXIF orientation 6\), wanted one size: save both"),
        (1, 8, (3, 2), r"is 2x3 \(turned upright by its EXIF orientation 8\), its image 3x2, wanted one size: save both"),
    ],
)
def test_a_mask_of_which_nobody_knows_which_way_up_it_is_is_refused(file, one, other, size, told):
    image = decode.read_image(file(Image.new("RGB", size), exif=turned(one)))
    with pytest.raises(ValueError, match=told):
        read_mask(file(Image.new("L", size), exif=turned(other)), image)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_every_format_is_turned_once(file, format):
    path = file(Image.new("RGB", (8, 24)), format, exif=turned(6))
    found = decode.read_image(path)
    assert (found.size, found.info["orientation"]) == ((24, 8), 6)


def odd_exif(orientation, tag, kind):
    """EXIF with an orientation and one tag more, of a kind that Pillow reads, but cannot write."""
    entries = struct.pack("<HHIHH", 0x112, 3, 1, orientation, 0) + struct.pack("<HHII", tag, kind, 1, 38)
    ifd = struct.pack("<H", 2) + entries + struct.pack("<I", 0)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + ifd + struct.pack("<ii", -1, 0)


@pytest.mark.parametrize(("tag", "kind"), [(0x11A, 10), (0x11A, 5), (0x10F, 10)])
def test_odd_exif_does_not_hinder(file, tag, kind):
    """`ImageOps.exif_transpose`, which writes the tags anew, raises struct.error for the first of them."""
    path = file(Image.fromarray(rgb(8, 16)), "JPEG", exif=odd_exif(6, tag, kind))
    assert decode.read_image(path).size == (8, 16)


@pytest.mark.parametrize("error", [KeyError("tag"), TypeError("odd"), struct.error("odd"), RuntimeError(), IndexError("3")])
def test_whatever_a_decoder_raises_names_the_file(file, monkeypatch, error):
    def fails(self):
        raise error

    path = file(Image.fromarray(rgb()))
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fails)
    for kind, read in (("image", decode.read_image), ("mask", read_mask)):
        with pytest.raises(ValueError, match=rf"^broken {kind} .*some\.file: .+; replace the file"):
            read(path)


@pytest.mark.parametrize("format", ["EPS", "GIF", "PPM", "ICO", "PDF"])
def test_other_formats_are_not_opened(file, monkeypatch, format):
    """Pillow hands an EPS, whatever its suffix, to Ghostscript."""
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("Ghostscript was called"))
    path = file(Image.new("RGB", (16, 16)), format)
    for read in (decode.read_image, read_mask):
        with pytest.raises(ValueError, match=r"cannot identify image file .*replace the file \(by JPEG, PNG"):
            read(path)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_images_of_32_bits_are_refused(file, mode):
    with pytest.raises(ValueError, match="has 32 bits a sample, wanted 8 or 16"):
        decode.read_image(file(Image.new(mode, (4, 4), 70000), "TIFF"))
