"""`python -m fcnseg.check` on any folder: what it recognises, writes and finds."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fcnseg.check.__main__ import WITHOUT_EFFECT, check
from fcnseg.data import formats
from fcnseg.data.formats import layouts
from fcnseg.data.voc import VOCFolder

CLASSES = "names: [ground, crack, rust]\n"


def photograph(seed, size=(12, 10)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.fixture
def mine(tmp_path):
    """Ten pairs of images and masks in train and four in val, of three classes that are in every mask."""
    for image_set, names in (("train", range(10)), ("val", range(10, 14))):
        for name in names:
            for kind in ("images", "masks"):
                (tmp_path / "mine" / image_set / kind).mkdir(parents=True, exist_ok=True)
            photograph(name).save(tmp_path / "mine" / image_set / "images" / f"{name:02}.png")
            labels = (np.arange(120).reshape(10, 12) + name) % 3
            Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "mine" / image_set / "masks" / f"{name:02}.png")
    (tmp_path / "mine" / "classes.yaml").write_text(CLASSES)
    return tmp_path / "mine"


def lines(outcome):
    return [" ".join(line.split()) for line in outcome.out.splitlines()]


def warnings(outcome):
    return [line.removeprefix("warning: ") for line in outcome.out.splitlines() if line.startswith("warning: ")]


@pytest.mark.parametrize("choice", [[], ["data=folder"]])
def test_a_sound_folder(command, mine, choice, tmp_path):
    outcome = command(check, f"data.root={mine}", *choice)
    assert outcome.code == 0, outcome.err
    assert f"{mine}: images and masks, by the folders train/images and train/masks" in lines(outcome)
    assert f"its classes are those of {mine}/classes.yaml" in lines(outcome)
    assert "crack 33.33% 10 33.33% 4 0.66667" in lines(outcome)
    assert "floor: what predicting the most frequent class everywhere scores, void left out" in lines(outcome)
    assert warnings(outcome) == []
    assert Image.open(tmp_path / "check.png").size > (1000, 400)


def test_a_class_list_is_written_to_name(command, mine):
    (mine / "classes.yaml").unlink()
    outcome = command(check, f"data.root={mine}")
    assert outcome.code == 2
    assert "1: 33.33% of the pixels, in 14 of 14 masks" in lines(outcome)
    assert not (mine / "classes.yaml").exists()
    outcome = command(check, f"data.root={mine}", "write=true", "picture=null")
    assert outcome.code == 0, outcome.err
    assert formats.folder(mine).classes.names == ("background", "class_1", "class_2")
    before = (mine / "classes.yaml").read_text()
    outcome = command(check, f"data.root={mine}", "write=true")
    assert (outcome.code, (mine / "classes.yaml").read_text()) == (2, before)
    assert "says the classes already" in outcome.err


def test_what_stands_in_the_place_of_the_class_list_is_not_replaced(command, mine):
    (mine / "classes.yaml").unlink()
    (mine / "classes.yaml").mkdir()
    outcome = command(check, f"data.root={mine}", "write=true", "picture=null")
    assert (outcome.code, "classes.yaml is there already: move it away" in outcome.err) == (2, True), outcome.err


@pytest.mark.parametrize(
    ("values", "names", "void"),
    [
        ([0, 255, 255], ("background", "class_255"), {}),
        ([0, 7, 255], ("background", "class_7"), {255: 255}),
        ([1, 2, 3000], ("class_1", "class_2", "class_3000"), {255: 255}),
    ],
)
def test_numbers_that_masks_store_are_written(command, mine, values, names, void):
    (mine / "classes.yaml").unlink()
    for path in mine.glob("*/masks/*.png"):
        labels = np.array(values, dtype=np.uint16 if max(values) > 255 else np.uint8)[np.asarray(Image.open(path))]
        Image.fromarray(labels).save(path)
    outcome = command(check, f"data.root={mine}", "write=true", "picture=null")
    assert outcome.code == 0, outcome.err + outcome.out
    data = formats.folder(mine)
    assert data.classes.names == names
    assert void.items() <= data.class_list.legend.values.items()


@pytest.mark.parametrize(
    "stored", [[0, 0, 0], [255, 255, 255], [[9, 9, 9], [224, 224, 192], [224, 224, 192]]], ids=["0", "255", "a colour"]
)
def test_masks_of_one_class_are_refused_and_nothing_is_written(command, mine, stored):
    (mine / "classes.yaml").unlink()
    for path in mine.glob("*/masks/*.png"):
        Image.fromarray(np.array(stored, dtype=np.uint8)[np.asarray(Image.open(path))]).save(path)
    outcome = command(check, f"data.root={mine}", "write=true", "picture=null")
    assert outcome.code == 2
    assert "hold 1 numbers or colours besides void: wanted 2 to 254" in outcome.err
    assert not (mine / "classes.yaml").exists()


def test_colours_that_masks_store_are_written(command, mine):
    (mine / "classes.yaml").unlink()
    colours = np.array([[0, 0, 0], [255, 128, 0], [1, 2, 3]], dtype=np.uint8)
    for path in mine.glob("*/masks/*.png"):
        Image.fromarray(colours[np.asarray(Image.open(path))]).save(path)
    outcome = command(check, f"data.root={mine}", "write=true", "picture=null")
    assert outcome.code == 0, outcome.err + outcome.out
    data = formats.folder(mine)
    assert data.classes.names == ("background", "class_010203", "class_ff8000")
    assert data.classes.colours == ((0, 0, 0), (1, 2, 3), (255, 128, 0))


def test_voc_s_own_layout_may_have_classes_of_its_own(command, root):
    """data=voc2012 reads it with VOC's names; `write=true` asks for others."""
    folder = shutil.copytree(root / "VOCdevkit" / "VOC2012", root.parent / "own")
    outcome = command(check, f"data.root={folder}", "write=true", "picture=null")
    assert outcome.code == 0, outcome.err
    assert (folder / "classes.yaml").is_file()
    outcome = command(check, f"data.root={folder}", "picture=null")
    assert f"{folder}: VOC's layout, by ImageSets/Segmentation" in lines(outcome)


