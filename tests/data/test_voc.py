import io

import numpy as np
import pytest
from PIL import Image

from fcnseg.data import voc
from fcnseg.data.shapes import shapes


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


def test_classes():
    assert len(voc.CLASSES) == voc.NUM_CLASSES == 21
    assert [voc.CLASSES[label] for label in (0, 1, 15, 20)] == ["background", "aeroplane", "person", "tvmonitor"]
    assert list(voc.CLASSES[1:]) == sorted(voc.CLASSES[1:])
    assert (voc.BACKGROUND, voc.VOID) == (0, 255)
    assert voc.MEAN == (0.485, 0.456, 0.406)
    assert voc.STD == (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("label", "colour"),
    {
        0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 4: (0, 0, 128), 5: (128, 0, 128),
        6: (0, 128, 128), 7: (128, 128, 128), 8: (64, 0, 0), 9: (192, 0, 0), 10: (64, 128, 0), 11: (192, 128, 0),
        12: (64, 0, 128), 13: (192, 0, 128), 14: (64, 128, 128), 15: (192, 128, 128), 16: (0, 64, 0),
        17: (128, 64, 0), 18: (0, 192, 0), 19: (128, 192, 0), 20: (0, 64, 128), 255: (224, 224, 192),
    }.items(),
)  # fmt: skip
def test_palette(label, colour):
    assert tuple(voc.PALETTE[label].tolist()) == colour


def test_palette_is_whole_and_that_of_the_masks(tmp_path):
    assert voc.PALETTE.shape == (256, 3)
    assert voc.PALETTE.dtype == np.uint8
    assert len(np.unique(voc.PALETTE, axis=0)) == 256
    folder = shapes(tmp_path, train=1, val=1, seed=0)
    mask = Image.open(folder.mask(folder.ids("train")[0]))
    assert mask.mode == "P"
    assert mask.getpalette() == voc.PALETTE.flatten().tolist()


@pytest.mark.parametrize("place", ["VOCdevkit/VOC2012", "VOC2012", "."])
def test_find(tmp_path, place):
    assert voc.Folder.find(tmp_path) is None
    (tmp_path / place / "ImageSets" / "Segmentation").mkdir(parents=True)
    assert voc.Folder.find(tmp_path) == voc.Folder(tmp_path / place)


def test_find_needs_image_sets_and_a_folder(tmp_path):
    (tmp_path / "VOC2012" / "JPEGImages").mkdir(parents=True)
    assert voc.Folder.find(tmp_path) is None
    assert voc.Folder.find(tmp_path / "absent") is None


@pytest.fixture
def folder(tmp_path):
    """Lists `a`, `b` and `c`; has two photographs and one mask."""
    made = voc.Folder(tmp_path)
    for path in (made.image("a"), made.image("b"), made.mask("b")):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    image_sets = tmp_path / "ImageSets" / "Segmentation"
    image_sets.mkdir(parents=True)
    (image_sets / "val.txt").write_text("b\r\n\n  a \nc", newline="")
    (image_sets / "empty.txt").write_text(" \n\n")
    return made


def test_ids_are_in_the_files_order(folder):
    assert folder.ids("val") == ("b", "a", "c")
    assert folder.image_sets() == ("empty", "val")


def test_missing_files(folder, tmp_path):
    assert folder.missing(("b",)) == []
    assert folder.missing(folder.ids("val")) == [
        tmp_path / "SegmentationClass" / "a.png",
        tmp_path / "JPEGImages" / "c.jpg",
        tmp_path / "SegmentationClass" / "c.png",
    ]


@pytest.mark.parametrize(
    ("image_set", "told"),
    [
        ("train", r"no image set 'train': found \['empty', 'val'\], wanted .*train\.txt"),
        ("empty", "is empty: .*"),
    ],
)
def test_no_ids(folder, image_set, told):
    with pytest.raises(ValueError, match=told):
        folder.ids(image_set)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP"])
def test_read_image_as_it_is(file, format):
    found = voc.read_image(file(Image.fromarray(rgb()), format))
    assert found.mode == "RGB"
    assert np.array_equal(np.asarray(found), rgb())


def test_read_image_of_a_palette(file):
    picture = Image.fromarray(rgb()).quantize(8)
    assert np.array_equal(np.asarray(voc.read_image(file(picture))), np.asarray(picture.convert("RGB")))


def test_read_image_of_cmyk(file):
    path = file(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    found = voc.read_image(path)
    assert found.mode == "RGB"
    assert np.abs(np.asarray(found).astype(int) - (255, 0, 0)).max() <= 6


@pytest.mark.parametrize("depth", [8, 16])
def test_read_image_of_grey(file, depth):
    grey = rgb()[..., 0]
    values = grey if depth == 8 else grey.astype(np.uint16) * 256 + 200  # dark ones stay dark
    found = np.asarray(voc.read_image(file(Image.fromarray(values))))
    assert np.array_equal(found, np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [(1, lambda a: a), (2, np.fliplr), (3, lambda a: np.rot90(a, 2)), (6, lambda a: np.rot90(a, -1)), (8, np.rot90)],
)
def test_read_image_upright(file, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = file(Image.fromarray(rgb()), exif=exif)
    assert np.array_equal(np.asarray(voc.read_image(path)), upright(rgb()))


@pytest.mark.parametrize("read", [voc.read_image, voc.read_mask])
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


@pytest.mark.parametrize("read", [voc.read_image, voc.read_mask])
def test_missing_file(tmp_path, read):
    with pytest.raises(ValueError, match=r"broken .*absent\.png"):
        read(tmp_path / "absent.png")


def labels():
    return np.array([[0, 1, 20], [255, 255, 15]], dtype=np.uint8)


@pytest.mark.parametrize("mode", ["P", "L"])
@pytest.mark.parametrize("size", [None, (3, 2)])
def test_read_mask(file, mode, size):
    mask = Image.fromarray(labels())
    if mode == "P":
        mask = mask.convert("P")
        mask.putpalette(voc.PALETTE.tobytes())
    found = voc.read_mask(file(mask), size)
    assert found.mode == mode
    assert np.array_equal(np.asarray(found), labels())


@pytest.mark.parametrize(
    ("mask", "size", "told"),
    [
        (Image.fromarray(rgb()), None, "is a picture of mode RGB, wanted labels"),
        (Image.fromarray(rgb()).convert("RGBA"), None, "is a picture of mode RGBA, wanted labels"),
        (Image.fromarray(labels().astype(np.uint16)), None, "is a picture of mode I;16, wanted labels"),
        (Image.fromarray(labels() > 0), None, "is a picture of mode 1, wanted labels"),
        (Image.fromarray(labels()), (2, 3), "is 3x2, its image 2x3"),
        (Image.fromarray(labels() // 10 * 7), None, r"holds the labels \[175\], wanted 0..20 and 255"),
        (Image.fromarray(np.array([[0, 21, 254, 21]], dtype=np.uint8)), None, r"holds the labels \[21, 254\]"),
    ],
    ids=["RGB", "RGBA", "16 bit", "1 bit", "size", "stray", "bounds"],
)
def test_masks_that_are_none(file, mask, size, told):
    with pytest.raises(ValueError, match=rf"^mask .*some\.file {told}"):
        voc.read_mask(file(mask), size)
