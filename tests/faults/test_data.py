"""Data sets that are broken, odd, half there or changed; packs and downloads that are killed or wanted twice at once."""

import faulthandler
import hashlib
import io
import os
import shutil
import signal
import tarfile
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from injection import at, content, differences, empty, kill, run, start, truncate, wait_until
from PIL import Image

from fcnseg.check.__main__ import check
from fcnseg.data import decode, packed, voc
from fcnseg.data.shapes import shapes
from fcnseg.learning.task import SegmentationTask
from fcnseg.machine import limits
from fcnseg.machine.files import read_json

PLAIN = ["model=fcn", "model.widths=[4,8]", "data.size=32", "data.batch_size=4", "trainer.max_epochs=1"]
PLAIN += ["trainer.accelerator=cpu", "trainer.precision=32-true", "name=run"]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return shapes(tmp_path_factory.mktemp("shapes"), train=8, val=4, seed=0)


@pytest.fixture
def folder(pristine, tmp_path):
    """A data set of this test's own."""
    return voc.VOCFolder(shutil.copytree(pristine.path, tmp_path / "VOC2012"))


@pytest.fixture
def command(folder):
    return ["data=voc2012", "data.root=VOC2012", *PLAIN]  # the same for every test: parsed once


def colour(path):
    Image.open(path).convert("RGB").save(path)


def label(value):
    def stray(path):
        mask = Image.open(path)
        mask.putpixel((0, 0), value)
        mask.save(path)

    return stray


def crop(path):
    mask = Image.open(path)
    mask.crop((0, 0, mask.width - 1, mask.height)).save(path)


BROKEN = {
    "truncated JPEG": ("image", truncate, "broken image"),
    "zero-byte JPEG": ("image", empty, "broken image"),
    "zero-byte PNG": ("mask", empty, "broken mask"),
    "truncated PNG": ("mask", truncate, "broken mask"),
    "RGB mask": ("mask", colour, "is a picture of mode RGB, wanted labels"),
    "label 21": ("mask", label(21), "holds the labels 21, wanted 0..20 and 255"),
    "label 254": ("mask", label(254), "holds the labels 254, wanted 0..20 and 255"),
    "mask of another size": ("mask", crop, "make them one size"),
    "missing image": ("image", Path.unlink, "are missing"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_file_is_refused_by_name_before_anything_is_trained(tmp_path, folder, command, fault):
    kind, harm, told = BROKEN[fault]
    path = getattr(folder, kind)(folder.names("train")[3])
    harm(path)
    outcome = run(tmp_path, *command)
    assert outcome.code == 2
    assert f"VOC2012/{path.parent.name}/{path.name}" in outcome.err
    assert told in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "runs").exists()


def test_the_check_names_every_broken_file(tmp_path, folder, command):
    faults = [fault for fault in BROKEN if fault != "missing image"]
    for name, fault in zip(folder.names("train"), faults, strict=True):
        kind, harm, _ = BROKEN[fault]
        harm(getattr(folder, kind)(name))
    outcome = run(tmp_path, *(word for word in command if word.startswith(("data=", "data.root="))), command=check)
    assert outcome.code == 2
    for name, fault in zip(folder.names("train"), faults, strict=True):
        path = getattr(folder, BROKEN[fault][0])(name)
        assert f"VOC2012/{path.parent.name}/{path.name}" in outcome.out


def test_odd_images_train(tmp_path, folder, command):
    """CMYK, grey, 16 bit (a PNG called .jpg) and turned by EXIF."""
    cmyk, grey, deep, turned = (folder.image(name) for name in folder.names("train")[:4])
    Image.open(cmyk).convert("CMYK").save(cmyk)
    Image.open(grey).convert("L").save(grey)
    Image.fromarray(np.asarray(Image.open(deep).convert("L")).astype(np.uint16) * 257).save(deep, "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it a quarter clockwise to look at it
    upright = Image.open(turned)
    upright.rotate(90, expand=True).save(turned, exif=exif, quality=95)
    outcome = run(tmp_path, *command)
    assert outcome.code == 0, outcome.err
    images = packed.pack(folder, "train", 32).images[:4].numpy().astype(int)
    for found, path in zip(images, (cmyk, grey, deep, upright), strict=True):
        picture = path if isinstance(path, Image.Image) else decode.read_image(path)
        wanted = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR), dtype=int)
        assert np.abs(found - wanted).mean() < 4  # JPEG, once more


