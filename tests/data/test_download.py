"""The archive comes whole, once and from whichever mirror has it; nobody sees half a data set."""

import hashlib
import io
import subprocess
import sys
import tarfile
import threading
import time

import pytest
from PIL import Image

from fcnseg.data import download, voc

NAME = "VOCtrainval_11-May-2012.tar"


def pack(**extra):
    """A tar in VOC's layout; `extra` names further members, each its content or a TarInfo."""
    files = {f"VOCdevkit/VOC2012/ImageSets/Segmentation/{s}.txt": b"2007_000001\n" for s in ("train", "val")}
    for name, form in {"JPEGImages/2007_000001.jpg": "JPEG", "SegmentationClass/2007_000001.png": "PNG"}.items():
        Image.new("L", (8, 6), 15).save(image := io.BytesIO(), form)
        files[f"VOCdevkit/VOC2012/{name}"] = image.getvalue()
    with tarfile.open(fileobj=(tar := io.BytesIO()), mode="w") as archive:
        for name, content in (files | extra).items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
            else:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return tar.getvalue()


def md5(data):
    return hashlib.md5(data).hexdigest()


ARCHIVE = pack()


@pytest.fixture
def server(server):
    """A server of VOC's archive."""
    server.archive, server.name = ARCHIVE, NAME
    return server


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


def fetch(server, root, *behaviours):
    urls = [server.url(behaviour) for behaviour in behaviours]
    return download.voc2012(root, urls=urls, md5=md5(server.archive), download=True)


def visible(root):
    """The names in `root` that lead to files, locks left out."""
    files = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return sorted({path.relative_to(root).parts[0] for path in files})


def assert_complete(folder, root):
    assert folder == voc.VOCFolder.find(root) == voc.VOCFolder(root / "VOCdevkit" / "VOC2012")
    assert folder.image_sets() == ("train", "val")
    assert folder.missing(folder.names("train")) == []
    assert [path.name for path in folder.path.glob(".*")] == []


def test_downloads_unpacks_and_leaves_only_the_folder(server, root, capfd):
    assert_complete(fetch(server, root, "good"), root)
    assert visible(root) == ["VOCdevkit"]
    assert server.requests == [("good", None, len(ARCHIVE))]
    output = capfd.readouterr()
    assert not output.out
    assert output.err.splitlines() == [f"downloading {server.url('good')} to {root / NAME}.draft"]


