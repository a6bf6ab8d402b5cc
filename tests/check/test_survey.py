import io
import math
import shutil
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
from PIL import Image

from fcnseg.check.survey import Survey, render, survey
from fcnseg.cli.messages import console
from fcnseg.data import voc
from fcnseg.data.shapes import shapes
from fcnseg.learning.metrics import confusion, everywhere, scores

# Counted from the official masks of VOC-2012's train set: 21 classes, then void.
VOC_TRAIN = (
    182014429, 1780580, 758311, 2232247, 1514260, 1517186, 4375622, 3494749, 6752515, 2861091, 2060925,
    3381632, 4344951, 2283739, 2888641, 11995853, 1670340, 2254463, 3612229, 3984238, 2349235, 14335564,
)  # fmt: skip


def of_counts(pixels, name="train", problems=()):
    return Survey(name, 1464, (142, 500, 500), (71, 375, 500), tuple(pixels), (0,) * 22, voc.VOC, problems)


def printed(*surveys):
    with redirect_stdout(io.StringIO()) as file:
        render(surveys, [], console())
    return file.getvalue()


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return shapes(tmp_path_factory.mktemp("sound"), train=10, val=2, seed=0)


@pytest.fixture
def folder(sound, tmp_path):
    shutil.copytree(sound.path, tmp_path / "VOC2012")
    return voc.VOCFolder(tmp_path / "VOC2012")


@pytest.fixture
def tiny(tmp_path):
    """Two images, 4x2 and 2x3 pixels."""
    labels = {"a": [[0, 0, 0, 15], [0, 255, 15, 15]], "b": [[0, 0], [0, 0], [255, 2]]}
    folder = voc.new_folder(tmp_path, {"train": labels})
    for name, rows in labels.items():
        mask = Image.fromarray(np.array(rows, dtype=np.uint8))
        mask.save(folder.mask(name))
        Image.new("RGB", mask.size).save(folder.image(name))
    return folder


def test_masks_of_a_reader_of_one_s_own_need_no_further_facts(tiny, monkeypatch):
    """As packs need none."""
    monkeypatch.setattr(voc.VOCFolder, "read_mask", lambda self, name, _: Image.open(self.mask(name)))
    found = survey(tiny, "train")
    assert (found.images, found.by_colour, found.problems) == (2, 0, ())


def test_numbers_worked_by_hand(tiny):
    found = survey(tiny, "train")
    assert (found.name, found.images, found.problems) == ("train", 2, ())
    assert (found.width, found.height) == ((2, 2, 4), (2, 2, 3))
    expected = {0: 8, 2: 1, 15: 3, 21: 2}
    assert found.pixels == tuple(expected.get(label, 0) for label in range(22))
    assert found.holding == tuple({0: 2, 2: 1, 15: 1, 21: 2}.get(label, 0) for label in range(22))
    assert found.void_share == pytest.approx(2 / 14)
    assert found.floor == pytest.approx((8 / 12, 8 / 12 / 3))
    assert found.weights == pytest.approx([{0: 4 / 14, 2: 13 / 14, 15: 11 / 14}.get(label, 1) for label in range(21)])


def test_facts_of_voc_2012():
    found = of_counts(VOC_TRAIN)
    assert found.floor == pytest.approx((0.73355, 0.73355 / 21), abs=5e-6)
    assert found.void_share == pytest.approx(0.0546, abs=5e-5)


def test_floor_is_the_score_of_background_everywhere(sound):
    masks = [torch.from_numpy(np.array(sound.read_mask(name))) for name in sound.names("train")]
    predicted = torch.cat([confusion(torch.zeros_like(mask)[None], mask[None], 21) for mask in masks])
    wanted = scores(everywhere(0, predicted), 0)
    assert survey(sound, "train").floor == pytest.approx((wanted["pixel_acc"].item(), wanted["miou"].item()))


def test_floor_counts_only_the_classes_that_occur():
    assert of_counts([30, 10] + [0] * 19 + [60]).floor == pytest.approx((0.75, 0.375))


def test_nothing_labelled_has_no_floor():
    assert all(math.isnan(score) for score in of_counts([0] * 21 + [5]).floor)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def relabel(label):
    def damage(path):
        labels = np.asarray(Image.open(path)).copy()
        labels[0, 0] = label
        Image.fromarray(labels).save(path)

    return damage


def resize(path):
    Image.open(path).resize((50, 40), Image.Resampling.NEAREST).save(path)


def recolour(path):
    Image.open(path).convert("RGB").save(path)


