"""Every format, made of the same images, gives the masks of VOC's layout."""

import json
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from PIL import Image

from fcnseg.check.__main__ import check
from fcnseg.data import decode, download, formats, voc
from fcnseg.data.augment import Chain
from fcnseg.data.module import DataModule
from fcnseg.data.packed import pack

from . import writers
from .writers import FORMATS, SETTINGS


@pytest.fixture(params=FORMATS, ids=lambda write: write.__name__)
def written(request, sample, tmp_path):
    request.param(sample, tmp_path)
    return formats.folder(tmp_path, **SETTINGS.get(request.param, {})), request.param


def test_masks_are_those_of_voc_s_layout(written, sample):
    data, write = written
    assert data.format == FORMATS[write]
    found = {PurePosixPath(name).name: name for image_set in ("train", "val") for name in data.names(image_set)}
    assert sorted(found) == sorted(sample.names)
    for own, name in found.items():
        image = decode.read_image(data.image(name))
        mask = data.read_mask(name, image)
        assert mask.mode == "L"
        assert np.asarray(mask).tobytes() == sample.labels[own].tobytes()
        assert np.array_equal(image, decode.read_image(sample.folder.image(own)))


def test_classes_are_those_of_the_format(written):
    data, _ = written
    names = tuple(name if name != "_background_" else "background" for name in data.classes.names)
    assert names == voc.CLASSES
    assert data.classes.background == 0


def test_packs_are_those_of_voc_s_layout(written, sample, tmp_path):
    data, _ = written
    for image_set in ("train", "val"):
        found = pack(data, image_set, 32, cache=tmp_path / "packs")
        own = {PurePosixPath(name).name: row for row, name in enumerate(found.names)}
        wanted = pack(sample.folder, "train", 32, names=list(own), cache=tmp_path / "voc")
        assert torch.equal(found.masks, wanted.masks)
        assert torch.equal(found.images, wanted.images)
        assert torch.equal(found.label_pixels, wanted.label_pixels)


def test_check_says_the_format_and_where_its_classes_are_from(command, written, tmp_path):
    data, write = written
    settings = [f"data.source.{key}={value}" for key, value in SETTINGS.get(write, {}).items()]
    outcome = command(check, "data=folder", f"data.root={tmp_path}", *settings, "picture=null")
    assert outcome.code == 0, outcome.err + outcome.out
    wanted = [f"{data.path}: {FORMATS[write]}", f"its classes are those of {data.class_list.source}"]
    assert outcome.out.splitlines()[:2] == wanted


NAMES = [f"video{i // 10}_{i % 10}" for i in range(100)]


def made(root, names=NAMES):
    """Folders of tiny images and masks of two classes."""
    for name in names:
        for kind in ("images", "masks"):
            path = root / kind / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (2, 2)).save(path)
    (root / "classes.yaml").write_text("names: [a, b]")
    return root


def test_val_is_drawn_by_a_hash_of_the_name(tmp_path):
    data = formats.folder(made(tmp_path))
    train, val = (set(data.names(image_set)) for image_set in ("train", "val"))
    assert train | val == set(NAMES)
    assert not train & val
    assert 10 <= len(val) <= 30
    made(tmp_path, ["new_1", "new_2"])
    again = formats.folder(tmp_path)
    assert val <= set(again.names("val"))
    assert train <= set(again.names("train"))
    assert len(formats.folder(tmp_path, val=0.5).names("val")) > 30


@pytest.mark.parametrize(("split", "test"), [("", 30), ("pool", 30), ("train", 30), ("test", 0)])
def test_the_images_of_test_are_never_trained_on(tmp_path, split, test):
    """Unless there are no others."""
    made(tmp_path)
    rows = [f"images/{name}.png,masks/{name}.png,{'test' if i < 30 else split}" for i, name in enumerate(NAMES)]
    (tmp_path / "all.csv").write_text("\n".join(["image,mask,split", *rows]))
    data = formats.folder(tmp_path)
    sizes = {image_set: len(data.names(image_set)) for image_set in data.image_sets()}
    assert (sizes.get("test", 0), sizes["train"] + sizes["val"]) == (test, len(NAMES) - test)
    assert all(name not in data.names("train") for name in data.sets.get("test", ()))


def test_groups_stay_together(tmp_path):
    data = formats.folder(made(tmp_path), group="^[^_]+", val=0.3)
    videos = [{name.split("_")[0] for name in data.names(image_set)} for image_set in ("train", "val")]
    assert not videos[0] & videos[1]
    assert all(videos)


@pytest.mark.parametrize("names", [["a", "b"], ["c", "d"], ["e", "f", "g"]])
def test_neither_side_is_empty(tmp_path, names):
    data = formats.folder(made(tmp_path, names))
    assert sorted([*data.names("train"), *data.names("val")]) == names


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"val": 0}, r"data\.source\.val=0: wanted the share"),
        ({"val": 1.5}, r"data\.source\.val=1\.5: wanted the share"),
        ({"group": "("}, r"data\.source\.group=\(: .*wanted a regular expression"),
        ({"group": "^v"}, r"has 1 groups \(data\.source\.group=\^v\), wanted 2 or more"),
    ],
)
def test_settings_out_of_range(tmp_path, settings, told):
    with pytest.raises(ValueError, match=told):
        formats.folder(made(tmp_path), **settings)


def test_what_is_alone_is_left_out_with_a_word(tmp_path, capsys):
    made(tmp_path)
    (tmp_path / "masks" / "video0_0.png").rename(tmp_path / "masks" / "vidoe0_0.png")
    settings = {"split": "official", "size": 32, "batch_size": 4, "augment": Chain(), "seed": 0}
    data = DataModule(tmp_path, source=formats.folder, **settings)
    data.prepare_data()
    assert data.count("train") + data.count("val") == 99
    told = capsys.readouterr().err
    assert f"the image {tmp_path}/images/video0_0.png has no mask; the nearest is {tmp_path}/masks/vidoe0_0.png" in told
    assert "and 1 more" in told


