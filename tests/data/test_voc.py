import os

import numpy as np
import pytest

from fcnseg.data import voc


def test_classes():
    assert len(voc.CLASSES) == voc.NUM_CLASSES == 21
    assert [voc.CLASSES[label] for label in (0, 1, 15, 20)] == ["background", "aeroplane", "person", "tvmonitor"]
    assert list(voc.CLASSES[1:]) == sorted(voc.CLASSES[1:])
    assert (voc.BACKGROUND, voc.VOID) == (0, 255)


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


def test_palette_is_whole():
    assert voc.PALETTE.shape == (256, 3)
    assert voc.PALETTE.dtype == np.uint8
    assert len(np.unique(voc.PALETTE, axis=0)) == 256


@pytest.mark.parametrize("place", ["VOCdevkit/VOC2012", "VOC2012", "."])
def test_find(tmp_path, place):
    assert voc.VOCFolder.find(tmp_path) is None
    (tmp_path / place / "ImageSets" / "Segmentation").mkdir(parents=True)
    assert voc.VOCFolder.find(tmp_path) == voc.VOCFolder(tmp_path / place)


def test_find_needs_image_sets_and_a_folder(tmp_path):
    (tmp_path / "VOC2012" / "JPEGImages").mkdir(parents=True)
    assert voc.VOCFolder.find(tmp_path) is None
    assert voc.VOCFolder.find(tmp_path / "absent") is None


@pytest.fixture
def folder(tmp_path):
    """Lists `a`, `b` and `c`; has two photographs and one mask."""
    made = voc.VOCFolder(tmp_path)
    for path in (made.image("a"), made.image("b"), made.mask("b")):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    image_sets = tmp_path / "ImageSets" / "Segmentation"
    image_sets.mkdir(parents=True)
    (image_sets / "val.txt").write_text("b\r\n\n  a \nc", newline="")
    (image_sets / "empty.txt").write_text(" \n\n")
    return made


def test_ids_are_in_the_files_order(folder):
    assert folder.names("val") == ("b", "a", "c")
    assert folder.image_sets() == ("empty", "val")


def test_missing_files(folder, tmp_path):
    assert folder.missing(("b",)) == []
    assert folder.missing(folder.names("val")) == [
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
        folder.names(image_set)


LISTS = {
    "BOM": b"\xef\xbb\xbfb\nc\n",
    "CRLF": b"b\r\n\r\nc\r\n",
    "spaces": b"  b \t\n \nc   ",
    "old Mac": b"b\rc",
}


@pytest.mark.parametrize("text", LISTS.values(), ids=LISTS)
def test_lists_of_any_editor(folder, text):
    (folder.path / "ImageSets" / "Segmentation" / "val.txt").write_bytes(text)
    assert folder.names("val") == ("b", "c")


@pytest.mark.parametrize(
    "text", ["übung\n".encode("latin-1"), "b\n".encode("utf-16"), "b\nc\n".encode("utf-16-le"), b"\xff\xfe"]
)
def test_a_list_in_another_encoding_is_named(folder, text):
    path = folder.path / "ImageSets" / "Segmentation" / "val.txt"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=r"val\.txt (is not in UTF-8 .*: save it in this encoding|names .*inside)"):
        folder.names("val")


def test_a_name_may_have_folders_and_letters_of_any_script(folder):
    (folder.path / "ImageSets" / "Segmentation" / "val.txt").write_text("ä/b\nc..d\n", encoding="utf-8")
    assert folder.names("val") == ("ä/b", "c..d")
    assert folder.image("ä/b") == folder.path / "JPEGImages" / "ä" / "b.jpg"


@pytest.mark.parametrize("name", ["../a", "x/../../../a", "/etc/a", "..", "x/.."])
def test_a_name_that_leads_out_of_the_data_set_is_refused(folder, name):
    (folder.path / "ImageSets" / "Segmentation" / "val.txt").write_text(f"b\n{name}\n")
    with pytest.raises(ValueError, match=rf"val\.txt names '{name}', wanted files inside .*JPEGImages"):
        folder.names("val")


@pytest.mark.parametrize("suffix", [".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".bmp", ".tif", ".tiff", ".webp"])
def test_photographs_with_other_suffixes(folder, suffix):
    path = folder.image("b").rename(folder.path / "JPEGImages" / f"b{suffix}")
    assert folder.image("b") == path
    assert folder.missing(["b"]) == []


def test_of_two_photographs_the_jpg_counts(folder):
    (folder.path / "JPEGImages" / "b.png").touch()
    assert folder.image("b").suffix == ".jpg"


def test_a_mask_s_suffix_may_be_upper_case(folder):
    path = folder.mask("b").rename(folder.path / "SegmentationClass" / "b.PNG")
    assert (folder.mask("b"), folder.missing(["b"])) == (path, [])


def test_what_is_no_file_is_missing(folder):
    folder.image("b").unlink()
    os.mkfifo(folder.image("b"))  # to open it would wait for ever
    assert folder.missing(["b"]) == [folder.path / "JPEGImages" / "b.jpg"]


def test_names_that_are_listed_more_than_once(folder):
    lists = folder.path / "ImageSets" / "Segmentation"
    (lists / "train.txt").write_text("a\nb\na\nd\na\n")
    assert folder.repeated("train") == ["train lists a 3 times, wanted once"]
    assert folder.repeated("val") == []
    wanted = ["val lists a, which train lists too", "val lists b, which train lists too"]
    assert folder.repeated("val", "train") == wanted
