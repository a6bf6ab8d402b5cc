"""The package is installed from its wheel, with no checkout on the path, and used in an empty folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from fcnseg.cli.configs import CONF

CHECKOUT = Path(__file__).parent.parent
SMALL = [
    *("data=shapes", "data.size=32", "data.batch_size=4", "data.source.train=8", "data.source.val=4"),
    *("trainer.max_epochs=1", "trainer.accelerator=cpu"),
]
MODULE = """
from torch import nn

class Tiny(nn.Conv2d):
    def __init__(self, num_classes, kernel_size):
        super().__init__(3, num_classes, kernel_size, padding=kernel_size // 2)
"""
CONFIG = "_target_: tiny_module.Tiny\nkernel_size: 3\n"

pytestmark = pytest.mark.skipif(not shutil.which("uv"), reason="uv builds and installs the wheel")


def run(*command, cwd=CHECKOUT):
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    run("uv", "build", "--wheel", "--out-dir", folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def bin_folder(wheel, tmp_path_factory):
    """The commands of an environment that has the wheel; its libraries are those of the running one."""
    environment = tmp_path_factory.mktemp("installed") / "venv"
    run("uv", "venv", "--python", sys.executable, environment)
    python = environment / "bin" / "python"
    run("uv", "pip", "install", "--no-deps", "--python", python, wheel)
    libraries = run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip()
    # Python does not read the path files of a folder that a path file names: the checkout's editable install stays out.
    (Path(libraries) / "libraries.pth").write_text(sysconfig.get_paths()["purelib"])
    return python.parent


@pytest.fixture
def empty(bin_folder, tmp_path):
    """A folder with nothing but a module and a config of the user's own."""
    (tmp_path / "tiny_module.py").write_text(MODULE)
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "tiny.yaml").write_text(CONFIG)
    where = run(bin_folder / "python", "-c", "import fcnseg; print(fcnseg.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(bin_folder.parent)
    return tmp_path


def test_the_wheel_holds_every_config_and_the_console_script(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (script,) = [name for name in names if name.endswith("entry_points.txt")]
        assert "fcnseg = fcnseg.__main__:main" in archive.read(script).decode()
    assert {f"fcnseg/conf/{path.relative_to(CONF)}" for path in CONF.rglob("*.yaml")} <= names


@pytest.mark.slow
def test_the_wheel_of_the_source_archive_is_the_same(wheel, tmp_path):
    run("uv", "build", "--out-dir", tmp_path)  # the source archive, and the wheel from it
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["console script", "python -m"])
def test_an_installed_package_trains_evaluates_and_reports(form, bin_folder, empty):
    def command(verb, *args):
        typed = [bin_folder / "fcnseg", verb] if form == "console script" else [bin_folder / "python", "-m", f"fcnseg.{verb}"]
        return run(*typed, *args, cwd=empty)

    mine = ["--config-dir", "mine", "model=tiny"]
    assert "tiny" in command("train", "--help", *mine)
    command("train", *mine, *SMALL)
    command("train", "-m", *mine, *SMALL, "seed=0,1")
    first, _ = sorted(path.parent for path in empty.glob("runs/*/result.json"))
    tested = command("evaluate", f"run={first.relative_to(empty)}", "trust=true")  # the network is no module of ours
    assert str(first.relative_to(empty)) in tested
    command("report")
    assert (empty / "report" / "index.html").is_file()


@pytest.mark.slow
def test_the_console_script_answers_as_python_m_does(bin_folder, empty):
    def answer(*typed):
        done = subprocess.run([*typed], cwd=empty, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    for args in (["--help"], ["data.size=3"], ["modle=fcn"]):
        forms = [bin_folder / "fcnseg", "train"], [bin_folder / "python", "-m", "fcnseg.train"]
        one, other = (answer(*form, *args) for form in forms)
        assert one == other
