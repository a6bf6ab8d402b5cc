"""data=sbd: VOC's train set and the images that SBD adds to it."""

import hashlib
import io
import shutil
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from fcnseg.check.__main__ import check
from fcnseg.data import decode, sbd, voc
from fcnseg.data.packed import pack
from fcnseg.data.shapes import shapes
from fcnseg.train import train

OWN = [f"2008_{i:06d}" for i in range(6)]  # what VOC has not labelled


def labels_of(name):
    return np.random.default_rng(OWN.index(name)).integers(0, 21, (30, 40), dtype=np.uint8)


def save_mat(path, labels):
    scipy_io = pytest.importorskip("scipy.io")
    scipy_io.savemat(path, {"GTcls": {"Segmentation": labels, "CategoriesPresent": np.unique(labels)}})


@pytest.fixture
def voc_folder(tmp_path):
    """VOC-2012 in `data`: eight images in train, four in val."""
    folder = shapes(tmp_path / "generated", train=8, val=4, seed=0)
    shutil.copytree(folder.path, made := tmp_path / "data" / "VOCdevkit" / "VOC2012")
    return voc.VOCFolder(made)


@pytest.fixture
def release(voc_folder, tmp_path):
    """SBD as its archive has it. It has masks of two images of VOC's train and one of its val, too, all of them of cats."""
    made = tmp_path / "unpacked" / "benchmark_RELEASE" / "dataset"
    for kind in ("img", "cls"):
        (made / kind).mkdir(parents=True)
    taken = [*voc_folder.names("train")[:2], voc_folder.names("val")[0]]
    for name in taken:
        image = Image.open(voc_folder.image(name))
        image.save(made / "img" / f"{name}.jpg")
        save_mat(made / "cls" / f"{name}.mat", np.full((image.height, image.width), 8, dtype=np.uint8))
    for name in OWN:
        Image.new("RGB", (40, 30), (OWN.index(name), 9, 9)).save(made / "img" / f"{name}.jpg")
        save_mat(made / "cls" / f"{name}.mat", labels_of(name))
    (made / "train.txt").write_text("\n".join([OWN[0], taken[0], taken[2], *OWN[1:4]]) + "\n")
    (made / "val.txt").write_text("\n".join([OWN[4], taken[1], OWN[5]]) + "\n")
    return made


@pytest.fixture
def root(release, tmp_path):
    """A data.root that holds both."""
    shutil.copytree(release, tmp_path / "data" / "benchmark_RELEASE" / "dataset")
    return tmp_path / "data"


@pytest.fixture
def archive(release):
    with tarfile.open(fileobj=(made := io.BytesIO()), mode="w:gz") as tar:
        tar.add(release.parent, "benchmark_RELEASE")
    return made.getvalue()


def find(root, *, urls=(), md5="", download=False):
    return sbd.sbd(root, urls=[], md5="", sbd_urls=urls, sbd_md5=md5, download=download)


def test_train_has_voc_s_train_and_what_sbd_adds_to_it(root, voc_folder):
    data = find(root)
    assert data.names("train") == (*voc_folder.names("train"), *OWN)
    assert data.names("val") == voc_folder.names("val")
    assert not set(data.names("train")) & set(data.names("val"))
    assert data.repeated("train") == data.repeated("val", "train") == data.missing(data.names("train")) == []
    with pytest.raises(ValueError, match=r"no image set 'test' in .*dataset: found \['train', 'val'\]"):
        data.names("test")


def test_masks_are_sbd_s_and_voc_s_own_where_voc_has_one(root, voc_folder):
    data = find(root)
    for name in OWN:
        mask = data.read_mask(name, decode.read_image(data.image(name)))
        assert (mask.mode, np.asarray(mask).tobytes()) == ("L", labels_of(name).tobytes())
    for name in (*voc_folder.names("train"), *voc_folder.names("val")):
        assert data.image(name) == voc_folder.image(name)
        assert np.array_equal(data.read_mask(name), voc_folder.read_mask(name))
    packed = pack(data, "train", 32)
    assert packed.names[-len(OWN) :] == tuple(OWN)
    own = sum(np.bincount(labels_of(name).ravel(), minlength=21) for name in OWN)
    vocs = pack(voc_folder, "train", 32).label_pixels[:21].numpy()
    assert np.array_equal(packed.label_pixels[:21].numpy(), own + vocs)


def test_check_and_train(command, root):
    outcome = command(check, "data=sbd", f"data.root={root}", "picture=null")
    assert outcome.code == 0, outcome.err + outcome.out
    assert outcome.out.splitlines()[0] == str(root / "benchmark_RELEASE" / "dataset")
    assert "train: no problems" in outcome.out
    small = [
        "model.widths=[4,8]",
        "data.size=32",
        "data.batch_size=4",
        "trainer.max_epochs=1",
        "trainer.accelerator=cpu",
    ]
    outcome = command(train, "data=sbd", f"data.root={root}", *small)
    assert outcome.code == 0, outcome.err
    assert "4 test images" in outcome.out


def test_torchvision_s_places(root):
    for path in (root / "benchmark_RELEASE" / "dataset").iterdir():
        path.rename(root / path.name)
    assert find(root).path == root


def md5(content):
    return hashlib.md5(content).hexdigest()


def test_it_is_downloaded_and_resumed_from_another_mirror(server, archive, voc_folder, tmp_path):
    server.archive, server.name = archive, "benchmark.tgz"
    urls = [server.url("dying"), server.url("good")]
    data = find(tmp_path / "data", urls=urls, md5=md5(archive), download=True)
    assert len(data.names("train")) == 8 + len(OWN)
    assert data.missing(data.names("train")) == []
    assert server.requests[-1][:2] == ("good", "bytes=4000-")
    assert not (tmp_path / "data" / "benchmark.tgz.draft").exists()
    before = len(server.requests)
    assert find(tmp_path / "data", urls=urls, md5=md5(archive), download=True) == data
    assert len(server.requests) == before


