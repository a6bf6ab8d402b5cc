"""Polygons and runs against the slow and obvious way."""

import math

import numpy as np
import pytest
from PIL import Image

from fcnseg.data.dataset import VOID
from fcnseg.data.formats import polygons
from fcnseg.data.formats.classes import class_list, class_list_of_shapes
from fcnseg.data.formats.polygons import Drawing, pixels_of, pixels_of_polygons, pixels_of_runs

from .writers import as_text, run_lengths


def one_pixel(points, x, y):
    """Whether the ray from a point to the right crosses an odd number of edges."""
    odd = False
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if (y0 > y) != (y1 > y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x:
            odd = not odd
    return odd


@pytest.mark.parametrize("seed", range(12))
def test_a_polygon_covers_the_centres_inside(seed, monkeypatch):
    monkeypatch.setattr(polygons, "EDGES", 1 + seed)  # in one block, and in several
    rng = np.random.default_rng(seed)
    points = rng.uniform(-8, 38, (int(rng.integers(3, 12)), 2)) if seed % 2 else rng.integers(-3, 33, (5, 2)) / 2
    wanted = [[one_pixel(points, x + 0.5, y + 0.5) for x in range(30)] for y in range(20)]
    assert np.array_equal(pixels_of_polygons([points], (20, 30)), wanted)


def test_neighbours_share_no_pixel_and_leave_none_out():
    corners, middle = [[0, 0], [40, 0], [40, 30], [0, 30]], [17.3, 11.9]
    parts = [
        pixels_of_polygons([np.array([a, b, middle])], (30, 40))
        for a, b in zip(corners, [*corners[1:], corners[0]], strict=True)
    ]
    assert (np.sum(parts, axis=0) == 1).all()


@pytest.mark.parametrize("seed", range(4))
def test_runs(seed):
    rng = np.random.default_rng(seed)
    wanted = np.repeat(np.repeat(rng.random((9, 7)) < 0.5, 37, 0), 29, 1)
    counts = run_lengths(wanted)
    size = wanted.shape
    assert np.array_equal(pixels_of_runs(counts, size, size), wanted)
    assert np.array_equal(pixels_of_runs(as_text(counts), list(size), size), wanted)


def test_text_of_coco_s_own_tool():
    """Both texts are what pycocotools 2.0.11 encodes."""
    assert np.array_equal(pixels_of_runs("013000", [3, 3], (3, 3)), np.eye(3))
    y, x = np.mgrid[:50, :70]
    disc = "ia0=S14L4M2M4M2N2O0O2N2O0O2O0O2O000000000000000000000001N101N101N2N101N2N3L3N3L4Lgn0"
    assert np.array_equal(pixels_of_runs(disc, [50, 70], (50, 70)), (x - 30) ** 2 + (y - 25) ** 2 < 400)


SHAPES = {
    "size": {"counts": [4], "size": [2, 3]},
    "negative": {"counts": [9, -1, 1], "size": [3, 3]},
    "kind": {"shape_type": "line", "points": [[0, 0], [1, 1]]},
    "odd": [[1, 2, 3]],
    "no number": [[0, 0, 2, 0, math.nan, 2]],
    "infinite": [[0, 0, 2, 0, math.inf, 2]],
    "words": [["a", "b"]],
    "no points": {"shape_type": "polygon"},
    "picture": {"shape_type": "mask", "points": [[0, 0]], "mask": "AAAA"},
    "outside": {"shape_type": "circle", "points": [[0, 0]]},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_broken_shapes_are_named(tmp_path, shape):
    with pytest.raises(ValueError, match=r"a shape of the class car in x is broken"):
        Drawing((3, 3), [("car", shape)]).draw(tmp_path, "x", None, class_list_of_shapes(tmp_path, ["car"]))


def test_a_size_or_class_that_does_not_fit_is_named(tmp_path):
    classes = class_list_of_shapes(tmp_path, ["car"])
    with pytest.raises(ValueError, match="the size of x is 3x2, its image 2x3: save the image upright"):
        Drawing((3, 2), []).draw(tmp_path, "x", Image.new("RGB", (2, 3)), classes)
    with pytest.raises(ValueError, match="x has a shape of the class bus, wanted one of background, car"):
        Drawing((3, 2), [("bus", [])]).draw(tmp_path, "x", None, classes)


def test_what_nothing_covers_is_background_or_void(tmp_path):
    drawing = Drawing((3, 1), [("a", [[1, 0, 3, 0, 3, 1, 1, 1]]), ("b", [[2, 0, 3, 0, 3, 1, 2, 1]])])
    assert np.asarray(drawing.draw(tmp_path, "x", None, class_list_of_shapes(tmp_path, ["a", "b"]))).tolist() == [[0, 1, 2]]
    bare = class_list(tmp_path, {0: "a", 1: "b"})
    assert bare.words["a"] == 0
    assert np.asarray(drawing.draw(tmp_path, "x", None, bare)).tolist() == [[VOID, 0, 1]]


def test_a_circle():
    found = pixels_of({"shape_type": "circle", "points": [[5, 5], [5, 8]]}, (10, 10))
    wanted = [[(x - 4.5) ** 2 + (y - 4.5) ** 2 <= 9 for x in range(10)] for y in range(10)]
    assert np.array_equal(found, wanted)
