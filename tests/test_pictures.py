import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch

from fcnseg.data import pictures as figures
from fcnseg.data import voc
from fcnseg.data.dataset import Classes
from fcnseg.report import charts
from fcnseg.report.blocks import Gallery

IMAGE = torch.full((3, 4, 6), 100, dtype=torch.uint8)
MASK = torch.zeros(4, 6, dtype=torch.uint8)
MASK[0, 0], MASK[1, 1] = 15, 255  # person, void


def texts(figure):
    svg = ET.fromstring(charts.svg(figure))
    return [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]


def test_colours_are_voc_s():
    assert figures.colour(MASK, voc.VOC)[0, 0].tolist() == [192, 128, 128]
    assert figures.colour(MASK, voc.VOC)[3, 3].tolist() == [0, 0, 0]


def test_an_overlay_leaves_background_alone():
    laid = figures.overlay(IMAGE, MASK, voc.VOC)
    assert laid[3, 3].tolist() == [100, 100, 100]
    assert laid[0, 0].tolist() == [155, 116, 116]


def test_a_panel_has_headings_names_and_a_legend():
    masks, two = torch.stack([MASK, MASK]), torch.stack([IMAGE, IMAGE])
    panel = figures.panel(two, masks, masks.long(), voc.VOC, ["first", "second"])
    assert panel.shape[1] == 4 * 25 * 6 + 3 * figures.GAP >= figures.WIDTH  # enlarged 25 times
    row, line = 25 * 4 + figures.LINE, figures.LINE
    dark = (panel < 128).all(-1)
    for heading in range(4):
        assert dark[:line, heading * (25 * 6 + figures.GAP) :][:, : 25 * 6].any()
    for number in range(2):
        assert dark[line + number * row :][:line].any()
        assert (panel[2 * line + number * row :, :150][: 25 * 4] == 100).all()
    below = panel[line + 2 * row :].reshape(-1, 3).tolist()
    assert all(list(bytes.fromhex(shade[1:])) in below for shade in figures.legend([masks], voc.VOC).values())


def test_a_panel_of_large_images_is_not_enlarged_and_takes_any_name():
    image, mask = torch.zeros(1, 3, 8, 224, dtype=torch.uint8), torch.zeros(1, 8, 224, dtype=torch.uint8)
    assert figures.panel(image, mask, mask, voc.VOC, ["a\nb\ud800"]).shape[1] == 4 * 224 + 3 * figures.GAP


@pytest.mark.parametrize("long", ["class", "sample"])
def test_no_name_of_a_panel_is_cut_off(long):
    """However long the name of a class or of a sample is, a column of white pixels lies to its right."""
    words, mask = "many words to tell " * 9, torch.zeros(1, 4, 6, dtype=torch.uint8)
    classes = Classes((words if long == "class" else "a", "b"), ((0, 0, 0), (9, 9, 9)), None)
    panel = figures.panel(IMAGE[None], mask, mask, classes, [words if long == "sample" else "x"])
    assert panel.shape[1] > 1000
    assert (panel[:, -1] == 255).all()
    assert (panel[:, 900:] == 0).any()


def test_a_legend_has_a_place_for_every_class():
    names = {name: "#ff0000" for name in voc.CLASSES}
    drawn = figures._drawn(names, 300)
    red = (drawn == [255, 0, 0]).all(-1)
    assert red.sum() == 21 * (figures.SWATCH - 1) ** 2
    assert drawn.shape[:2] == (11 * figures.LINE, 300)  # two columns


def test_no_label_is_cut_off():
    """However long the names are, every text lies within the picture of its chart."""
    titles = [f"transfer, learning rate {number} of many and very many words to tell" for number in range(3)]
    step = charts.AblationRow("a network of an especially long name, " * 3, 0.5, 0, 0.4, None)
    drawn = [
        charts.reliability(dict.fromkeys(titles, np.ones((3, 15)))),
        charts.ablation([step, charts.AblationRow(step.adds, 0.5, 0, 0.4, step)], 0.1),
    ]
    for figure in drawn:
        svg = ET.fromstring(charts.svg(figure))
        assert len(texts(figure)) > 3
        box = figure.get_tightbbox()
        width, height = (float(svg.get(side).removesuffix("pt")) / 72 for side in ("width", "height"))
        assert width >= 0.97 * box.width  # letters are not as wide in a file as on a screen
        assert height >= 0.97 * box.height
        assert min(axes.get_position().height * figure.get_figheight() for axes in figure.axes) > 0.5


def test_a_chart_has_no_style_that_a_strict_page_would_refuse():
    names = ('a style="b"', "x:y; style")
    svg = charts.svg(charts.ablation([charts.AblationRow(name, 0.5, 0, 0.4, None) for name in names], 0.1))
    assert "<style" not in svg
    assert re.search(r"<[^<>]* style=", svg) is None
    assert svg.count('a style="b"') == 1  # as a text


def test_a_legend_names_the_classes_there_are():
    assert figures.legend([MASK, torch.tensor([1])], voc.VOC) == {
        "background": "#000000",
        "aeroplane": "#800000",
        "person": "#c08080",
        "void": "#e0e0c0",
    }


@pytest.mark.parametrize("stopped", [True, False])
def test_loss_curves_mark_the_best_epoch_and_the_stop(stopped):
    figure = charts.loss_curves([charts.Curve([3, 2, 1], [3, 2, 2.5], best=1, stopped=stopped)])
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert lines["training"].get_xydata().tolist() == [[1, 3], [2, 2], [3, 1]]
    assert lines["best epoch"].get_xydata().tolist() == [[2, 2]]
    assert ("early stop" in lines) == stopped
    if stopped:
        assert lines["early stop"].get_xydata().tolist() == [[3, 2.5]]


def test_the_legend_names_a_line_once_for_several_seeds():
    curve = charts.Curve([3, 2], [3, 2], best=1, stopped=False)
    assert texts(charts.loss_curves([curve, curve])).count("training") == 1


def test_an_ablation_tells_what_was_added():
    first = charts.AblationRow("FCN", 0.05, 0, 0.06, None)
    shown = texts(charts.ablation([first, charts.AblationRow("+ flips", 0.07, 0.01, 0.05, first)], floor=0.04))
    assert {"FCN", "+ flips", "ours +0.0200", "paper's -0.0100", "background everywhere"} <= set(shown)


def test_a_gallery_shows_every_mask_alone_and_over_the_image():
    drawn = Gallery("x", IMAGE, MASK, {"fcn": MASK, "unet": MASK + 1}, voc.VOC).draw()
    alone, row = figures.panel(IMAGE[None], MASK[None], MASK[None], voc.VOC, ["fcn"]), 25 * 4 + figures.LINE
    assert (drawn[: figures.LINE + row, :600] == alone[: figures.LINE + row, :600]).all()
    assert (drawn[figures.LINE + row :][:row] != alone[figures.LINE :][:row]).any()


def test_ink_is_the_page_s_and_a_picture_is_on_white():
    curve = charts.Curve([3, 2], [3, 2], best=1, stopped=False)
    svg = charts.svg(charts.loss_curves([curve]))
    assert "currentColor" in svg
    assert charts.INK not in svg
    assert svg == charts.svg(charts.loss_curves([curve]))
    assert charts.picture(charts.loss_curves([curve])).convert("RGB").getpixel((0, 0)) == (255, 255, 255)