DAMAGES = {
    "no image": ("image", lambda path: path.unlink(), "there is no image "),
    "no mask": ("mask", lambda path: path.unlink(), "there is no mask "),
    "half an image": ("image", truncate, "broken image"),
    "half a mask": ("mask", truncate, "broken mask"),
    "empty image": ("image", lambda path: path.write_bytes(b""), "broken image"),
    "mask of another size": ("mask", resize, "50x40"),
    "colour mask": ("mask", recolour, "RGB"),
    "label 21": ("mask", relabel(21), "labels 21,"),
    "label 254": ("mask", relabel(254), "labels 254,"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_reported_by_file_name_and_the_rest_counted(folder, damage):
    kind, harm, told = DAMAGES[damage]
    bad = folder.names("train")[4]
    folder.list_of("others").write_text("\n".join(name for name in folder.names("train") if name != bad))
    path = getattr(folder, kind)(bad)
    harm(path)

    found, others = survey(folder, "train"), survey(folder, "others")

    (problem,) = found.problems
    assert problem.startswith(f"{path.name}: ")
    assert told in problem
    assert others.problems == ()
    assert (found.images, others.images) == (10, 9)
    for part in ("width", "height", "pixels", "holding"):
        assert getattr(found, part) == getattr(others, part)


def test_every_problem_of_a_set_is_reported_in_its_order(folder):
    names = folder.names("train")
    folder.image(names[6]).unlink()
    truncate(folder.mask(names[6]))
    recolour(folder.mask(names[2]))
    files = [problem.split(":")[0] for problem in survey(folder, "train").problems]
    assert files == [f"{names[2]}.png", f"{names[6]}.jpg", f"{names[6]}.png"]


def test_name_listed_twice_is_a_problem_and_counts_once(folder):
    before = survey(folder, "train")
    name = folder.names("train")[0]
    folder.list_of("train").write_text("\n".join([*folder.names("train"), name]))
    after = survey(folder, "train")
    assert after.problems == (f"train lists {name} 2 times, wanted once",)
    assert (after.images, after.pixels) == (before.images, before.pixels)


def test_set_of_which_nothing_can_be_read_is_still_surveyed_and_printed(folder):
    shutil.rmtree(folder.path / "JPEGImages")
    found = survey(folder, "val")
    assert len(found.problems) == 2
    assert (found.images, found.width, sum(found.pixels)) == (2, (0, 0, 0), 0)
    assert "nan" in printed(found)


def test_files_in_no_image_set_are_no_problem(folder):
    (folder.path / "JPEGImages" / "spare.jpg").write_bytes(b"")
    assert survey(folder, "train").problems == ()


def test_image_set_that_is_not_there_is_refused(folder):
    with pytest.raises(ValueError, match="no image set 'test'"):
        survey(folder, "test")


def test_survey_prints_nothing_into_a_pipe(sound, capsys):
    survey(sound, "val")
    assert capsys.readouterr() == ("", "")


def test_four_sets_fit_into_100_columns():
    surveys = [of_counts(VOC_TRAIN, name) for name in ("train", "val", "train_official", "trainval")]
    text = printed(*surveys)
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text


def test_what_is_printed():
    lines = [" ".join(line.split()) for line in printed(of_counts(VOC_TRAIN)).splitlines()]
    assert "train 1464 142/500/500 71/375/500 5.46% 0.7336 0.0349 0" in lines
    assert "background 69.35% 0 0.25189" in lines
    assert "person 4.57% 0 0.95430" in lines
    assert "void 5.46% 0" in lines
    assert "train: no problems" in lines


def test_problems_are_printed_whole_and_as_they_are():
    problem = "a[red]b.jpg: broken image " + "/very/long" * 20
    lines = printed(of_counts(VOC_TRAIN, problems=(problem,))).splitlines()
    assert "train: 1 problem" in lines
    assert f"  {problem}" in lines


def test_a_name_in_train_and_val_is_a_problem(folder):
    name = folder.names("train")[0]
    folder.list_of("val").write_text(name)
    assert survey(folder, "val").problems == ()
    assert survey(folder, "val", "train").problems == (f"val lists {name}, which train lists too",)


def test_a_problem_has_the_name_of_the_file_that_is_there(folder):
    name = folder.names("train")[0]
    path = folder.image(name).rename(folder.image(name).with_suffix(".jpeg"))
    truncate(path)
    (problem,) = survey(folder, "train").problems
    assert problem.startswith(f"{name}.jpeg: broken image")


def test_masks_that_are_read_by_their_colours_are_said(folder):
    before = survey(folder, "train")
    for name in folder.names("train")[:2]:
        labels = np.asarray(Image.open(folder.mask(name)))
        Image.fromarray(voc.PALETTE[labels]).quantize(32).save(folder.mask(name))
    after = survey(folder, "train")
    assert (after.by_colour, after.pixels, after.problems) == (2, before.pixels, ())
    assert "train: 2 masks hold the classes' colours at other indices: they are read by their colours" in printed(after)
    assert "colours" not in printed(before)