def test_an_archive_that_leaves_the_folder_is_refused(server, release, voc_folder, tmp_path):
    with tarfile.open(fileobj=(made := io.BytesIO()), mode="w:gz") as tar:
        tar.add(release.parent, "benchmark_RELEASE")
        tar.add(release / "train.txt", "../../evil.txt")
    server.archive, server.name = made.getvalue(), "benchmark.tgz"
    with pytest.raises(ValueError, match=r"refused to unpack .*; get SBD's own archive"):
        find(tmp_path / "data", urls=[server.url("good")], md5=md5(server.archive), download=True)
    assert not (tmp_path / "evil.txt").exists()
    assert not list((tmp_path / "data").glob("benchmark*/*set"))


def test_another_archive_is_refused(server, archive, voc_folder, tmp_path):
    server.archive, server.name = archive, "benchmark.tgz"
    with pytest.raises(ValueError, match=r"no mirror sent benchmark\.tgz"):
        find(tmp_path / "data", urls=[server.url("wrong")], md5=md5(archive), download=True)


def test_without_sbd_the_message_says_where_it_is_looked_for(voc_folder, tmp_path, monkeypatch):
    pytest.importorskip("scipy.io")
    monkeypatch.setattr("fcnseg.data.download.urlopen", lambda *args, **kwargs: pytest.fail("it downloads"))
    for download in (None, False):
        with pytest.raises(ValueError, match=r"no SBD in .*benchmark_RELEASE/dataset/cls .*data\.download=true"):
            find(tmp_path / "data", urls=["http://127.0.0.1:1/x.tgz"], download=download)


def test_without_scipy_nothing_is_downloaded(command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    monkeypatch.setattr("fcnseg.data.download.urlopen", lambda *args, **kwargs: pytest.fail("it downloads"))
    for main in (train, check):
        outcome = command(main, "data=sbd", "data.download=true")
        assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
        assert "data=sbd needs a package that is not installed" in outcome.err
        assert 'pip install ".[sbd]"' in outcome.err
    assert not (tmp_path / "data").exists()


def cut(path):
    path.write_bytes(path.read_bytes()[:200])


def garble(path):
    content = bytearray(path.read_bytes())
    content[128:] = b"\xff" * len(content[128:])
    path.write_bytes(content)


def without_gtcls(path):
    pytest.importorskip("scipy.io").savemat(path, {"GTinst": {"Segmentation": np.zeros((30, 40), np.uint8)}})


HARMS = {
    "missing": (lambda path: path.unlink(), "there is no mask .*: unpack SBD.s archive anew"),
    "cut": (cut, "broken mask"),
    "garbled": (garble, "broken mask"),
    "empty": (lambda path: path.write_bytes(b""), "broken mask"),
    "text": (lambda path: path.write_text("MATLAB 7.3 MAT-file" + " " * 200), "broken mask"),
    "HDF5": (lambda path: path.write_bytes(b"MATLAB 7.3".ljust(124) + b"\x00\x02IM" + b"\x89HDF" * 99), "broken mask"),
    "other": (without_gtcls, "broken mask .*'GTcls'"),
    "real": (lambda path: save_mat(path, np.zeros((30, 40))), r"GTcls\.Segmentation is no matrix of bytes"),
    "cube": (
        lambda path: save_mat(path, np.zeros((30, 40, 3), np.uint8)),
        r"GTcls\.Segmentation is no matrix of bytes",
    ),
    "label": (lambda path: save_mat(path, np.full((30, 40), 21, np.uint8)), r"holds the labels 21, wanted 0\.\.20"),
    "bomb": (
        lambda path: path.write_bytes(path.read_bytes() + bytes(2 << 20)),
        r"it has 2,\d+,\d+ bytes, wanted up to",
    ),
    "size": (lambda path: save_mat(path, np.zeros((40, 30), np.uint8)), "is 30x40, its image 40x30"),
}


@pytest.mark.parametrize("kind", HARMS)
def test_a_broken_mask_is_named(root, kind):
    harm, told = HARMS[kind]
    data = find(root)
    harm(data.mask(OWN[2]))
    with pytest.raises(ValueError, match=told) as error:
        data.read_mask(OWN[2], decode.read_image(data.image(OWN[2])))
    assert str(data.mask(OWN[2])) in str(error.value)


def test_a_broken_mask_stops_train_and_check_and_leaves_nothing(command, root, tmp_path):
    cut(broken := root / "benchmark_RELEASE" / "dataset" / "cls" / f"{OWN[2]}.mat")
    outcome = command(train, "data=sbd", f"data.root={root}", "data.size=32", "data.batch_size=4")
    assert (outcome.code, outcome.err.count("fcnseg: "), outcome.err.count(str(broken))) == (2, 1, 1)
    assert not list(root.rglob("pack.json"))
    assert not list(tmp_path.glob("runs/*/checkpoints"))
    outcome = command(check, "data=sbd", f"data.root={root}", "picture=null")
    assert outcome.code == 2
    assert outcome.out.count(f"  {OWN[2]}.mat: broken mask {broken}") == 1


def test_a_missing_list_is_named(root):
    (root / "benchmark_RELEASE" / "dataset" / "val.txt").unlink()
    with pytest.raises(ValueError, match=r"no list .*dataset/val\.txt"):
        find(root).names("train")
