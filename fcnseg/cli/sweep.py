"""Sweeps: `-m` on the command line; their jobs, wherever they run, and the table of what became of them."""

import gc
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from fcnseg.errors import StopError
from fcnseg.files import read_json, write_json
from fcnseg.runs.folder import Run


class Journal:
    """What became of every job of one launch: a small file a job, since jobs may run in processes of their own.

    Args:
        runs: The folder of runs, which every job's machine can reach.

    Raises:
        ValueError: it cannot be written.
    """

    def __init__(self, runs: Path) -> None:
        try:
            (runs / ".sweeps").mkdir(parents=True, exist_ok=True)
            self.folder = Path(tempfile.mkdtemp(dir=runs / ".sweeps", prefix=time.strftime("%Y%m%d-%H%M%S-")))
        except OSError as error:
            raise ValueError(f"cannot write to {runs}: {error.strerror}; choose another folder with runs=") from error

    def lost(self, number: int, overrides: Iterable[str], error: Exception) -> JobReturn:
        """Job `number`'s process is gone; if it had no entry yet, it gets one here. Returns what the launcher waits for."""
        path = self.folder / f"{number}.json"
        if not path.exists():
            told = str(error).strip() or type(error).__name__
            write_json(path, {**_begun(overrides), "status": "failed", "error": told.splitlines()[-1]})
        return JobReturn(status=JobStatus.COMPLETED)

    def close(self, console: Console) -> bool:
        """Print the table of the sweep and remove the files; whether every job has finished."""
        paths = sorted(self.folder.glob("*.json"), key=lambda path: int(path.stem))
        jobs = [entry for path in paths if (entry := read_json(path))]
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in (self.folder.parent, self.folder.parent.parent):  # a refused command leaves nothing behind
            with suppress(OSError):
                folder.rmdir()
        if jobs:
            console.print(_table(jobs))
        return all(job["status"] in ("finished", "skipped") for job in jobs)


def _begun(overrides: Iterable[str]) -> dict[str, Any]:
    """A job's entry while nothing is known of it but what was asked for."""
    return {"run": ",".join(overrides), "status": "running"}


def _table(jobs: list[dict[str, Any]]) -> Table:
    name = Column("run", overflow="fold")
    table = Table(name, "status", "mIoU", "seconds", "error", title=f"{len(jobs)} jobs", title_justify="left")
    for job in jobs:
        status = "killed" if job["status"] == "running" else job["status"]
        miou = "-" if job.get("miou") is None else f"{job['miou']:.4f}"
        table.add_row(escape(job["run"]), status, miou, f"{job.get('seconds', 0):.1f}", escape(job.get("error", "")))
    return table


def journalled(
    cfg: DictConfig, check: Callable[[], None], job: Callable[[DictConfig], object], explain: Callable[[Exception], str]
) -> object:
    """Run a job of a sweep where the sweep was started, and keep its entry; its error is written down, not raised.

    Args:
        cfg: The job's.
        check: What it has to pass first.
        job: Returns the mIoU.
        explain: Makes text of an error; its last line goes into the sweep's table.
    """
    hydra_cfg = HydraConfig.get()
    entry, started = _begun(hydra_cfg.overrides.task), time.perf_counter()
    path = Path(hydra_cfg.sweep.dir) / f"{hydra_cfg.job.num}.json"
    write_json(path, entry)
    try:
        with isolated(), chdir(hydra_cfg.runtime.cwd):
            check()
            run = Run.of(cfg)
            entry["run"], done = run.path.name, "skipped" if run.is_finished(cfg) else "finished"
            write_json(path, entry)
            entry |= {"miou": job(cfg), "status": done}
    except (KeyboardInterrupt, StopError):
        entry["status"] = "interrupted"
        raise
    except Exception as error:
        told = explain(error).strip() or type(error).__name__
        entry |= {"status": "failed", "error": told.splitlines()[-1]}
        print(f"fcnseg: {told}", file=sys.stderr)
    finally:
        gc.collect()  # here: until its handling has ended, an error holds on to the network and the images of its job
        if torch := sys.modules.get("torch"):
            torch.cuda.empty_cache()
        write_json(path, {**entry, "seconds": round(time.perf_counter() - started, 1)})
    return entry.get("miou")


@contextmanager
def isolated() -> Iterator[None]:
    """Leave nothing behind for the next job of this process: environment and determinism."""
    environment = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        if torch := sys.modules.get("torch"):
            torch.use_deterministic_algorithms(False)
            torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = False