def test_a_terminal_gets_a_bar(server, root, capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    fetch(server, root, "good")
    assert f"{len(ARCHIVE) / 1000:.1f}/{len(ARCHIVE) / 1000:.1f} kB" in capfd.readouterr().err


def test_what_is_there_is_not_asked_for(server, root, monkeypatch):
    first = fetch(server, root, "good")
    monkeypatch.delattr("filelock.FileLock")  # nothing is written, not even a lock
    assert fetch(server, root, "404") == first
    assert fetch(server, root / "VOCdevkit", "404") == first
    assert len(server.requests) == 1


def test_a_cut_connection_is_resumed_where_it_broke(server, root):
    assert_complete(fetch(server, root, "cut"), root)
    assert server.requests == [("cut", None, 1000), ("cut", "bytes=1000-", len(ARCHIVE) - 1000)]


def test_a_stalled_connection_is_given_up_and_resumed(server, root, monkeypatch):
    monkeypatch.setattr(download, "_TIMEOUT", 0.2)
    assert_complete(fetch(server, root, "stall"), root)
    assert [ranged for _, ranged, _ in server.requests] == [None, "bytes=1000-"]
    server.shutdown()
    server.server_close()  # waits for the stalled answer
    assert not server.patient


@pytest.mark.parametrize("behaviour", ["trickle", "tiring"])
def test_a_mirror_that_sends_byte_by_byte_is_given_up(server, root, monkeypatch, behaviour):
    """Every packet comes in time, and the whole would take months."""
    monkeypatch.setattr(download, "_TIMEOUT", 0.3)
    monkeypatch.setattr(download, "_LEAST", 1000)
    try:
        started = time.monotonic()
        assert_complete(fetch(server, root, behaviour, "good"), root)
        assert time.monotonic() - started < 4  # one answer alone would take 5 s
    finally:
        server.resumed.set()
    assert [asked for asked, _, _ in server.requests] == [behaviour] * download._TRIES + ["good"]


def test_a_mirror_whose_header_comes_byte_by_byte_is_given_up(server, root, monkeypatch):
    monkeypatch.setattr(download, "_TIMEOUT", 0.3)
    try:
        assert_complete(fetch(server, root, "slowly", "good"), root)
    finally:
        server.resumed.set()
    assert [behaviour for behaviour, _, _ in server.requests] == ["slowly", "good"]


def test_a_mirror_that_never_ends_is_given_up_before_the_disk_is_full(server, root, monkeypatch):
    monkeypatch.setattr(download, "_MOST", 3 * len(ARCHIVE))
    with pytest.raises(ValueError, match=f"more than {3 * len(ARCHIVE):,} bytes, wanted an archive"):
        fetch(server, root, "endless")
    assert visible(root) == []
    assert_complete(fetch(server, root, "endless", "good"), root)
    assert [(asked, ranged) for asked, ranged, _ in server.requests[1:]] == [("endless", None), ("good", None)]


def test_a_local_file_is_no_mirror(server, root, tmp_path):
    (tmp_path / NAME).write_bytes(ARCHIVE)
    urls = [(tmp_path / NAME).as_uri(), server.url("good")]
    assert_complete(download.voc2012(root, urls=urls, md5=md5(ARCHIVE), download=True), root)
    assert len(server.requests) == 1


def test_a_mirror_that_keeps_cutting_hands_over_to_the_next(server, root):
    assert_complete(fetch(server, root, "dying", "good"), root)
    have = 1000 * download._TRIES
    assert [behaviour for behaviour, _, _ in server.requests] == ["dying"] * download._TRIES + ["good"]
    assert server.requests[-1] == ("good", f"bytes={have}-", len(ARCHIVE) - have)


def test_the_next_call_resumes(server, root):
    with pytest.raises(ValueError, match="the connection ended at byte 4,000 of"):
        fetch(server, root, "dying")
    assert visible(root) == [f"{NAME}.draft"]
    assert_complete(fetch(server, root, "good"), root)
    assert server.requests[-1][1] == "bytes=4000-"


def test_a_server_without_ranges_sends_all_anew(server, root):
    root.mkdir()
    (root / f"{NAME}.draft").write_bytes(ARCHIVE[:3000])
    assert_complete(fetch(server, root, "norange"), root)
    assert server.requests == [("norange", "bytes=3000-", len(ARCHIVE))]


@pytest.mark.parametrize("draft", [ARCHIVE + b"more", b"?" * 3000], ids=["too long", "of something else"])
def test_a_draft_that_does_not_fit_is_fetched_anew(server, root, draft):
    root.mkdir()
    (root / f"{NAME}.draft").write_bytes(draft)
    assert_complete(fetch(server, root, "good"), root)
    assert [ranged for _, ranged, _ in server.requests] == [f"bytes={len(draft)}-", None]


def test_a_whole_draft_needs_no_network(server, root):
    root.mkdir()
    (root / f"{NAME}.draft").write_bytes(ARCHIVE)
    assert_complete(fetch(server, root, "good"), root)
    assert server.requests == []
    assert visible(root) == ["VOCdevkit"]


@pytest.mark.parametrize("behaviour", ["wrong", "html", "404", "letters", "negative", "huge"])
def test_a_bad_mirror_is_passed_over(server, root, behaviour):
    assert_complete(fetch(server, root, behaviour, "good"), root)
    assert [(asked, ranged) for asked, ranged, _ in server.requests] == [(behaviour, None), ("good", None)]


def test_a_web_page_does_not_cost_the_draft(server, root):
    root.mkdir()
    (root / f"{NAME}.draft").write_bytes(ARCHIVE[:3000])
    assert_complete(fetch(server, root, "html", "good"), root)
    assert server.requests[-1] == ("good", "bytes=3000-", len(ARCHIVE) - 3000)


def test_when_nothing_answers_the_message_says_what_to_do(server, root):
    closed = f"http://127.0.0.1:1/{NAME}"
    urls = [server.url("404"), server.url("html"), server.url("wrong"), closed, "no-url"]
    with pytest.raises(ValueError, match="no mirror") as error:
        download.voc2012(root, urls=urls, md5=md5(ARCHIVE), download=True)
    answers = str(error.value).splitlines()[1:-1]
    wanted = ["404", "a web page", f"md5 {md5(ARCHIVE[::-1])}", "refused", "unknown url type"]
    assert [(url in line, answer in line) for url, answer, line in zip(urls, wanted, answers, strict=True)] == [
        (True, True)
    ] * 5
    remedy = str(error.value).splitlines()[-1]
    assert all(word in remedy for word in (NAME, md5(ARCHIVE), str(root / NAME)))
    assert visible(root) == []


def link(kind, name, target):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("../../evil.txt", b"evil"),
        ("/{tmp}/evil.txt", b"evil"),
        ("VOCdevkit/out", link(tarfile.SYMTYPE, "VOCdevkit/out", "../../..")),
        ("VOCdevkit/absolute", link(tarfile.SYMTYPE, "VOCdevkit/absolute", "/etc")),
        ("VOCdevkit/hard", link(tarfile.LNKTYPE, "VOCdevkit/hard", "../../secret.txt")),
    ],
)
def test_a_member_that_leaves_the_folder_is_refused(server, root, tmp_path, name, content, by_hand):
    (tmp_path / "secret.txt").write_text("secret")
    name = name.format(tmp=str(tmp_path).lstrip("/"))
    server.archive = pack(**{name: content})
    if by_hand:
        root.mkdir()
        (root / NAME).write_bytes(server.archive)
    with pytest.raises(ValueError, match="refused to unpack") as error:
        fetch(server, root, "good")
    assert name.strip("/") in str(error.value)
    assert visible(root) == [NAME] * by_hand
    assert visible(tmp_path) == ["data"] * by_hand + ["secret.txt"]


