"""Commands run in the tests' own process: importing torch and Lightning anew would cost every test seconds."""

import contextlib
import io
import os
import shutil
import signal
import sys
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import hydra
import omegaconf.base
import omegaconf.grammar_parser
import pytest
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from fcnseg.cli.configs import CONF
from fcnseg.data.shapes import shapes

sys.path.insert(0, str(Path(__file__).parent))  # `hostile`
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # numbers are pinned on the CPU
os.environ.setdefault("OMP_NUM_THREADS", "1")  # nets this small wait for their threads
MEMORY = Path("/dev/shm")  # Linux's file system in memory, where a save waits for no disk; the tests need a tenth of this
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 4e9:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

SMALL = {
    "data.size": "32",
    "data.batch_size": "4",
    "data.source.train": "8",
    "data.source.val": "4",
    "model.widths": "[4,8]",
    "model.backbone": "mobilenet_v3_small",
    "model.weights": "null",
    "trainer.max_epochs": "1",
    "checkpoint.min_seconds": "0",
    "trainer.accelerator": "cpu",
    "trainer.precision": "32-true",
}


# Interpolations are the same in all commands: to parse them is a fifth of a command's time.
parse_once = cache(omegaconf.grammar_parser.parse)


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def mode_if_set(hydra, config_name, overrides, get_mode=Hydra.get_mode):
    """Hydra's `get_mode`, which composes the whole config only to read hydra.mode: a third of a refused command's time."""
    return get_mode(hydra, config_name, overrides) if any(text.startswith("hydra") for text in overrides) else None


def run_command(function, *args, cwd):
    """What a decorated function gives in the folder `cwd` for these words of its command line."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    on_interrupt = signal.getsignal(signal.SIGINT)  # Lightning leaves Ctrl-C ignored after the first
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(cwd):
        patch.setattr(sys, "argv", [function.__module__, *map(str, args)])
        patch.setattr(Hydra, "get_mode", mode_if_set)
        patch.setattr(omegaconf.base, "parse", parse_once)
        patch.setenv("HYDRA_FULL_ERROR", os.environ.get("HYDRA_FULL_ERROR", "0"))
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                function()
        except SystemExit as error:
            code = error.code or 0
        finally:
            signal.signal(signal.SIGINT, on_interrupt)
            GlobalHydra.instance().clear()
            if wandb := sys.modules.get("wandb"):
                wandb.finish()  # as the end of a process does
    return Outcome(code, out.getvalue(), err.getvalue())


@pytest.fixture
def command(tmp_path):
    """`command(train, *args)` gives what `python -m fcnseg.train *args` does in `tmp_path`."""
    return partial(run_command, cwd=tmp_path)


@pytest.fixture(scope="session")
def command_in():
    """`command_in(folder, train, *args)`: the same in any folder, for fixtures of more than one test."""
    return lambda folder, function, *args: run_command(function, *args, cwd=folder)


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """A data.root for data=shapes, data=voc2012 and data=sbd: eight images to train on, four to validate on.

    SBD has no images of its own in it, so that none of MATLAB's files has to be made. `folder` is one for data=folder.
    """
    root = tmp_path_factory.mktemp("data")
    folder = shapes(root, train=8, val=4, seed=0)
    (root / "VOCdevkit").symlink_to(folder.path.parent)
    sbd = root / "benchmark_RELEASE" / "dataset"
    shutil.copytree(folder.path / "ImageSets" / "Segmentation", sbd)
    (sbd / "cls").mkdir()
    (root / "folder").mkdir()
    for kind in ("JPEGImages", "SegmentationClass", "ImageSets"):
        (root / "folder" / kind).symlink_to(folder.path / kind)
    (root / "folder" / "classes.yaml").write_text(f"names: [{', '.join(folder.classes.names)}]")
    return root


@pytest.fixture(scope="session")
def compose():
    """The config that overrides lead to, from the shipped folder or another."""

    @cache
    def compose(*overrides, conf=CONF):
        with hydra.initialize_config_dir(str(conf), version_base="1.3"):
            return hydra.compose("config", overrides=list(overrides))

    return compose


@pytest.fixture(scope="session")
def tiny(root, compose):
    """`tiny(*overrides)`: these overrides, after those of SMALL that such a config has."""

    def tiny(*overrides):
        groups = [override for override in overrides if "." not in override.partition("=")[0]]
        if not any(group.startswith(("data=", "debug=")) for group in groups):
            groups = ["data=shapes", *groups]
        cfg = compose(*groups)
        folder = "data=folder" in groups
        small = {key: value for key, value in SMALL.items() if not (folder and key.startswith("data.source"))}
        fitting = [f"{key}={value}" for key, value in small.items() if OmegaConf.select(cfg, key, default="no") != "no"]
        return [
            *groups,
            f"data.root={root / 'folder' if folder else root}",
            *fitting,
            *(o for o in overrides if o not in groups),
        ]

    return tiny


@pytest.fixture(scope="session")
def train_in(tiny):
    """`train_in(folder, *overrides)` trains a tiny run there and returns its folder."""
    from fcnseg.train import train

    def train_in(folder, *overrides):
        outcome = run_command(train, *tiny(*overrides, f"runs={folder}"), cwd=folder)
        assert outcome.code == 0, outcome.err
        return max(folder.glob("*/result.json"), key=lambda path: path.stat().st_mtime_ns).parent

    return train_in


@pytest.fixture(scope="module")
def run(tmp_path_factory, train_in):
    """A finished run on VOC's layout, of images that are not square."""
    return train_in(tmp_path_factory.mktemp("run"), "data=voc2012", "data.size=[32,48]", "optimizer.lr=0.05")


@pytest.fixture
def deterministic():
    """PyTorch refuses what has no deterministic way."""
    import torch

    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
