"""Tests of the command that writes masks of photographs."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from PIL import Image

from fcnseg.data import voc
from fcnseg.evaluate import evaluate
from fcnseg.predict import predict


@pytest.fixture
def photos(tmp_path, root):
    """Three photographs: one in a folder below, one whose name has a space and an umlaut."""
    home = tmp_path / "photos"
    for source, name in zip(
        sorted(voc.VOCFolder.find(root).path.glob("JPEGImages/*.jpg")),
        ("a.jpg", "below/b.JPG", "two grün.jpg"),
        strict=False,
    ):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, home / name)
    return home


def predicted(command, run, *args, code=0):
    outcome = command(predict, f"run={run}", *args)
    assert outcome.code == code, outcome.err
    assert "Traceback" not in outcome.err
    return outcome


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_mask_for_each_photograph_in_its_place(command, run, photos, tmp_path):
    outcome = predicted(command, run, "images=photos", "overlay=true", "scores=true", "table=true")
    names = ["a", "below/b", "two grün"]
    assert files(tmp_path / "masks") == sorted(
        [f"{name}.png" for name in names]
        + [f"overlays/{name}.jpg" for name in names]
        + [f"scores/{name}.png" for name in names]
        + ["shares.csv"]
    )
    assert "3 masks are in masks" in outcome.out
    for name, path in zip(names, ("a.jpg", "below/b.JPG", "two grün.jpg"), strict=True):
        mask, photograph = Image.open(tmp_path / "masks" / f"{name}.png"), Image.open(photos / path)
        assert (mask.mode, mask.size) == ("P", photograph.size)
        assert mask.getpalette()[3:6] == [*voc.VOC.colours[1]]
        assert Image.open(tmp_path / "masks" / "overlays" / f"{name}.jpg").size == photograph.size
        scores = np.asarray(Image.open(tmp_path / "masks" / "scores" / f"{name}.png"))
        assert scores.dtype == np.uint16
        assert scores.min() >= 65535 // 21
    rows = [*csv.reader(io.StringIO((tmp_path / "masks" / "shares.csv").read_text()))]
    assert rows[0] == ["image", *voc.CLASSES]
    assert [row[0] for row in rows[1:]] == names
    labels = np.asarray(Image.open(tmp_path / "masks" / "a.png"))
    assert [float(share) for share in rows[1][1:]] == pytest.approx([(labels == c).mean() for c in range(21)], abs=1e-6)


def test_the_scores_of_the_masks_are_those_of_evaluate_at_original(command, run, root, tmp_path):
    folder = voc.VOCFolder.find(root)
    predicted(command, run, f"images={folder.path}/ImageSets/Segmentation/val.txt")
    matrix = np.zeros((256, 21), int)
    for name in folder.names("val"):
        truth, labels = (np.asarray(Image.open(path)) for path in (folder.mask(name), tmp_path / "masks" / f"{name}.png"))
        np.add.at(matrix, (truth, labels), 1)
    assert command(evaluate, f"run={run}", "at=original").code == 0
    (path,) = (run / "evaluations").glob("*-original-*.json")
    assert json.loads(path.read_text())["confusion"] == matrix[[*range(21), 255]].tolist()


def test_a_name_that_looks_like_a_formula_is_text_in_the_table(command, run, photos, tmp_path):
    shutil.copy(photos / "a.jpg", photos / "=1+1.jpg")
    predicted(command, run, "images=photos", "table=true")
    assert "\n'=1+1," in (tmp_path / "masks" / "shares.csv").read_text()


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("photos/a.jpg", ["a.png"]),
        ("'photos/*.jpg'", ["a.png", "two grün.png"]),
        ("'photos/**/*.[jJ][pP][gG]'", ["a.png", "below/b.png", "two grün.png"]),
        ("list.txt", ["photos/below/b.png"]),  # which is there twice
    ],
)
def test_files_folders_patterns_and_lists(command, run, photos, tmp_path, images, masks):
    (tmp_path / "list.txt").write_text("photos/below/b.JPG\n\n./photos/below/b.JPG\n")
    predicted(command, run, f"images={images}", "out=here")
    assert files(tmp_path / "here") == masks


def test_one_mask_is_one(command, run, photos):
    assert "1 mask is in masks; " in predicted(command, run, "images=photos/a.jpg").out


def test_the_same_command_again_does_what_is_left(command, run, photos):
    predicted(command, run, "images=photos", "out=photos/masks")
    times = {path: path.stat().st_mtime_ns for path in (photos / "masks").rglob("*.png")}
    (photos / "masks" / "a.png").unlink()
    shutil.copy(photos / "a.jpg", photos / "below" / "b.JPG")  # another photograph now
    outcome = predicted(command, run, "images=photos", "out=photos/masks")
    assert "3 masks are in photos/masks, 1 of them was there already" in outcome.out
    assert {path.name for path, then in times.items() if path.stat().st_mtime_ns != then} == {"a.png", "b.png"}
    predicted(command, run, "images=photos", "out=photos/masks", "overlay=true")
    assert len(files(photos / "masks" / "overlays")) == 3


def test_what_lies_beside_a_mask_is_of_its_network(command, run, photos, tmp_path):
    scores = tmp_path / "masks" / "scores" / "a.png"
    predicted(command, run, "images=photos/a.jpg", "scores=true")
    predicted(command, run, "images=photos/a.jpg", "tta=flip", "overwrite=true")
    before = scores.read_bytes()
    predicted(command, run, "images=photos/a.jpg", "tta=flip", "scores=true")
    assert scores.read_bytes() != before
    before = scores.stat().st_mtime_ns
    predicted(command, run, "images=photos/a.jpg", "tta=flip", "scores=true")
    assert scores.stat().st_mtime_ns == before


def test_a_photograph_of_a_list_that_is_missing_is_named(command, run, photos, tmp_path):
    (photos / "list.txt").write_text("none.jpg\na.jpg\n")
    for _ in range(2):
        outcome = predicted(command, run, "images=photos/list.txt", code=1)
        assert "fcnseg: there is no image photos/none.jpg: correct its name, or leave it out\n" in outcome.err
        assert files(tmp_path / "masks") == ["a.png"]
    (photos / "a.jpg").unlink()  # there is a mask of it
    assert "2 of 2 photographs" in predicted(command, run, "images=photos/list.txt", code=1).err


def test_a_place_that_cannot_be_written_is_named(command, run, photos, tmp_path):
    (tmp_path / "file").touch()
    outcome = predicted(command, run, "images=photos", "out=file/masks", code=2)
    assert "cannot write into file/masks: Not a directory" in outcome.err
    assert "choose another out=" in outcome.err


def test_masks_of_others_are_not_overwritten(command, run, photos, tmp_path):
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a.png").write_text("mine")
    outcome = predicted(command, run, "images=photos", code=2)
    assert "1 files in masks have the names of masks" in outcome.err
    assert "overwrite=true" in outcome.err
    assert files(tmp_path / "masks") == ["a.png"]
    predicted(command, run, "images=photos", "overwrite=true")
    before = (tmp_path / "masks" / "a.png").read_bytes()
    predicted(command, run, "images=photos", "tta=flip", code=2)  # other settings give other masks
    assert (tmp_path / "masks" / "a.png").read_bytes() == before


def test_photographs_are_never_overwritten(command, run, photos):
    Image.open(photos / "a.jpg").save(photos / "c.png")
    before = (photos / "c.png").read_bytes()
    for more in ([], ["overwrite=true"]):
        outcome = predicted(command, run, "images=photos/c.png", "out=photos", *more, code=2)
        assert "c.png" in outcome.err
    assert (photos / "c.png").read_bytes() == before


def test_broken_and_other_files_are_named(command, run, photos, tmp_path):
    (photos / "notes.txt").write_text("no photograph")
    (photos / "broken.jpg").write_bytes((photos / "a.jpg").read_bytes()[:400])
    Image.open(photos / "a.jpg").convert("CMYK").save(photos / "cmyk.jpg")
    Image.fromarray(np.zeros((40, 50), np.uint16)).save(photos / "deep.png")
    frames = [Image.new("P", (40, 40), value) for value in (0, 1)]
    frames[0].save(photos / "moving.gif", save_all=True, append_images=frames[1:])
    Image.new("RGB", (2000, 10)).save(photos / "wide.png")
    outcome = predicted(command, run, "images=photos", "table=true", code=1)
    assert "notes.txt is skipped" in outcome.err
    assert "moving.gif is skipped: photographs are JPEG, " in outcome.err
    assert "broken image photos/broken.jpg" in outcome.err
    assert "1 of 7 photographs could not be read" in outcome.err
    assert [name for name in files(tmp_path / "masks") if name.endswith(".png")] == [
        *("a.png", "below/b.png", "cmyk.png", "deep.png", "two grün.png", "wide.png")
    ]
    assert Image.open(tmp_path / "masks" / "wide.png").size == (2000, 10)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["images=none"], ["images=none: found nothing"]),
        (["images=empty"], ["images=empty: found nothing"]),
        (["images=photos", "out=photos"], ["found nothing outside photos"]),
        (["images=clash", "scores=true"], ["scores/a.png would be a mask and a picture of scores"]),
        (["images=binary.txt"], ["binary.txt is no text in UTF-8"]),
        (["images=photos", "tile=8"], ["tile=8"]),
        (["images=photos", "format=coco"], ["format=coco: wanted one of masks, voc"]),
        (["images=photos", "format=voc"], ["wanted the list of an image set"]),
        (["images=twice"], ["twice/x.jpg, twice/x.png would have masks of one name"]),
        (["images=photos", "device=toaster"], ["device=toaster"]),
    ],
)
def test_what_cannot_be_done_is_refused(command, run, photos, tmp_path, args, words):
    (tmp_path / "empty").mkdir()
    shutil.copytree(photos, tmp_path / "clash")
    shutil.copytree(photos, tmp_path / "clash" / "scores")
    (tmp_path / "binary.txt").write_bytes(b"\xff")
    (tmp_path / "twice").mkdir()
    for name in ("x.jpg", "x.png"):
        Image.new("RGB", (40, 40)).save(tmp_path / "twice" / name)
    outcome = predicted(command, run, *args, code=2)
    assert [word for word in words if word not in outcome.err] == []
    assert not (tmp_path / "masks").exists()


def test_the_archive_for_vocs_server(command, run, root, tmp_path):
    folder = voc.VOCFolder.find(root)
    outcome = predicted(command, run, f"images={folder.path}/ImageSets/Segmentation/val.txt", "format=voc", "out=sent")
    assert "is what VOC's server takes" in outcome.out
    with tarfile.open(tmp_path / "sent" / "results.tgz") as tar:
        names = tar.getnames()
    place = "results/VOC2012/Segmentation/comp5_val_cls"  # this run has no pretrained weights
    assert names == [f"{place}/{name}.png" for name in folder.names("val")]


def test_an_archive_of_masks_that_are_turned_is_refused(command, run, root, tmp_path):
    folder = voc.VOCFolder(shutil.copytree(voc.VOCFolder.find(root).path, tmp_path / "VOC2012"))
    name = folder.names("val")[0]
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path := folder.image(name)) as photograph:
        width, height = photograph.size
        photograph.save(path, exif=exif)
    args = [f"images={folder.path}/ImageSets/Segmentation/val.txt", "format=voc", "out=sent"]
    told = predicted(command, run, *args, code=2).err
    assert "would refuse 1 masks" in told
    assert f"\n{name}: is {height}x{width}, its photograph {width}x{height}" in told
    assert not (tmp_path / "sent/results.tgz").exists()
    predicted(command, run, *args, "oriented=false", "overwrite=true")
    with tarfile.open(tmp_path / "sent/results.tgz") as tar:
        assert len(tar.getnames()) == len(folder.names("val"))


def test_a_run_with_pretrained_weights_or_other_data_is_of_competition_6(command, tmp_path, train_in, root):
    run = train_in(tmp_path, "data=shapes")
    folder = voc.VOCFolder.find(root)
    predicted(command, run, f"images={folder.path}/ImageSets/Segmentation/val.txt", "format=voc", "out=sent")
    assert (tmp_path / "sent/results/VOC2012/Segmentation/comp6_val_cls").is_dir()


@pytest.mark.slow
def test_a_kill_loses_nothing(run, tmp_path):
    for place in range(400):
        Image.new("RGB", (600, 400), (place % 255, 9, 9)).save(tmp_path / f"{place}.png")
    command = [sys.executable, "-m", "fcnseg.predict", f"run={run}", f"images={tmp_path}", f"out={tmp_path / 'masks'}"]
    process = subprocess.Popen(command)

    def masks():
        return [path for path in (tmp_path / "masks").glob("*.png") if not path.name.startswith(".")]  # a draft is none yet

    while len(masks()) < 40:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    there = masks()
    assert 40 <= len(there) < 400
    for path in there:
        assert Image.open(path).convert("L").size == (600, 400)
    times = {path: path.stat().st_mtime_ns for path in there}
    subprocess.run(command, check=True)
    assert {path: path.stat().st_mtime_ns for path in there} == times
    assert len(files(tmp_path / "masks")) == 400
