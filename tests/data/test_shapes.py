import colorsys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from PIL import Image

from fcnseg.data import decode, voc
from fcnseg.data import shapes as module
from fcnseg.data.shapes import shapes


def contents(folder):
    return {str(p.relative_to(folder.path)): p.read_bytes() for p in sorted(folder.path.rglob("*")) if p.is_file()}


def home(folder):
    return folder.path.parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return shapes(tmp_path_factory.mktemp("generated"), train=60, val=20, seed=3)


@pytest.fixture(scope="module")
def masks(folder):
    return {name: np.asarray(folder.read_mask(name)) for name in folder.names("trainval")}


def test_layout_is_voc_s(folder):
    assert voc.VOCFolder.find(home(folder)) == folder
    assert folder.path.parts[-2:] == ("VOCdevkit", "VOC2012")
    assert folder.image_sets() == ("train", "trainval", "val")
    train, val = folder.names("train"), folder.names("val")
    assert (len(train), len(val), len({*train, *val})) == (60, 20, 80)
    assert folder.names("trainval") == train + val
    assert folder.missing(train + val) == []
    assert len(list((folder.path / "JPEGImages").iterdir())) == 80


def test_files_are_rgb_jpegs_and_masks_in_voc_s_palette(folder):
    for name in folder.names("trainval"):
        with Image.open(folder.image(name)) as image, Image.open(folder.mask(name)) as mask:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert (mask.format, mask.mode, mask.size) == ("PNG", "P", image.size)
            assert mask.getpalette() == voc.PALETTE.ravel().tolist()


def test_void_parts_every_object_from_what_is_next_to_it(masks):
    for labels in masks.values():
        for one, other in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
            assert not np.any((one != other) & (one != voc.VOID) & (other != voc.VOID))


@pytest.mark.parametrize("image_set", ["train", "val"])
def test_every_class_is_in_both_sets(folder, masks, image_set):
    found = set(np.unique(np.concatenate([masks[name].ravel() for name in folder.names(image_set)])))
    assert found == {*range(voc.NUM_CLASSES), voc.VOID}


def test_classes_take_turns_so_that_twenty_images_hold_them_all(masks):
    assert all(1 + index % 20 in labels for index, labels in enumerate(masks.values()))


def test_shares_are_about_voc_s(masks):
    labels = np.concatenate([labels.ravel() for labels in masks.values()])
    assert 0.65 < np.mean(labels == voc.BACKGROUND) < 0.75
    assert 0.04 < np.mean(labels == voc.VOID) < 0.07


def test_sizes_vary(masks):
    sizes = {labels.shape for labels in masks.values()}
    assert len(sizes) > 40
    assert {height > width for height, width in sizes} == {True, False}
    assert all(80 < side < 210 for size in sizes for side in size)


def test_several_objects_in_some_images_and_one_in_others(masks):
    classes = {len(np.setdiff1d(labels, [voc.BACKGROUND, voc.VOID])) for labels in masks.values()}
    assert {1, 2, 3} <= classes <= {1, 2, 3, 4}


def test_mask_lies_on_the_object_it_names(folder, masks):
    checked = 0
    for name, labels in masks.items():
        image = np.asarray(decode.read_image(folder.image(name)))
        for label in set(np.unique(labels)) - {voc.BACKGROUND, voc.VOID}:
            inside = image[labels == label]
            if len(inside) > 300:
                hue = colorsys.rgb_to_hsv(*np.median(inside, axis=0) / 255)[0]
                away = abs(hue - (label - 1) % 10 / 10)
                assert min(away, 1 - away) < 0.06, (name, label)
                checked += 1
    assert checked > 80


def test_same_bytes_for_the_same_seed_and_others_for_another(tmp_path):
    one, again = (contents(shapes(tmp_path / part, train=3, val=2, seed=7)) for part in ("one", "again"))
    other = contents(shapes(tmp_path / "one", train=3, val=2, seed=8))
    assert one == again
    assert one.keys() == other.keys()
    assert [path for path in one if path.endswith((".jpg", ".png")) and one[path] == other[path]] == []


def test_an_image_depends_on_the_seed_and_its_name_alone(tmp_path, folder):
    few = shapes(tmp_path, train=1, val=2, seed=3)
    for name in few.names("trainval"):
        assert few.image(name).read_bytes() == folder.image(name).read_bytes()
        assert few.mask(name).read_bytes() == folder.mask(name).read_bytes()


def test_data_sets_of_other_numbers_lie_side_by_side(tmp_path):
    numbers = [(2, 1, 0), (1, 2, 0), (2, 1, 1)]
    folders = [shapes(tmp_path, train=train, val=val, seed=seed) for train, val, seed in numbers]
    assert len({folder.path for folder in folders}) == 3
    assert [len(folder.names("train")) for folder in folders] == [2, 1, 2]


def test_finished_data_set_is_not_drawn_again(tmp_path, monkeypatch):
    first = shapes(tmp_path, train=2, val=1, seed=0)
    monkeypatch.setattr(module, "_generate", lambda *_: pytest.fail("drawn again"))
    monkeypatch.setattr("filelock.FileLock", lambda *_: pytest.fail("the disk may be read-only"))
    assert shapes(tmp_path, train=2, val=1, seed=0) == first


def test_interrupted_generation_leaves_nothing_to_find_and_is_made_good(tmp_path, monkeypatch):
    whole = shapes(tmp_path / "whole", train=4, val=1, seed=0)
    draw = module.draw

    def interrupted(seed, index):
        if index == 3:
            raise KeyboardInterrupt
        return draw(seed, index)

    monkeypatch.setattr(module, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        shapes(tmp_path / "part", train=4, val=1, seed=0)
    monkeypatch.setattr(module, "draw", draw)
    assert [path.name for path in (tmp_path / "part").iterdir()] == [f".{home(whole).name}.lock"]
    assert contents(shapes(tmp_path / "part", train=4, val=1, seed=0)) == contents(whole)


def test_two_processes_at_once(tmp_path, folder):
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(shapes, tmp_path, train=60, val=20, seed=3) for _ in range(2)]
        one, other = (job.result(timeout=60) for job in jobs)
    assert one == other
    assert contents(one) == contents(folder)
    assert {path.name for path in tmp_path.iterdir()} - {f".{home(one).name}.lock"} == {home(one).name}


@pytest.mark.parametrize(("key", "value"), [("train", 0), ("val", 0), ("seed", -1), ("train", 1.5), ("val", "2")])
def test_number_out_of_range_is_refused(tmp_path, key, value):
    with pytest.raises(ValueError, match=rf"data.source.{key}={value}: wanted a whole number from \d up"):
        shapes(tmp_path, **{"train": 1, "val": 1, "seed": 0, key: value})
    assert list(tmp_path.iterdir()) == []
