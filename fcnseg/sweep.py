"""Sweeps: `-m` on the command line, one job after another here or many at once on GPUs, and the table at their end."""

import gc
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.console import Console
from rich.table import Column, Table

from fcnseg.files import read_json, write_json
from fcnseg.runs import Run
from fcnseg.signals import StopError


class Journal:
    """What became of every job of one launch: a small file a job, since jobs may run in processes of their own.

    Args:
        runs: The folder of runs, which every job's machine can reach.
    """

    def __init__(self, runs: Path) -> None:
        (runs / ".sweeps").mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(dir=runs / ".sweeps", prefix=time.strftime("%Y%m%d-%H%M%S-")))

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


def _table(jobs: list[dict[str, Any]]) -> Table:
    name = Column("run", overflow="fold")
    table = Table(name, "status", "mIoU", "seconds", "error", title=f"{len(jobs)} jobs", title_justify="left")
    for job in jobs:
        status = "killed" if job["status"] == "running" else job["status"]
        miou = "-" if job.get("miou") is None else f"{job['miou']:.4f}"
        table.add_row(job["run"], status, miou, f"{job.get('seconds', 0):.1f}", job.get("error", ""))
    return table


@contextmanager
def journalled(cfg: DictConfig, explain: Callable[[Exception], str]) -> Iterator[dict[str, Any]]:
    """Keep the entry of a job while it runs in the `with` block; in a sweep, its error is written down, not raised.

    What the block puts into the entry (`miou`) goes into the sweep's table, and so does the last line of what `explain`
    makes of an error.
    """
    hydra_cfg = HydraConfig.get()
    if hydra_cfg.mode != RunMode.MULTIRUN:
        yield {}
        return
    run = Run.of(cfg)
    done = "skipped" if run.is_finished(cfg) else "finished"
    entry: dict[str, Any] = {"run": run.path.name, "status": "running"}
    path, started = Path(hydra_cfg.sweep.dir) / f"{hydra_cfg.job.num}.json", time.perf_counter()
    write_json(path, entry)
    try:
        with isolated():
            yield entry
        entry["status"] = done
    except (KeyboardInterrupt, StopError):
        entry["status"] = "interrupted"
        raise
    except Exception as error:
        told = explain(error).strip() or type(error).__name__
        entry |= {"status": "failed", "error": told.splitlines()[-1]}
        print(f"fcnseg: {told}", file=sys.stderr)
    finally:
        write_json(path, {**entry, "seconds": round(time.perf_counter() - started, 1)})


def check_devices(cfg: DictConfig) -> None:
    """Refuse a job on several devices: every one of its processes would run the whole sweep again.

    Raises:
        ValueError: it asks for several.
    """
    devices = cfg.trainer.devices
    if devices not in (1, "1") and not (isinstance(devices, ListConfig) and len(devices) == 1):
        raise ValueError(
            f"trainer.devices={devices} in a sweep: wanted 1, since every process of a job on several devices would run"
            " the whole sweep again; several GPUs take a job each with hydra/launcher=gpus"
        )


@contextmanager
def isolated() -> Iterator[None]:
    """Leave nothing behind for the next job of this process: environment, determinism, GPU memory."""
    environment = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        if torch := sys.modules.get("torch"):
            torch.use_deterministic_algorithms(False)
            torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = False
            gc.collect()
            torch.cuda.empty_cache()


def prepare_ray() -> None:
    """Make the Ray launcher outlive killed jobs, and stop its jobs on Ctrl-C.

    As it is, a killed job ends the launcher, and with it all other jobs; Ctrl-C kills them before they can say so.
    """
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # a job's environment is this one
    import ray
    import torch
    from hydra_plugins.hydra_ray_launcher import _core

    OmegaConf.register_new_resolver("gpu_here", lambda: int(torch.cuda.is_available()), replace=True)
    launch, jobs = vars(_core)["launch_job_on_ray"], []

    def launch_and_remember(*args: Any) -> Any:
        jobs.append(launch(*args))
        return jobs[-1]

    def get(job: Any) -> JobReturn:
        try:
            return cast(JobReturn, ray.get(job))
        except ray.exceptions.RayError:  # the process died; its entry in the journal tells
            return JobReturn(status=JobStatus.COMPLETED)
        except KeyboardInterrupt:
            for other in jobs:
                ray.cancel(other)
            ray.wait(jobs, num_returns=len(jobs), timeout=60)
            raise

    # The one thing the launcher uses of `ray` is `get`.
    vars(_core).update(launch_job_on_ray=launch_and_remember, ray=SimpleNamespace(get=get))