def smooth(path):
    colours = np.array([[0, 0, 0], [255, 128, 0], [1, 2, 3]], dtype=np.uint8)
    mask = Image.fromarray(colours[np.asarray(Image.open(path))])
    mask.resize((31, 27), Image.Resampling.BICUBIC).crop((0, 0, 12, 10)).save(path)


def as_jpeg(path):
    Image.open(path).save(path.with_suffix(".jpg"))
    path.unlink()


def number(path):
    labels = np.asarray(Image.open(path)).copy()
    labels[0, 0] = 77
    Image.fromarray(labels).save(path)


def turn(path):
    exif = Image.Exif()
    exif[0x0112] = 3
    photograph(0).save(path, exif=exif)


STOPS = {
    "other size": ("masks", lambda path: Image.new("L", (9, 9)).save(path), "is 9x9, its image 12x10"),
    "turned": ("images", turn, "has the EXIF orientation 1, its image 3"),
    "JPEG": ("masks", as_jpeg, "is a JPEG file, whose compression changes labels"),
    "smooth": ("masks", smooth, "is a picture of colours, but no class has a colour"),
    "number": ("masks", number, "holds the labels 77, wanted 0..2 and 255 for void"),
}


@pytest.mark.parametrize("kind", STOPS)
def test_what_stops_training(command, mine, kind):
    part, harm, told = STOPS[kind]
    harm(mine / "train" / part / "03.png")
    outcome = command(check, f"data.root={mine}", "picture=null")
    assert outcome.code == 2
    assert "train: 1 problem" in lines(outcome)
    (problem,) = [line for line in outcome.out.splitlines() if line.startswith("  03.") or line.startswith("  train/03.")]
    assert told in problem
    if kind == "number":
        assert "no class has 77: 0.06% of the pixels, in 1 of 14 masks" in lines(outcome)


def test_a_problem_has_the_name_of_a_file_that_is_there(command, mine, tmp_path):
    """A name of a mask with an ending, and a file that holds the masks of many images."""
    for mask in mine.glob("train/masks/*.png"):
        mask.rename(mask.with_stem(f"{mask.stem}_label"))
    number(mine / "train" / "masks" / "03_label.png")
    outcome = command(check, f"data.root={mine}", "picture=null")
    assert f"\n  03_label.png: mask {mine}/train/masks/03_label.png holds the labels 77" in outcome.out

    (tmp_path / "coco").mkdir()
    for name in "ab":
        photograph(ord(name)).save(tmp_path / "coco" / f"{name}.png")
    images = [{"id": i, "file_name": f"{name}.png", "width": 12, "height": 9} for i, name in enumerate("ab")]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "crack"}]}
    (tmp_path / "coco" / "annotations.json").write_text(json.dumps(content))
    outcome = command(check, f"data.root={tmp_path / 'coco'}", "picture=null")
    assert outcome.out.count(f"\n  annotations.json: {tmp_path}/coco/annotations.json: the size of ") == 2


