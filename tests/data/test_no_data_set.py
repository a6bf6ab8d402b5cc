"""A folder without a data set: nothing is downloaded or made, and the message says what would work."""

from pathlib import Path

import pytest

from fcnseg.data import download, voc
from fcnseg.data.dataset import find_data_set


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with a data set in ../mine/export."""
    (tmp_path / "mine" / "export" / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def refused(root, **more):
    """The message, when nothing has been asked for and nothing made."""
    before = sorted(Path("..").rglob("*"))
    with pytest.raises(ValueError, match="no data set") as caught:
        find_data_set(lambda path: download.voc2012(path, urls=["http://127.0.0.1:1/x.tar"], md5="", **more), Path(root))
    assert sorted(Path("..").rglob("*")) == before
    return str(caught.value)


@pytest.mark.parametrize(
    ("root", "near"),
    [
        ("../mien", "../mine/export"),
        ("../mien/export", "../mine/export"),
        ("../mine/exports", "../mine/export"),
        ("../mine", "../mine/export"),
        ("..", "../mine/export"),
        ("../mine/export/ImageSets", "../mine/export"),
        ("../mine/export/ImageSets/Segmentation", "../mine/export"),
        ("../mine/export/nothing", "../mine/export"),
    ],
)
def test_the_nearest_data_set_is_named(here, root, near):
    told = refused(root)
    assert told.startswith(f"no data set in data.root={root}: looked for {root}/ImageSets/Segmentation or {root}/VOCdevkit")
    assert f"; data.root={near} would work, or data.download=true downloads VOC-2012 into {root} (2 GB)" in told
    assert f"data.root={here.parent / near[3:]} would work" in refused((here.parent / root[3:]).absolute())


@pytest.mark.parametrize("root", ["nowhere", "no/where", "/no/where"])
def test_a_folder_that_is_not_there(here, root):
    assert "; there is no such folder; give a folder in VOC's layout (README, Your data)" in refused(root)


def test_a_folder_of_another_layout(here):
    for name in ("images", "masks"):
        (here / "other" / name).mkdir(parents=True)
    assert "; the folder holds images, masks; give a folder in VOC's layout" in refused("other")
    (here / "other" / "JPEGImages").mkdir()
    assert "write the names of its images into ImageSets/Segmentation/train.txt and val.txt" in refused("other")


def test_an_empty_folder(here):
    (here / "empty").mkdir()
    assert "the folder holds nothing" in refused("empty")


def test_nothing_is_downloaded_where_it_is_forbidden(here):
    assert "no data set in data.root=data" in refused("data", download=False)


@pytest.mark.parametrize(("root", "download_"), [("data", None), ("mine", True)])
def test_voc_is_downloaded_to_the_default_root_or_where_it_is_wanted(here, root, download_):
    with pytest.raises(ValueError, match=r"no mirror sent x\.tar"):
        download.voc2012(Path(root), urls=["http://127.0.0.1:1/x.tar"], md5="", download=download_)


def test_the_default_root_is_the_config_s(compose):
    assert compose().data.root == str(download.ROOT)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (lambda: None, "data.source cannot be called with a folder: .* leave data.source as it is"),
        (None, "data.source cannot be called with a folder: 'NoneType'"),
        (lambda root: [], r"data\.source gave a list, wanted a fcnseg\.data\.dataset\.DataSet"),
        (Path.read_text, r"data\.root=.*: .*Is a directory.*; give a folder that can be read"),
    ],
    ids=["arguments", "null", "list", "OSError"],
)
def test_what_is_no_source(tmp_path, source, told):
    with pytest.raises(ValueError, match=told):
        find_data_set(source, tmp_path)


def test_a_source_s_folder(tmp_path):
    assert find_data_set(voc.VOCFolder, tmp_path) == voc.VOCFolder(tmp_path)