def test_an_archive_of_something_else_is_refused(server, root):
    with tarfile.open(fileobj=(tar := io.BytesIO()), mode="w") as archive:
        archive.addfile(tarfile.TarInfo("readme.txt"))
    server.archive = tar.getvalue()
    with pytest.raises(ValueError, match="holds no VOCdevkit/VOC2012"):
        fetch(server, root, "good")
    assert visible(root) == []


def test_two_processes_download_once(server, root):
    both = threading.Event()
    server.meanwhile = lambda: both.wait(20)
    script = "import sys, pathlib; from fcnseg.data import download; print('ready', flush=True)\n" + (
        "print(download.voc2012(pathlib.Path(sys.argv[1]), urls=[sys.argv[2]], md5=sys.argv[3], download=True).path)"
    )
    command = [sys.executable, "-c", script, str(root), server.url("good"), md5(ARCHIVE)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
        threading.Timer(0.3, both.set).start()  # both want the archive before either has it
        outputs = [process.communicate(timeout=20)[0] for process in processes]
    finally:
        both.set()
        for process in processes:
            process.kill()
    assert outputs == [f"{root / 'VOCdevkit' / 'VOC2012'}\n"] * 2
    assert len(server.requests) == 1
    assert_complete(voc.VOCFolder.find(root), root)


def test_a_killed_extraction_is_cleared_and_done_again(server, root):
    kill = (
        "import os, sys, pathlib; from fcnseg.data import download\n"
        "os.replace = lambda *paths: os._exit(9)\n"
        "download.voc2012(pathlib.Path(sys.argv[1]), urls=[sys.argv[2]], md5=sys.argv[3], download=True)"
    )
    command = [sys.executable, "-c", kill, str(root), server.url("good"), md5(ARCHIVE)]
    assert subprocess.run(command, timeout=20).returncode == 9
    assert voc.VOCFolder.find(root) is None
    (stale := root / "VOCdevkit" / ".VOC2012.draft" / "stale").touch(exist_ok=False)
    assert_complete(folder := fetch(server, root, "good"), root)
    assert not (folder.path / stale.name).exists()
    assert visible(root) == ["VOCdevkit"]
    assert len(server.requests) == 1


def test_a_full_disk_leaves_no_half_a_folder(server, root, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "makefile", full)
        with pytest.raises(OSError, match="No space left"):
            fetch(server, root, "good")
    assert visible(root) == [f"{NAME}.draft"]
    assert_complete(fetch(server, root, "good"), root)
    assert len(server.requests) == 1


def test_a_hand_placed_archive_is_used_and_kept(server, root):
    root.mkdir()
    (root / NAME).write_bytes(ARCHIVE)
    assert_complete(fetch(server, root, "good"), root)
    assert server.requests == []
    assert visible(root) == ["VOCdevkit", NAME]


def test_a_broken_hand_placed_archive_is_named(server, root):
    root.mkdir()
    (root / NAME).write_bytes(ARCHIVE[:-1])
    with pytest.raises(ValueError, match=f"has md5 {md5(ARCHIVE[:-1])}, wanted {md5(ARCHIVE)}: delete it"):
        fetch(server, root, "good")
    assert server.requests == []
    assert visible(root) == [NAME]


def test_another_years_devkit_stays(server, root):
    (other := root / "VOCdevkit" / "VOC2007").mkdir(parents=True)
    assert_complete(fetch(server, root, "good"), root)
    assert other.is_dir()


def test_a_folder_in_the_way_is_named_before_the_download(server, root):
    (root / "VOCdevkit" / "VOC2012" / "JPEGImages").mkdir(parents=True)
    with pytest.raises(ValueError, match="without ImageSets/Segmentation"):
        fetch(server, root, "good")
    assert server.requests == []


def test_a_mistyped_root_starts_no_download(server, tmp_path):
    with pytest.raises(ValueError, match=r"no folder .*typo/data.*correct the path"):
        fetch(server, tmp_path / "typo" / "data", "good")
    assert server.requests == []
    assert visible(tmp_path) == []


def test_no_mirror_is_an_error(root):
    with pytest.raises(ValueError, match="name at least one URL"):
        download.voc2012(root, urls=[], md5="", download=True)
    assert not root.exists()
