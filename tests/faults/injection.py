"""Runs a command in a forked process that has torch imported already, breaks it at a chosen moment, compares what is left."""

import contextlib
import csv
import gc
import io
import os
import signal
import subprocess
import sys
import time
import traceback
from functools import cache
from pathlib import Path
from typing import NamedTuple

import hydra
import omegaconf.base
import omegaconf.grammar_parser
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torchvision.ops import stochastic_depth

import fcnseg.cli.command
import fcnseg.cli.values
from fcnseg import fit, models  # noqa: F401
from fcnseg.cli.configs import CONF, default_config
from fcnseg.data import shapes  # noqa: F401
from fcnseg.evaluate import evaluate  # noqa: F401
from fcnseg.machine.files import read_json
from fcnseg.models import FCN
from fcnseg.report import card  # noqa: F401
from fcnseg.results import provenance, scoring  # noqa: F401  (commands import some late: here once, before forking)
from fcnseg.runs.folder import Run
from fcnseg.train import train

omegaconf.base.parse = cache(omegaconf.grammar_parser.parse)
TIME = ("images_per_s", "predicted_per_s", "peak_memory", "seconds")  # what no two runs have in common
STRICT = ["trainer.deterministic=true", "loss=weighted"]


class Dropping(FCN):
    """A network that draws numbers while it trains: for dropout, and for stochastic depth."""

    def forward(self, image):
        rate = 0.5 if self.training else 0.0
        image = image + stochastic_depth(image, 0.5, "row", self.training)
        return super().forward(nn.functional.dropout(image, rate))


NETS = {
    "dropping": ["model=fcn", "model._target_=injection.Dropping", "model.widths=[4,8]"],
    "fcn": ["model=fcn", "model.widths=[4,8]"],
    "augmented": ["model=fcn", "model.widths=[4,8]", "aug=strong", "+aug@aug.mix=classmix", "data.pack_size=48"],
    "wilson": ["model=wilson", "model.widths=[4,8]", *STRICT],
    "unet": ["model=unet", "model.widths=[4,8]", *STRICT],
    "transfer": ["model=transfer", "model.backbone=mobilenet_v3_small", "model.weights=null", *STRICT],
}


def tiny(root, net="fcn"):
    """A run of two epochs of three steps whose state is saved after every step; of transfer, one epoch: its files are large."""
    epochs, steps = (1, "null") if net == "transfer" else (2, 1)
    flip = ["aug=flip"] if net != "augmented" else []
    return [
        *("data=shapes", f"data.root='{root}'", "data.size=32", "data.batch_size=8"),
        *("data.source.train=24", "data.source.val=8", *flip, "schedule=cosine", *NETS[net]),
        *(f"trainer.max_epochs={epochs}", "trainer.accelerator=cpu", "trainer.precision=32-true"),
        *("optimizer.lr=0.01", f"checkpoint.every_n_steps={steps}", "checkpoint.min_seconds=0", "name=run"),
    ]


class Outcome(NamedTuple):
    """What a command left: its exit code (the signal below zero if one killed it), and what it printed."""

    code: int
    out: str
    err: str


class Process:
    """A command running in a fork of this process, in a session of its own."""

    started = 0

    def __init__(self, command, args, cwd, inject, parsed, with_git):
        Process.started += 1
        base = Path(cwd) / f".output-{Process.started}"
        self.out, self.err = base.with_suffix(".out"), base.with_suffix(".err")
        sys.stdout.flush()
        sys.stderr.flush()
        gc.freeze()  # a search for garbage in the fork would copy all that it looks at
        self.pid = os.fork()
        if self.pid == 0:
            self._run(command, args, cwd, inject, parsed, with_git)

    def _run(self, command, args, cwd, inject, parsed, with_git):
        code = 99
        try:
            os.setsid()
            for number, path in ((1, self.out), (2, self.err)):
                file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(file, number)
            sys.stdout, sys.stderr = (os.fdopen(n, "w", 1, encoding="utf-8", closefd=False) for n in (1, 2))
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.chdir(cwd)
            torch.set_num_threads(1)
            sys.argv = [command.__module__, *map(str, args)]
            os.environ["HYDRA_FULL_ERROR"] = "0"
            GlobalHydra.instance().clear()
            if parsed:
                skip_hydra(*parsed)
            if not with_git:
                provenance._git = lambda *_: None  # slow, and somebody may commit between two runs
            # A real restart comes seconds after the start before it (imports); TensorBoard names its files by
            # the second, so a fork's clock has to do the same.
            now, later = time.time, 10 * Process.started
            time.time = lambda: now() + later
            if inject:
                inject()
            command()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def send(self, signum):
        os.kill(self.pid, signum)

    def wait(self, seconds=60):
        deadline = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise TimeoutError(self.err.read_text(errors="replace"))
            time.sleep(0.005)
        out, err = (path.read_text(encoding="utf-8", errors="replace") for path in (self.out, self.err))
        return Outcome(os.waitstatus_to_exitcode(status), out, err)

    def children(self):
        """Processes of its session that are still there."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[3]) == self.pid and fields[0] != "Z":
                    found.append(int(stat.parent.name))
        return found


@cache
def parse(*args):
    """What Hydra makes of a command line: its own config, the job's, and the defaults that values are held against."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("config", overrides=list(args), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        own = HydraConfig.instance().cfg
        with open_dict(cfg):
            del cfg["hydra"]
        defaults = default_config("config")
        for config in (cfg, defaults):
            OmegaConf.to_container(config, resolve=True)  # so that no fork has to parse an interpolation
        return own, cfg, defaults


