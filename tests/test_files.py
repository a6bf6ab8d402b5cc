import errno
import os
from pathlib import Path

import pytest

from fcnseg.files import replacing, sync_folder


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