def test_no_data_set_and_no_classes(tmp_path):
    with pytest.raises(ValueError, match=r"no data set in .*: the folder holds nothing; wanted VOC's layout, a folder"):
        formats.folder(tmp_path)
    with pytest.raises(ValueError, match=r"there is no such folder"):
        formats.folder(tmp_path / "absent")
    (made(tmp_path) / "classes.yaml").unlink()
    told = "images and masks, by the folders images and masks, but nothing says which classes .*write=true"
    with pytest.raises(ValueError, match=told):
        _ = formats.folder(tmp_path).classes


def test_voc2012_names_what_it_found(tmp_path, sample):
    made(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"found images and masks, by the folders images and masks; add data=folder"):
        download.voc2012(tmp_path / "plain", urls=[], md5="")
    (tmp_path / "cvat").mkdir()
    writers.cvat(sample, tmp_path / "cvat")
    with pytest.raises(ValueError, match=r"has classes of its own in .*labelmap\.txt, wanted VOC's 21: add data=folder"):
        download.voc2012(tmp_path / "cvat", urls=[], md5="")


@pytest.mark.parametrize("name", ["../x.png", "/etc/x.png"])
def test_a_table_may_not_lead_out(tmp_path, name):
    (tmp_path / "t.csv").write_text(f"image,mask\n{name},x.png\n")
    with pytest.raises(ValueError, match=r"t\.csv names '.*x\.png', wanted files inside"):
        formats.folder(tmp_path)


def test_annotations_may_not_lead_out(tmp_path):
    image = {"id": 1, "file_name": "../x.png", "width": 1, "height": 1}
    content = {"images": [image], "annotations": [], "categories": []}
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"annotations\.json names '\.\./x\.png', wanted files inside"):
        formats.folder(tmp_path)


def test_broken_annotations_are_named(tmp_path):
    (tmp_path / "annotations.json").write_text('{"images": [{"id": 1}], "annotations": [], "categories": []}')
    with pytest.raises(ValueError, match=r"looks like COCO's annotations, but is broken \(KeyError: 'file_name'\)"):
        formats.folder(tmp_path)


def test_a_changed_class_list_makes_another_pack(tmp_path):
    made(tmp_path, NAMES[:4])
    Image.new("L", (2, 2), 1).save(tmp_path / "masks" / f"{NAMES[0]}.png")

    def packed():
        data = formats.folder(tmp_path)
        return pack(data, "train", 32, names=NAMES[:1])

    first = packed()
    (tmp_path / "classes.yaml").write_text("names: [a, b]\nmap: {0: b, 1: a}")
    second = packed()
    assert (first.masks.unique().tolist(), second.masks.unique().tolist()) == ([1], [0])
    assert first.fingerprint != second.fingerprint


def test_names_that_never_pair_are_told_with_the_remedy(tmp_path):
    made(tmp_path, ["street_1_rgb", "street_2_rgb"])
    for path in sorted((tmp_path / "masks").iterdir()):
        path.rename(path.with_stem(path.stem.replace("_rgb", "_ids")))
    with pytest.raises(ValueError, match=r"hold no image and mask of one name: .*1_rgb\.png has no mask; .*mask_suffix"):
        formats.folder(tmp_path)
    data = formats.folder(tmp_path, image_suffix="_rgb", mask_suffix="_ids")
    assert sorted([*data.names("train"), *data.names("val")]) == ["street_1", "street_2"]


@pytest.mark.parametrize("layout", [writers.voc_layout, writers.table, writers.coco, writers.labelme])
def test_names_that_a_layout_states_need_no_endings(layout, sample, tmp_path, capsys):
    layout(sample, tmp_path)
    formats.folder(tmp_path)
    assert "have no effect" not in capsys.readouterr().err
    formats.folder(tmp_path, mask_suffix="_x")
    assert "data.source.image_suffix and data.source.mask_suffix have no effect" in capsys.readouterr().err


@pytest.mark.parametrize("settings", [{"val": 0.5}, {"group": "^[^_]+"}])
def test_settings_of_val_have_no_effect_where_the_data_set_names_it(settings, sample, tmp_path, capsys):
    writers.voc_layout(sample, tmp_path)
    formats.folder(tmp_path)
    assert capsys.readouterr().err == ""
    formats.folder(tmp_path, **settings)
    assert "data.source.val and data.source.group have no effect" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["training", "train2017"])
@pytest.mark.parametrize("other", ["valid", "validation", "val2017"])
def test_image_sets_have_many_names(sample, tmp_path, name, other):
    writers.folders_of_sets(sample, tmp_path)
    data = formats.folder(tmp_path)
    (tmp_path / "train").rename(tmp_path / name)
    (tmp_path / "val").rename(tmp_path / other)
    assert [formats.folder(tmp_path).names(each) for each in ("train", "val")] == [
        data.names(each) for each in ("train", "val")
    ]


def test_of_two_lists_of_one_meaning_the_last_one_counts(sample, tmp_path):
    """As training.txt, a longer list, beside VOC's own train.txt."""
    names = list(sample.names)
    folder = voc.new_folder(tmp_path / "mine", {"train": names[:3], "training": names[:4], "val": names[4:]})
    (tmp_path / "mine" / "classes.yaml").write_text("names: [a, b]")
    found = formats.folder(folder.path)
    assert (found.names("train"), found.names("val")) == (tuple(names[:4]), tuple(names[4:]))
