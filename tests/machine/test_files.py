import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fcnseg.machine.files import LARGEST_TEXT, build_once, read_json, replacing, sync_folder, write_json


def test_a_new_file_is_on_the_disk_before_its_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: done.append(os.readlink(f"/proc/self/fd/{fd}")) or fsync(fd))
    monkeypatch.setattr(Path, "replace", lambda path, other: done.append("rename") or replace(path, other))
    with replacing(tmp_path / "file") as file:
        file.write(b"new")
    assert done == [str(tmp_path / ".file.draft"), "rename", str(tmp_path)]


def failing(monkeypatch, number):
    def fsync(fd):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)


def test_a_file_system_that_cannot_sync_folders_will_do(tmp_path, monkeypatch):
    failing(monkeypatch, errno.EINVAL)
    sync_folder(tmp_path)


def test_a_broken_disk_is_told(tmp_path, monkeypatch):
    failing(monkeypatch, errno.EIO)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        sync_folder(tmp_path)
    assert os.listdir("/proc/self/fd") == before


def write(draft):
    (draft / "file").write_text("whole")


def test_a_folder_is_built_and_then_only_looked_at(tmp_path, monkeypatch):
    folder = tmp_path / "above" / "folder"
    build_once(folder, write)
    monkeypatch.delattr("filelock.FileLock")  # the disk may be read-only
    build_once(folder, lambda draft: pytest.fail("built again"))
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_of_several_at_once_one_builds_a_folder(tmp_path):
    drafts = []

    def slow(draft):
        drafts.append(draft)
        time.sleep(0.2)
        write(draft)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: build_once(tmp_path / "folder", slow), range(3)))
    assert drafts == [tmp_path / ".folder.draft"]
    assert {path.name for path in tmp_path.iterdir()} == {"folder", ".folder.lock"}


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_folder_that_is_not_finished_is_removed(tmp_path, error):
    def fail(draft):
        write(draft)
        raise error

    with pytest.raises(error):
        build_once(tmp_path / "folder", fail)
    assert [path.name for path in tmp_path.iterdir()] == [".folder.lock"]


def test_what_a_killed_build_left_is_not_in_the_folder(tmp_path):
    (tmp_path / ".folder.draft").mkdir()
    (tmp_path / ".folder.draft" / "stray").touch()
    build_once(tmp_path / "folder", write)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "Expecting"),
        (b"{", "Expecting"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b" " * (LARGEST_TEXT + 1), "larger"),
        (b"[]", "a list"),
    ],
)
def test_a_damaged_file_is_told_once(tmp_path, content, told):
    (path := tmp_path / "status.json").write_bytes(content)
    with pytest.raises(ValueError, match=told) as caught:
        read_json(path)
    assert str(caught.value).count(f"{path} is damaged") == str(caught.value).count("remove it") == 1


def test_a_list_of_numbers_takes_a_line_of_json(tmp_path):
    content = {"matrix": [[1, 0], [-2.5e-7, None]], "texts": ["[1,\n 2]", "é"], "empty": [], "rows": [{"a": [1]}]}
    path = tmp_path / "content.json"
    assert read_json(path) is None
    write_json(path, content)
    assert read_json(path) == content
    assert "    [1, 0],\n    [-2.5e-07, null]\n" in path.read_text()