def test_a_half_extracted_data_set_is_refused(tmp_path, folder, command):
    for name in folder.names("train")[2:]:
        folder.mask(name).unlink()
    outcome = run(tmp_path, *command)
    assert (outcome.code, "6 files of the image set 'train' are missing" in outcome.err) == (2, True)
    shutil.rmtree(folder.path / "SegmentationClass")
    shutil.rmtree(folder.path / "ImageSets")
    (tmp_path / "VOCdevkit").mkdir()
    moved = folder.path.rename(tmp_path / "VOCdevkit" / "VOC2012")
    outcome = run(tmp_path, *command, f"data.root={tmp_path}")
    assert (outcome.code, f"{moved} exists, but without ImageSets" in outcome.err) == (2, True)


SIZES = [("fcn", 33), ("wilson", 47), ("unet", 37), ("transfer", 63)]


@pytest.mark.parametrize(("net", "size"), SIZES)
def test_odd_sizes_train(tmp_path, command, net, size):
    own = {"transfer": ["model.backbone=mobilenet_v3_small", "model.weights=null"]}.get(net, ["model.widths=[4,8]"])
    args = [arg for arg in command if not arg.startswith("model")]
    outcome = run(tmp_path, *args, f"model={net}", *own, f"data.size={size}")
    assert outcome.code == 0, outcome.err
    confusion = np.array(read_json(tmp_path / "runs" / "run" / "result.json")["confusion"])
    assert confusion.sum() == 4 * size**2


def test_a_size_below_32_is_refused(tmp_path, command):
    outcome = run(tmp_path, *command, "data.size=31")
    assert (outcome.code, "from 32 up" in outcome.err) == (2, True)


DEEP = {  # as deep as they ship, but narrow: at 32 px the deepest features are one or two pixels
    "fcn": "model.widths=[2,2,2,2,2]",
    "wilson": "model.widths=[2,2,2,2,2,2]",
    "unet": "model.widths=[2,2,2,2,2]",
    "transfer": "model.backbone=resnet18",
}


def deep(command, net, *more):
    args = [arg for arg in command if not arg.startswith("model")]
    return [*args, f"model={net}", DEEP[net], *(["model.weights=null"] if net == "transfer" else []), *more]


@pytest.mark.parametrize("net", [pytest.param(net, marks=[pytest.mark.slow] * (net == "transfer")) for net in DEEP])
def test_a_batch_of_one_image_trains(tmp_path, command, net):
    """Even at 32 px, where batch norm sees one value a channel in the deepest layers."""
    outcome = run(tmp_path, *deep(command, net, "data.batch_size=1", "data.size=32"))
    assert outcome.code == 0, outcome.err


def test_batch_norm_of_one_value_in_another_network_says_what_to_raise():
    message = r"data\.batch_size=1 at data\.size=32 leaves one: raise either"
    with pytest.raises(ValueError, match=message), limits.limits_explained(1, 32, "32-true"):
        torch.nn.BatchNorm2d(3)(torch.zeros(1, 3, 1, 1))


def test_instance_norm_of_one_value_says_what_to_raise(tmp_path, command):
    """One stage more than U-Net ships with."""
    args = [arg for arg in command if not arg.startswith("model")]
    outcome = run(tmp_path, *args, "model=unet", "model.widths=[2,2,2,2,2,2]")
    assert outcome.code == 1
    assert "instance norm needs more than one value a channel: raise data.size=32" in outcome.err


@pytest.mark.parametrize("net", ["fcn", pytest.param("transfer", marks=pytest.mark.slow)])
def test_an_image_left_over_at_an_epoch_s_end_trains(tmp_path, command, net):
    """Eight images in batches of seven."""
    outcome = run(tmp_path, *deep(command, net, "data.batch_size=7"))
    assert outcome.code == 0, outcome.err