def skip_hydra(own, cfg, defaults):
    """Put the parsed command line where Hydra would put it: its parsing is half of a tiny run's time."""
    HydraConfig.instance().cfg = own
    fcnseg.cli.values.default_config = lambda *_, **__: defaults
    fcnseg.cli.values.preset_choices = lambda _: own.hydra.runtime.choices
    fcnseg.cli.command._run_hydra = lambda flags, parser, job, **_: job(cfg)


def start(cwd, *args, command=train, inject=None, with_hydra=False, with_git=False):
    plain = command is train and "-m" not in args and not with_hydra
    return Process(command, args, cwd, inject, parse(*map(str, args)) if plain else None, with_git)


def run(cwd, *args, **how):
    """What `python -m fcnseg.<command> *args` gives in `cwd`, with `inject()` called before it in its process."""
    return start(cwd, *args, **how).wait()


def at(owner, name, nth, action, *, after=False, when=lambda *_, **__: True):
    """Do `action(*args)` before, or after, the `nth` call of `owner.name` (of those that `when(*args)` picks).

    In the fork only: nothing is put back.
    """
    original, calls = getattr(owner, name), 0

    def wrapped(*args, **kwargs):
        nonlocal calls
        counted = when(*args, **kwargs)
        calls += counted
        now = counted and calls == nth
        if now and not after:
            action(*args, **kwargs)
        result = original(*args, **kwargs)
        if now and after:
            action(*args, **kwargs)
        return result

    setattr(owner, name, wrapped)


def send(signum):
    """An action: send this very process a signal."""
    return lambda *_, **__: os.kill(os.getpid(), signum)


kill = send(signal.SIGKILL)


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    path.write_bytes(b"")


def rows(path):
    """metrics.csv without the columns of time."""
    with (path / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key not in TIME} for row in csv.DictReader(file)]


def tensorboard(path):
    """(tag, step, value) of everything that TensorBoard shows of a run."""
    log = EventAccumulator(str(path), size_guidance={"scalars": 0, "images": 0})
    log.Reload()
    scalars = [(tag, e.step, e.value) for tag in log.Tags()["scalars"] if tag not in TIME for e in log.Scalars(tag)]
    images = [(tag, e.step, e.encoded_image_string) for tag in log.Tags()["images"] for e in log.Images(tag)]
    return sorted(scalars, key=lambda item: item[:2]) + sorted(images)


def load(path):
    return torch.load(path, map_location="cpu", weights_only=True)


def content(path):
    """All of a finished run that must not depend on how often it was broken off."""
    last, best = load(path / "checkpoints" / "last.ckpt"), load(path / "checkpoints" / "best.ckpt")
    result = read_json(path / "result.json")
    parts = ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "epoch", "global_step")
    # NaN is not equal to itself; as text it is
    return {
        "last": {part: last[part] for part in parts},
        "best": best,
        "rows": rows(path),
        "tensorboard": [tuple(map(repr, item)) for item in tensorboard(path)],
        "result": {key: value for key, value in result.items() if key not in (*TIME, "sessions", "bf16_gain")},
        "status": Run(path).status["status"],
    }


def differences(one, other, where=""):
    """Where two nested contents differ; tensors are compared bit for bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape and raw(one) == raw(other)
    elif type(one) is not type(other):
        same = False
    elif isinstance(one, dict):
        keys = [f"{where}/{key}" for key in one.keys() ^ other.keys()]
        return keys + [d for key in one.keys() & other.keys() for d in differences(one[key], other[key], f"{where}/{key}")]
    elif isinstance(one, (list, tuple)) and len(one) == len(other):
        return [d for i, pair in enumerate(zip(one, other, strict=True)) for d in differences(*pair, f"{where}/{i}")]
    elif isinstance(one, list):
        more, less = ([item for item in a if item not in b] for a, b in ((one, other), (other, one)))
        twice = [item for item in one if one.count(item) > other.count(item) > 0]
        return [f"{where}: more {more[:9]}, less {less[:9]}, more often {twice[:9]}"]
    else:
        same = one == other
    return [] if same else [f"{where}: {str(one)[:200]} is not {str(other)[:200]}"]


def raw(tensor):
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def torn_save(nth):
    """Let the `nth` checkpoint be cut in the middle of its bytes by SIGKILL."""
    save = torch.save

    def half(content, file):
        whole = io.BytesIO()
        save(content, whole)
        file.write(whole.getvalue()[: whole.tell() // 2])
        file.flush()
        kill()

    at(torch, "save", nth, half)


def kill_at_file_operation(nth):
    """Kill this process just before the `nth` fsync, rename or removal of a file from here on."""
    calls = 0

    def counted(original):
        def wrapped(*args, **kwargs):
            nonlocal calls
            calls += 1
            return kill() if calls == nth else original(*args, **kwargs)

        return wrapped

    for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink")):
        setattr(owner, name, counted(getattr(owner, name)))


def mount(folder, megabytes):
    """Make `folder` a small file system of its own; why not, if this machine does not allow it."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return done.stderr if done.returncode else None


def fill(folder):
    """Fill the file system of `folder` to the last page; remove the file `filler` to make room."""
    with (folder / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