def test_the_number_with_the_most_pixels_is_told_first(command, mine):
    path = mine / "train" / "masks" / "03.png"
    labels = np.asarray(Image.open(path)).copy()
    labels[0, :2], labels[1, :5], labels[2, :3] = 77, 78, 79
    Image.fromarray(labels).save(path)
    outcome = command(check, f"data.root={mine}", "picture=null")
    found = [line.split(":")[0] for line in lines(outcome) if line.startswith("no class has")]
    assert found == ["no class has 78", "no class has 79", "no class has 77"]


def test_smoothed_masks_are_told_by_their_many_colours(command, mine):
    (mine / "classes.yaml").write_text(CLASSES + "colors: [[0, 0, 0], [255, 128, 0], [1, 2, 3]]\n")
    for path in mine.glob("*/masks/*.png"):
        smooth(path)
    grey = mine / "train" / "masks" / "03.png"
    Image.fromarray(np.linspace(3, 250, 120).reshape(10, 12).astype(np.uint8)).save(grey)
    outcome = command(check, f"data.root={mine}", "picture=null")
    assert outcome.code == 2
    assert "/03.png holds the labels 3, 5, 7, 9, 11, 13, 15, 17, 19, 21 and 110 more, wanted" in outcome.out
    assert warnings(outcome) == []
    assert "so many come from smoothed edges: export the masks without anti-aliasing" in outcome.out


def copy(mine, one, other):
    """The photograph `one` under the name `other`, in other bytes."""
    Image.open(mine / f"{one}.png").save(mine / f"{other}.png", compress_level=1)


def relabel(mine, image_set, labels):
    for path in mine.glob(f"{image_set}/masks/*.png"):
        table = np.array(labels, dtype=np.uint8)
        Image.fromarray(table[np.asarray(Image.open(path))]).save(path)


WARNINGS = {
    "no mask": (
        lambda mine: (mine / "train" / "masks" / "03.png").rename(mine / "train" / "masks" / "03x.png"),
        ["has no mask; the nearest is", "has no image; the nearest is"],
    ),
    "same content": (
        lambda mine: copy(mine, "train/images/03", "val/images/11"),
        ["val/11 and train/03: the same picture under two names; one is in train and one in val"],
    ),
    "duplicate": (
        lambda mine: copy(mine, "train/images/03", "train/images/04"),
        ["train/04 and train/03: the same picture under two names; both are in train"],
    ),
    "same name": (
        lambda mine: [(mine / "val" / kind / "11.png").rename(mine / "val" / kind / "03.png") for kind in ("images", "masks")],
        ["val/03: images of val with the names of other images of train, such as train/03"],
    ),
    "unseen": (lambda mine: relabel(mine, "train", [0, 1, 1]), ["classes in val, but never in train: rust"]),
    "in none": (lambda mine: relabel(mine, "*", [0, 1, 1]), ["classes in no image: rust"]),
}


@pytest.mark.parametrize("kind", WARNINGS)
def test_what_is_a_warning(command, mine, kind):
    harm, told = WARNINGS[kind]
    harm(mine)
    outcome = command(check, f"data.root={mine}", "picture=null")
    assert outcome.code == 0, outcome.out
    assert len(warnings(outcome)) == len(told)
    assert all(part in line for part, line in zip(told, warnings(outcome), strict=True))


@pytest.fixture
def tested(mine):
    """`mine`, and three pairs in test, of photographs that train and val do not have."""
    shutil.copytree(mine / "val", mine / "test")
    (mine / "test" / "images" / "13.png").unlink()
    (mine / "test" / "masks" / "13.png").unlink()
    for name in (10, 11, 12):
        for kind in ("images", "masks"):
            (mine / "test" / kind / f"{name}.png").rename(mine / "test" / kind / f"{name + 10}.png")
        photograph(name + 10).save(mine / "test" / "images" / f"{name + 10}.png")
    return mine