def change(folder):
    """Half of a training mask gets another label."""
    path = folder.mask(folder.names("train")[0])
    mask = Image.open(path)
    mask.paste(7, (0, 0, mask.width, mask.height // 2))
    mask.save(path)


def test_data_changed_under_a_pack_are_packed_anew(tmp_path, folder, command):
    assert run(tmp_path, *command).code == 0
    before = read_json(tmp_path / "runs" / "run" / "result.json")
    change(folder)
    assert run(tmp_path, *command, "resume=never").code == 0
    after = read_json(tmp_path / "runs" / "run" / "result.json")
    assert after["data_fingerprint"] != before["data_fingerprint"]


def test_data_changed_under_an_unfinished_run_are_noticed(tmp_path, folder, command):
    args = [*command, "checkpoint.every_n_steps=1"]
    assert run(tmp_path, *args, inject=partial(at, SegmentationTask, "training_step", 2, kill)).code == -9
    change(folder)
    outcome = run(tmp_path, *args)
    assert outcome.code in (1, 2)
    assert "data set" in outcome.err
    assert not (tmp_path / "runs" / "run" / "result.json").exists()
    assert run(tmp_path, *args, "resume=never").code == 0


def packs(folder):
    return sorted(path.name for path in (folder.path / "packs").glob("*") if path.is_dir())


def test_a_damaged_pack_is_named(tmp_path, folder, command):
    packed.pack(folder, "train", 32)
    (home,) = (folder.path / "packs").glob("train-32-*/")
    truncate(home / "images.npy")
    outcome = run(tmp_path, *command)
    assert "Traceback" not in outcome.err
    assert outcome.code == 0 or (outcome.code == 2 and str(home.relative_to(tmp_path)) in outcome.err), outcome.err


def cut_packs(*_):
    faulthandler.disable()  # pytest's, which would print every thread's stack
    for path in Path("VOC2012/packs").glob("train-*/*.npy"):
        os.truncate(path, 0)


def test_a_pack_cut_short_while_it_is_mapped_costs_the_process_and_nothing_else(tmp_path, folder, command):
    """SIGBUS, which no program can catch; what comes then is said, and ends as an unbroken run."""
    args = [*command, "trainer.max_epochs=2", "checkpoint.every_n_steps=1"]
    assert run(tmp_path, *args, "name=other").code == 0
    outcome = run(tmp_path, *args, inject=partial(at, SegmentationTask, "training_step", 3, cut_packs))
    assert outcome.code == -signal.SIGBUS
    outcome = run(tmp_path, *args)
    assert (outcome.code, "remove this folder, and it is built anew" in outcome.err) == (2, True)
    shutil.rmtree(folder.path / "packs")
    assert run(tmp_path, *args).code == 0
    found, wanted = (content(tmp_path / "runs" / name) for name in ("run", "other"))
    assert differences(found["last"], wanted["last"]) == []


def test_a_disk_too_small_for_a_pack_says_so(folder, command, small_disk):
    """Twelve images of 512 pixels take 12 MB."""
    moved = voc.VOCFolder(shutil.copytree(folder.path, small_disk / "VOC2012"))
    outcome = run(small_disk.parent, *command, f"data.root='{moved.path}'", "data.size=512")
    assert (outcome.code, "No space left on device; make room there, or lower data.size" in outcome.err) == (2, True)
    assert packs(moved) == []
    assert not (small_disk.parent / "runs").exists()
    assert run(small_disk.parent, *command, f"data.root='{moved.path}'").code == 0


MOMENTS = {
    "decoding": partial(at, packed, "_write", 3, kill),
    "before the arrays are synced": partial(at, np.memmap, "flush", 1, kill),
    "arrays written": partial(at, np.memmap, "flush", 2, kill, after=True),
    "before the rename": partial(at, os, "replace", 1, kill),
    "after the rename": partial(at, os, "replace", 1, kill, after=True),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_build_leaves_no_pack_that_is_wrong(tmp_path, folder, command, moment):
    assert run(tmp_path, *command, inject=MOMENTS[moment]).code == -9
    finished = 1 if moment == "after the rename" else 0
    assert len([name for name in packs(folder) if not name.endswith(".draft")]) == finished
    outcome = run(tmp_path, *command)
    assert outcome.code == 0, outcome.err
    assert [name.rsplit("-", 1)[0] for name in packs(folder)] == ["train-32", "val-32"]
    shutil.rmtree(folder.path / "packs")
    assert run(tmp_path, *command, "name=other").code == 0
    found, wanted = (content(tmp_path / "runs" / name) for name in ("run", "other"))
    assert differences(found["last"], wanted["last"]) == []


def test_two_processes_build_a_pack_once(tmp_path, folder, command):
    """Both want it before either has begun; each build leaves a mark."""
    marks = tmp_path / "marks"
    marks.mkdir()

    def inject():
        at(packed, "_build", 1, lambda *_: (marks / f"{os.getpid()}").touch() or time.sleep(0.5), after=True)

    processes = [start(tmp_path, *command, f"name={name}", inject=inject) for name in ("one", "two")]
    outcomes = [process.wait() for process in processes]
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert packs(folder) == [name for name in packs(folder) if "draft" not in name]
    assert len(packs(folder)) == 2
    fingerprints = {read_json(tmp_path / "runs" / name / "result.json")["data_fingerprint"] for name in ("one", "two")}
    assert len(fingerprints) == 1
    assert 1 <= len(list(marks.iterdir())) <= 2  # train by the one, val by either


NAME = "VOCtrainval_11-May-2012.tar"


@pytest.fixture
def archive(pristine):
    with tarfile.open(fileobj=(tar := io.BytesIO()), mode="w") as file:
        file.add(pristine.path, "VOCdevkit/VOC2012", filter=lambda member: None if "packs" in member.name else member)
    return tar.getvalue()


@pytest.fixture
def mirror(archive, monkeypatch):
    """Sends half of the archive at first and waits; once `go` is set, whatever is asked for."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    go, asked = threading.Event(), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            first = int(self.headers.get("Range", "bytes=0-")[len("bytes=") : -1])
            asked.append(first)
            self.send_response(206 if first else 200)
            self.send_header("Content-Type", "application/x-tar")
            self.send_header("Content-Length", str(len(archive) - first))
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(archive) - 1}/{len(archive)}")
            self.end_headers()
            try:
                self.wfile.write(archive[first : len(archive) // 2])
                go.wait(20)
                self.wfile.write(archive[max(first, len(archive) // 2) :])
            except OSError:
                pass  # whoever asked was killed

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    serve = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    server.go, server.asked, server.serve = go, asked, serve.start  # after the fork, which copies no thread
    server.args = [
        *("data=voc2012", *PLAIN, f"data.source.md5={hashlib.md5(archive).hexdigest()}"),
        *("data.download=true", f"data.source.urls=[http://127.0.0.1:{server.server_port}/{NAME}]"),
    ]
    yield server
    go.set()
    server.shutdown()
    serve.join()
    server.server_close()


def test_a_killed_download_is_resumed(tmp_path, mirror, archive):
    args = [*mirror.args, f"data.root={tmp_path / 'data'}"]
    process = start(tmp_path, *args, inject=mirror.socket.close)
    mirror.serve()
    draft = tmp_path / "data" / f"{NAME}.draft"
    wait_until(lambda: draft.exists() and draft.stat().st_size == len(archive) // 2)
    process.send(signal.SIGKILL)
    assert process.wait().code == -9
    assert voc.VOCFolder.find(tmp_path / "data") is None
    mirror.go.set()
    outcome = run(tmp_path, *args, inject=mirror.socket.close)
    assert outcome.code == 0, outcome.err
    assert mirror.asked == [0, len(archive) // 2]
    assert voc.VOCFolder.find(tmp_path / "data").names("val")
    assert not draft.exists()


def test_two_processes_download_once(tmp_path, mirror):
    args = [*mirror.args, f"data.root={tmp_path / 'data'}"]
    processes = [start(tmp_path, *args, f"name={name}", inject=mirror.socket.close) for name in ("one", "two")]
    mirror.serve()
    wait_until(lambda: mirror.asked)
    time.sleep(0.3)  # the other one has come by now
    mirror.go.set()
    assert [process.wait().code for process in processes] == [0, 0]
    assert mirror.asked == [0]


def test_a_download_killed_while_unpacking_leaves_no_data_set(tmp_path, mirror):
    args = [*mirror.args, f"data.root={tmp_path / 'data'}"]
    mirror.go.set()
    mirror.serve()
    inject = partial(at, tarfile.TarFile, "makefile", 5, kill)
    assert run(tmp_path, *args, inject=inject).code == -9
    assert voc.VOCFolder.find(tmp_path / "data") is None
    assert run(tmp_path, *args).code == 0
    assert len(mirror.asked) == 1  # the archive had come whole
