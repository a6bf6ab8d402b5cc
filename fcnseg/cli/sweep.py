"""A sweep: with `-m`, one command runs a job for each combination of the values that it lists, and tells how each ended."""

import gc
import os
import shutil
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig
from rich.table import Column, Table

from fcnseg.cli.arguments import Arguments, quoted
from fcnseg.cli.configs import TRAIN, default_values
from fcnseg.cli.launchers import prepare_launcher
from fcnseg.cli.messages import EXIT_FAILED, console, explanation, leave
from fcnseg.cli.values import check_and_name
from fcnseg.errors import StopError
from fcnseg.machine.files import read_json, write_json
from fcnseg.names import FAILED, FINISHED, INTERRUPTED, KILLED, RUNNING
from fcnseg.results.summary import as_text
from fcnseg.runs.folder import Run
from fcnseg.texts import warn

DONE = (FINISHED, "skipped")


class Journal:
    """The record of a sweep: a small file for each job, since jobs may run in processes of their own.

    Args:
        runs: The folder of runs, to which the machine of every job can write.

    Raises:
        ValueError: The folder cannot be written.
    """

    def __init__(self, runs: Path) -> None:
        try:
            (runs / ".sweeps").mkdir(parents=True, exist_ok=True)
            self.folder = Path(tempfile.mkdtemp(dir=runs / ".sweeps", prefix=time.strftime("%Y%m%d-%H%M%S-")))
        except OSError as error:
            raise ValueError(f"cannot write to {runs}: {error.strerror}; choose another folder with runs=") from error

    def add_lost(self, number: int, overrides: Iterable[str], error: Exception) -> JobReturn:
        """Record that a job failed: its process ended before the job itself could write anything.

        Args:
            number: The job's number in the sweep, which names its file.
            overrides: The overrides that the job was started with.
            error: The launcher's error, which says how the process ended.

        Returns:
            An empty result, since the launcher expects a result from every job.
        """
        path = self.folder / f"{number}.json"
        if not path.exists():
            write_json(path, {**new_record(overrides), "status": FAILED, "error": last_line(str(error) or repr(error))})
        return JobReturn(status=JobStatus.COMPLETED)

    def close(self) -> bool:
        """Print the table of the sweep and remove the files.

        Returns:
            Whether every job has finished.
        """
        paths = sorted(self.folder.glob("*.json"), key=lambda path: int(path.stem))
        jobs = [record for path in paths if (record := read_json(path))]
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in (self.folder.parent, self.folder.parent.parent):  # a refused command leaves nothing behind
            with suppress(OSError):
                folder.rmdir()
        if jobs:
            console().print(_table(jobs))
        return all(job["status"] in DONE for job in jobs)


def new_record(overrides: Iterable[str]) -> dict[str, Any]:
    """The record of a job that has just begun. The overrides stand in for the run's name, which is set later."""
    return {"run": ",".join(overrides), "status": RUNNING}


def last_line(text: str) -> str:
    """The last line of an error's text, which has the reason."""
    return text.strip().splitlines()[-1]


def _table(jobs: list[dict[str, Any]]) -> Table:
    name = Column("run", overflow="fold")
    table = Table(name, "status", "mIoU", "seconds", "error", title=f"{len(jobs)} jobs", title_justify="left")
    for job in jobs:
        status = KILLED if job["status"] == RUNNING else job["status"]
        table.add_row(job["run"], status, as_text(job.get("miou")), f"{job.get('seconds', 0):.1f}", job.get("error", ""))
    return table


def sweep(arguments: Arguments, launch: Callable[[Namespace], object]) -> None:
    """Run the jobs of a sweep and print the table of their outcomes; exit with 1 unless all have finished.

    Args:
        arguments: The command line, which names the folder of runs, the launcher and the values of the sweep.
        launch: The function that starts Hydra with the given flags.
    """
    runs = arguments.values.get("runs", "runs")
    journal = Journal(Path(runs if isinstance(runs, str) else "runs"))  # a sweep over it, such as runs=a,b, is not text
    overrides = [*arguments.flags.overrides, f"hydra.sweep.dir={quoted(str(journal.folder.absolute()))}"]
    try:
        prepare_launcher(str(arguments.values.get("hydra/launcher")), journal.add_lost)
        launch(Namespace(**{**vars(arguments.flags), "multirun": True, "overrides": overrides}))
    finally:
        finished = journal.close()
    if not finished:
        leave("not every job has finished; the same command repeats those that have not", EXIT_FAILED)


def run_job(cfg: DictConfig, job: Callable[[DictConfig], object]) -> object:
    """Run one job of a sweep and write its result, or its error, into the journal. Only a request to stop is raised again.

    Args:
        cfg: The config that the job is run with.
        job: The function that does the work and returns the mIoU.
    """
    hydra_cfg = HydraConfig.get()
    record, started = new_record(hydra_cfg.overrides.task), time.perf_counter()
    path = Path(hydra_cfg.sweep.dir) / f"{hydra_cfg.job.num}.json"
    write_json(path, record)
    try:
        with isolated(), chdir(hydra_cfg.runtime.cwd):  # Hydra has changed to the sweep's folder
            check_and_name(cfg, TRAIN)
            run = Run.of(cfg, default_values)
            record["run"], done = run.path.name, "skipped" if run.is_finished(cfg) else FINISHED
            write_json(path, record)
            record |= {"miou": job(cfg), "status": done}
    except (KeyboardInterrupt, StopError):
        record["status"] = INTERRUPTED
        raise
    except Exception as error:
        message = explanation(error)
        record |= {"status": FAILED, "error": last_line(message)}
        warn(message)
    finally:
        # First of all: on Ctrl-C, a launcher may kill this process a second later.
        write_json(path, {**record, "seconds": round(time.perf_counter() - started, 1)})
        gc.collect()  # here: while it is handled, an error keeps the network and the images of its job in memory
        if torch := sys.modules.get("torch"):
            torch.cuda.empty_cache()
    return record.get("miou")


@contextmanager
def isolated() -> Iterator[None]:
    """Undo the `with` block's changes to the environment, PyTorch's determinism and wandb, for this process's next job."""
    from unittest.mock import patch  # late: it takes a tenth of the time in which a wrong command is refused

    try:
        with patch.dict(os.environ):
            yield
    finally:
        if torch := sys.modules.get("torch"):
            torch.use_deterministic_algorithms(False)
            torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = False
        if wandb := sys.modules.get("wandb"):
            wandb.finish()  # otherwise the next job would log into this one's run