def listed(mine, listing):
    """The images are listed in a CSV, in place of their folders."""
    if listing == "csv":
        rows = [
            f"{path.relative_to(mine)},{image_set}/masks/{path.name},{image_set}"
            for image_set in ("train", "val", "test")
            for path in sorted((mine / image_set / "images").iterdir())
        ]
        (mine / "all.csv").write_text("\n".join(["image,mask,split", *rows]))


@pytest.mark.parametrize("listing", ["folders", "csv"])
def test_a_test_set_is_surveyed_as_well(command, tested, listing, tmp_path):
    listed(tested, listing)
    outcome = command(check, f"data.root={tested}")
    assert (outcome.code, warnings(outcome)) == (0, []), outcome.err
    assert "crack 33.33% 10 33.33% 4 33.33% 3 0.66667" in lines(outcome)
    assert "test: no problems" in lines(outcome)
    assert Image.open(tmp_path / "check.png").size > (1000, 400)
    number(tested / "test" / "masks" / "21.png")
    outcome = command(check, f"data.root={tested}", "picture=null")
    assert outcome.code == 2
    assert {"train: no problems", "val: no problems", "test: 1 problem"} <= {*lines(outcome)}
    assert "/test/masks/21.png holds the labels 77, wanted 0..2 and 255 for void" in outcome.out


@pytest.mark.parametrize("image_set", ["train", "val"])
def test_pictures_and_classes_of_the_test_set_are_compared(command, tested, image_set):
    known = "03" if image_set == "train" else "11"
    copy(tested, f"{image_set}/images/{known}", "test/images/21")
    (tested / "test" / "images" / "22.png").rename(tested / "test" / "images" / "05.png")
    (tested / "test" / "masks" / "22.png").rename(tested / "test" / "masks" / "05.png")
    relabel(tested, "train", [0, 1, 1])
    relabel(tested, "val", [0, 1, 1])
    outcome = command(check, f"data.root={tested}", "picture=null")
    assert outcome.code == 0, outcome.out
    assert sorted(warnings(outcome)) == [
        "classes in test, but never in train: rust",
        "test/05: images of test with the names of other images of train, such as train/05",
        f"test/21 and {image_set}/{known}: the same picture under two names; one is in {image_set} and one in test",
    ]


def test_a_class_of_val_and_test_alone(command, tested):
    relabel(tested, "train", [0, 1, 1])
    outcome = command(check, f"data.root={tested}", "picture=null")
    assert warnings(outcome) == ["classes in val, test, but never in train: rust"]


def test_lists_without_images_or_masks_of_their_own_are_left_out(command, root, tmp_path):
    """As in VOC's devkit, whose test has no masks and whose trainval has no other images."""
    folder = VOCFolder(shutil.copytree(root / "VOCdevkit" / "VOC2012", tmp_path / "devkit"))
    folder.list_of("test").write_text("a\nb\n")
    folder.list_of("small").write_text("\n".join(folder.names("train")[2:]))
    folder.list_of("later").touch()
    folder.list_of("gone").symlink_to(tmp_path / "nowhere.txt")
    folder.list_of("train_aug").write_text("/JPEGImages/a.jpg /SegmentationClassAug/a.png\n")
    outcome = command(check, f"data.root={folder.path}", "picture=null")
    assert outcome.code == 0, outcome.err
    left_out = [line for line in lines(outcome) if " is left out: " in line]
    assert any(line.startswith("train_aug is left out: ") for line in left_out)
    assert [line for line in left_out if not line.startswith("train_aug")] == [
        "test is left out: none of its images has a mask",
        "small is left out: it lists images of other image sets again",
        "trainval is left out: it lists images of other image sets again",
    ]
    assert [line for line in lines(outcome) if line.endswith(": no problems")] == ["train: no problems", "val: no problems"]


def test_an_image_of_train_or_val_in_test_is_a_problem(command, root, tmp_path):
    folder = VOCFolder(shutil.copytree(root / "VOCdevkit" / "VOC2012", tmp_path / "leak"))
    train, val = folder.names("train")[0], folder.names("val")[0]
    folder.list_of("test").write_text(f"{val}\n{train}\n")
    outcome = command(check, f"data.root={folder.path}", "picture=null")
    assert outcome.code == 2
    told = [line for line in lines(outcome) if line.startswith("test lists")]
    assert told == [f"test lists {train}, which train lists too", f"test lists {val}, which val lists too"]


