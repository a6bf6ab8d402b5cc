"""The journal of a sweep, which records the outcome of each job."""

import shutil
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from rich.console import Console
from rich.table import Column, Table

from fcnseg.machine.files import read_json, write_json

DONE = ("finished", "skipped")


class Journal:
    """A small file for each job of a sweep, since jobs may run in processes of their own.

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
            write_json(path, {**new_record(overrides), "status": "failed", "error": last_line(str(error) or repr(error))})
        return JobReturn(status=JobStatus.COMPLETED)

    def close(self, console: Console) -> bool:
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
            console.print(_table(jobs))
        return all(job["status"] in DONE for job in jobs)


def new_record(overrides: Iterable[str]) -> dict[str, Any]:
    """The record of a job that has just begun. The overrides stand in for the run's name, which is set later."""
    return {"run": ",".join(overrides), "status": "running"}


def last_line(text: str) -> str:
    """The last line of an error's text, which has the reason."""
    return text.strip().splitlines()[-1]


def _table(jobs: list[dict[str, Any]]) -> Table:
    name = Column("run", overflow="fold")
    table = Table(name, "status", "mIoU", "seconds", "error", title=f"{len(jobs)} jobs", title_justify="left")
    for job in jobs:
        status = "killed" if job["status"] == "running" else job["status"]
        miou = "-" if job.get("miou") is None else f"{job['miou']:.4f}"
        table.add_row(job["run"], status, miou, f"{job.get('seconds', 0):.1f}", job.get("error", ""))
    return table
