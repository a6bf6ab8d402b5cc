"""Fixtures of the fault suite; `injection.py` has what it is done with."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `injection`, for these files and soak.py alike

import injection


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A data.root that all runs share."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def args(data):
    return injection.tiny(data)


@pytest.fixture(scope="session")
def unbroken_run(tmp_path_factory, data):
    """`unbroken_run(net)`: the folder of a run of `tiny` that nothing has disturbed."""
    found = {}

    def unbroken_run(net="fcn"):
        if net not in found:
            folder = tmp_path_factory.mktemp("unbroken")
            outcome = injection.run(folder, *injection.tiny(data, net))
            assert outcome.code == 0, outcome.err
            found[net] = folder / "runs" / "run"
        return found[net]

    return unbroken_run


@pytest.fixture(scope="session")
def same(unbroken_run):
    """`same(run)`: whether a run ended as the unbroken one did; its differences if not."""
    contents = {}

    def same(path, net="fcn"):
        if net not in contents:
            contents[net] = injection.content(unbroken_run(net))
        assert injection.differences(injection.content(path), contents[net]) == []

    return same


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB."""
    disk = tmp_path / "small disk"
    if why := injection.mount(disk, 3):
        pytest.skip(f"this machine does not let us mount a tmpfs: {why}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture
def other_file_system(small_disk, tmp_path):
    """A folder on another file system than tmp_path."""
    assert os.stat(small_disk).st_dev != os.stat(tmp_path).st_dev
    return small_disk