def test_a_class_that_is_almost_empty(command, mine):
    relabel(mine, "*", [0, 1, 1])
    labels = np.ones((10, 12), dtype=np.uint8)
    labels[0, 0] = 2
    Image.fromarray(labels).save(mine / "train" / "masks" / "03.png")
    outcome = command(check, f"data.root={mine}", "picture=null")
    assert warnings(outcome) == ["classes almost empty in train: rust (0.0833% of the pixels, 1 image)"]


def test_masks_of_0_and_255_are_told(command, mine):
    (mine / "classes.yaml").write_text("names: [ground, crack]")
    relabel(mine, "*", [0, 255, 255])
    outcome = command(check, f"data.root={mine}", "picture=null")
    told = warnings(outcome)
    assert told[0] == "classes in no image: crack"
    assert "write 'names: {0: ground, 255: crack}' into classes.yaml" in told[1]


def test_every_setting_of_the_data_has_an_effect_or_is_refused(compose):
    assert {*compose("data=voc2012").data} - {*WITHOUT_EFFECT} == {"_target_", "root", "source", "download"}


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("data.size=64", "looks at images at their own sizes"),
        ("data.pack_size=128", "looks at images at their own sizes"),
        ("data.batch_size=4", "makes no batches"),
        ("data.split=halves", "looks at the whole of train and of val"),
        ("data.limit=3", "looks at all images"),
        ("data.cache=elsewhere", "makes no packs"),
    ],
)
@pytest.mark.parametrize("choice", ["voc2012", "folder"])
def test_a_setting_without_effect_is_refused(command, mine, choice, setting, reason):
    outcome = command(check, f"data={choice}", f"data.root={mine}", setting, "picture=null")
    assert (outcome.code, outcome.err) == (2, f"fcnseg: {setting}: check {reason}; leave it out\n")


def test_true_is_no_file_for_the_picture(command, mine):
    outcome = command(check, f"data.root={mine}", "picture=true")
    assert (outcome.code, outcome.err) == (2, "fcnseg: picture=true: wanted text, such as check.png\n")


def test_write_is_refused_where_classes_are_known(command, root):
    outcome = command(*(check, "data=shapes", f"data.root={root}", "data.source.train=8", "data.source.val=4", "write=true"))
    assert (outcome.code, outcome.err) == (
        2,
        "fcnseg: write=true: the classes of data=shapes are known; leave it out\n",
    )


@pytest.mark.parametrize("choice", ["voc2012", "folder"])
def test_annotations_are_read_once(command, choice, tmp_path, monkeypatch):
    for name in ("a", "b", "c", "d"):
        photograph(ord(name)).save(tmp_path / f"{name}.png")
    images = [{"id": i, "file_name": f"{name}.png", "width": 12, "height": 10} for i, name in enumerate("abcd")]
    shape = {"image_id": 1, "category_id": 1, "segmentation": [[0, 0, 6, 0, 6, 6, 0, 6]]}
    content = {"images": images, "annotations": [shape], "categories": [{"id": 1, "name": "crack"}]}
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    read, loads = [], json.loads

    def counted(text, **more):
        read.extend([text] * ("annotations" in text))
        return loads(text, **more)

    monkeypatch.setattr(layouts.json, "loads", counted)
    outcome = command(check, f"data={choice}", f"data.root={tmp_path}", "picture=null")
    assert outcome.code == 0, outcome.err
    assert "COCO's annotations, by annotations.json" in outcome.out
    assert len(read) == 1


def test_names_that_the_font_of_charts_lacks_give_no_warning(mine, tmp_path):
    """In a process of its own: pytest keeps warnings from the terminal."""
    (mine / "classes.yaml").write_text("names: [\u80cc\u666f, \u732b, \U0001f697]", encoding="utf-8")
    for kind in ("images", "masks"):
        (mine / "train" / kind / "03.png").rename(mine / "train" / kind / "\u732b.png")
    given = [sys.executable, "-m", "fcnseg.check", f"data.root={mine}"]
    done = subprocess.run(given, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "check.png").is_file()
