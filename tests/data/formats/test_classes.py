"""What classes.yaml and the lists of programs mean, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from fcnseg.data import decode, voc
from fcnseg.data.dataset import VOID
from fcnseg.data.formats.classes import class_list_of_shapes, find_class_list


@pytest.fixture
def said(tmp_path):
    """The class list that a text says."""

    def said(text, name="classes.yaml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return find_class_list(tmp_path)

    return said


def test_names_alone(said):
    found = said("names: [background, crack]")
    assert found.classes.names == ("background", "crack")
    assert found.classes.background == 0
    assert found.classes.colours == tuple(map(tuple, voc.PALETTE[:2].tolist()))
    assert found.legend.values == {0: 0, 1: 1, 255: VOID}
    assert found.legend.colours == {}


def test_numbers_of_masks_that_are_0_and_255(said):
    assert said("names: {0: background, 255: crack}").legend.values == {0: 0, 255: 1}


def test_colours_void_and_map(said):
    found = said(
        "names: [road, car]\ncolors: {road: [128, 64, 128], car: '#00008e'}\nvoid: [[0, 0, 0], 254]\n"
        "map: {'107,142,35': road, '1, 2, 3': void}\n"
    )
    assert found.classes.background is None
    assert found.classes.colours == ((128, 64, 128), (0, 0, 142))
    colours = {(128, 64, 128): 0, (0, 0, 142): 1, (0, 0, 0): VOID, (107, 142, 35): 0, (1, 2, 3): VOID}
    assert found.legend.colours == colours
    assert found.legend.values == {0: 0, 1: 1, 254: VOID, 255: VOID}


@pytest.mark.parametrize(
    "text",
    [
        "colors: {a: [0, 0, 0], b: [1, 2, 3], void: '#ffffff'}",
        "colors: [[0, 0, 0], [1, 2, 3]]\nvoid: '#ffffff'",
        "colors: [[0, 0, 0], [1, 2, 3]]\nmap: {'#ffffff': void}",
    ],
)
def test_a_colour_of_void_is_written_where_one_would_look_for_it(said, text):
    found = said(f"names: [a, b]\n{text}")
    assert found.classes.names == ("a", "b")
    assert found.legend.colours == {(0, 0, 0): 0, (1, 2, 3): 1, (255, 255, 255): VOID}
    assert found.legend.values == {0: 0, 1: 1, 255: VOID}


def test_a_class_that_is_called_void_keeps_its_colour(said):
    found = said("names: [a, void]\ncolors: [[0, 0, 0], [1, 2, 3]]")
    assert found.legend.colours == {(0, 0, 0): 0, (1, 2, 3): 1}


def test_a_map_of_numbers_is_all_that_counts(said):
    """A number that it leaves out is no class, though a class has this place: Cityscapes stores fences as 13 is stored."""
    found = said("names: [road, car, sky]\nmap: {7: road, 26: 1, 23: sky, 0: void, 1: 255}\n")
    assert found.legend.values == {7: 0, 26: 1, 23: 2, 0: VOID, 1: VOID, 255: VOID}


def test_a_class_without_a_colour_gets_one_that_is_free(said):
    found = said("names: [a, b, c]\ncolors: {c: [0, 0, 0]}")
    assert len(set(found.classes.colours)) == 3
    assert found.legend.colours == {(0, 0, 0): 2}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no keys, wanted names:"),
        ("- a\n- b", "has no keys, wanted names:"),
        ("classes: [a, b]", "has the keys classes, wanted names:"),
        ("names: [a, b]\ncolours: [[1, 2, 3], [3, 4, 5]]", "has the keys names, colours, wanted names:"),
        ("names: [a]", "1 class, wanted 2 to 254"),
        ("names: [" + ", ".join(f"c{i}" for i in range(255)) + "]", "255 classes, wanted 2 to 254"),
        ("names: [a, a]", "several classes have the name a, wanted a name for each"),
        ("names: [yes, no]", "names: has 0: True, wanted a number of 0..65535 and a name: put it in quotes"),
        ("names: {a: 0, b: 1}", "names: has a: 0, wanted a number"),
        ("names: {0: a, 65536: b}", "names: has 65536: b, wanted a number"),
        ("names: ab", "names: is 'ab', wanted a list"),
        ("names: [a, b]\ncolors: [[1, 2, 3]]", "has 1 colors for 2 names"),
        ("names: [a, b]\ncolors: {a: [1, 2]}", r"\[1, 2\] is no colour, wanted \[r, g, b\]"),
        ("names: [a, b]\ncolors: {a: [1, 2, 256]}", r"\[1, 2, 256\] is no colour"),
        ("names: [a, b]\ncolors: {c: [1, 2, 3]}", "mentions c, which is no class: the names are a, b"),
        ("names: [a, b]\ncolors: {a: [1, 2, 3], b: '1,2,3'}", "gives two classes one colour"),
        ("names: [a, b]\nmap: {7: c}", "mentions c, which is no class"),
        ("names: [a, b]\nmap: {7: 2}", r"map: leads to 2, which is no number of a class: wanted one of \[0, 1\]"),
        ("names: [a, b]\nmap: {70000: a}", "70000 is no number that a mask can hold"),
        ("names: [a, b]\nmap: [1]", "wanted colors: and map: with lines of 'key: value'"),
        ("names: [a, b]\nvoid: '#fff'", "'#fff' is no colour, wanted"),
        ("names: [a, b]\nvoid: [254, white]", "'white' is no colour, wanted"),
        ("names: [a, b", "while parsing"),
    ],
)
def test_what_is_refused(said, text, told):
    with pytest.raises(ValueError, match=rf"classes\.yaml:?( it)? {told}"):
        said(text)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("labelmap.txt", "a:0,0,0::\nb::\n", "the line 'b::', wanted name:r,g,b::"),
        ("_classes.csv", "Pixel Value, Class\n0, a\nb, 1\n", "the line 'b,1', wanted a pixel value and a class"),
        ("class_names.txt", "a\n", r"class_names\.txt: 1 class, wanted"),
    ],
)
def test_broken_lists_of_programs(said, name, text, told):
    with pytest.raises(ValueError, match=told):
        said(text, name)


def test_cvat_may_have_any_colour_for_background(said):
    found = said("# comment\ncrack:255,0,0::\nbackground:1,2,3::\nignore:9,9,9::\n", "labelmap.txt")
    assert (found.classes.names, found.classes.background) == (("crack", "background"), 1)
    assert found.legend.colours == {(255, 0, 0): 0, (1, 2, 3): 1, (9, 9, 9): VOID}


def test_polygons_name_their_classes(tmp_path):
    found = class_list_of_shapes(tmp_path, ["car", "_background_", "__ignore__"])
    assert found.classes.names == ("_background_", "car")
    assert (found.words["car"], found.words["__ignore__"]) == (1, VOID)
    assert class_list_of_shapes(tmp_path, ["car"]).classes.names == ("background", "car")


def test_a_colour_that_no_class_has_is_named_with_the_nearest(said, tmp_path):
    legend = said("names: [a, b]\ncolors: [[0, 0, 0], [200, 0, 0]]").legend
    mask = Image.new("RGB", (4, 2))
    mask.putpixel((0, 0), (190, 5, 5))
    mask.putpixel((1, 1), (0, 1, 0))
    mask.putpixel((2, 1), (0, 1, 0))
    mask.save(path := tmp_path / "mask.png")
    told = r"holds colours that no class has: \(0, 1, 0\) in 2 pixels \(nearest: \(0, 0, 0\)\), \(190, 5, 5\) in 1 pixels"
    with pytest.raises(ValueError, match=told + r" \(nearest: \(200, 0, 0\)\); wanted those of the classes$"):
        decode.read_mask(path, legend=legend)
    mask.resize((64, 64), Image.Resampling.BICUBIC).save(path)
    with pytest.raises(ValueError, match="so many come from smoothed edges: export the masks without anti-aliasing"):
        decode.read_mask(path, legend=legend)
    with pytest.raises(ValueError, match=r"no class has a colour: write colors: into classes\.yaml"):
        decode.read_mask(path, legend=said("names: [a, b]").legend)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_files_without_loss_are_masks(said, tmp_path, suffix):
    legend = said("names: [a, b]\ncolors: [[0, 0, 0], [200, 0, 0]]").legend
    grey = Image.fromarray(np.array([[0, 1], [255, 1]], dtype=np.uint8))
    for mask in (grey, grey.convert("1")) if suffix != "bmp" else (grey,):
        mask.save(path := tmp_path / f"mask.{suffix}")
        wanted = np.asarray(mask, dtype=np.uint8)
        assert np.array_equal(decode.read_mask(path, legend=legend), wanted)
    colours = np.array([[[0, 0, 0], [200, 0, 0]]], dtype=np.uint8)
    Image.fromarray(colours).save(path)
    assert np.asarray(decode.read_mask(path, legend=legend)).tolist() == [[0, 1]]


def test_a_mask_s_transparency_means_nothing(said, tmp_path):
    legend = said("names: [a, b]\ncolors: [[0, 0, 0], [200, 0, 0]]").legend
    Image.new("RGBA", (2, 2), (200, 0, 0, 7)).save(path := tmp_path / "mask.png")
    assert np.asarray(decode.read_mask(path, legend=legend)).tolist() == [[1, 1], [1, 1]]
    Image.new("LA", (2, 2), (1, 7)).save(path)
    assert np.asarray(decode.read_mask(path, legend=legend)).tolist() == [[1, 1], [1, 1]]


def test_a_jpeg_is_no_mask(said, tmp_path):
    Image.new("RGB", (8, 8)).save(path := tmp_path / "mask.jpg")
    with pytest.raises(ValueError, match="is a JPEG file, whose compression changes labels, wanted a PNG"):
        decode.read_mask(path, legend=said("names: [a, b]").legend)


def test_the_table_of_colours_gives_what_comparing_them_gives(said, tmp_path):
    rng = np.random.default_rng(0)
    colours = rng.permutation(2**24)[:254]
    colours = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1)
    lines = [f"  - {colour}" for colour in colours.tolist()]
    text = "names: [" + ", ".join(f"c{i}" for i in range(254)) + "]\ncolors:\n" + "\n".join(lines)
    labels = rng.integers(0, 254, (40, 50))
    picture = colours[labels].astype(np.uint8)
    Image.fromarray(picture).save(path := tmp_path / "mask.png")
    plain = np.array([[[(pixel == colour).all() for colour in colours].index(True) for pixel in row] for row in picture[:3]])
    found = np.asarray(decode.read_mask(path, legend=said(text).legend))
    assert np.array_equal(found, labels)
    assert np.array_equal(found[:3], plain)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "palette with alpha"])
def test_a_photograph_is_shown_over_white(tmp_path, mode):
    path = tmp_path / "image.png"
    clear = Image.new("RGBA", (2, 1), (10, 10, 10, 0))
    clear.putpixel((1, 0), (10, 10, 10, 255))
    if mode in ("RGBA", "LA"):
        clear.convert(mode).save(path)
    else:
        picture = Image.new("P", (2, 1))
        picture.putpalette([10, 10, 10] * 256)
        picture.putpixel((1, 0), 1)
        picture.save(path, transparency=0 if mode == "P" else bytes([0, 255]))
    assert np.asarray(decode.read_image(path)).tolist() == [[[255] * 3, [10] * 3]]
