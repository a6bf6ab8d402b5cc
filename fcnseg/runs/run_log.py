"""The run's own log, as a Lightning logger: a row per epoch in metrics.csv and in TensorBoard's event files.

Lightning's CSVLogger and TensorBoardLogger begin a new version of a log when a run is resumed, and keep the rows of
interrupted epochs that are repeated. Here every epoch has one row, in the folder of its run.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

from lightning.pytorch.loggers import Logger
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from fcnseg.data.pictures import Picture
from fcnseg.machine.distributed import rank
from fcnseg.machine.files import csv_text, write_text
from fcnseg.names import METRICS, SCORES
from fcnseg.runs.folder import Run
from fcnseg.texts import warn

FINAL = dict.fromkeys((f"test/{name}" for name in (*SCORES, "loss")), 0.0)  # HPARAMS shows these beside hyperparameters
CLASS_IOU = "iou/"  # the beginning of the names of the IoU of the classes, which only TensorBoard gets
NOT_DRAWN = ("epoch", "step", "seconds")  # columns of metrics.csv that TensorBoard does not get


class RunLog(Logger):
    """`metrics.csv` and TensorBoard's event files. Of several processes, only the first one writes them.

    Args:
        run: The run that is logged; the files go into its folder.

    Attributes:
        rows: A dictionary of values for each epoch, in order.
        pending: The values logged since the last row.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.rows: list[dict[str, float]] = []
        self._written = 0  # how many of the rows are in the files
        self.pending: dict[str, float] = {}
        self._writer: SummaryWriter | None = None

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run.path.name

    @property
    def version(self) -> str:
        """The sub-folder of the run's folder in which callbacks of Lightning's put their files."""
        return "lightning"

    @property
    def save_dir(self) -> str:
        """The folder of runs."""
        return str(self.run.path.parent)

    @property
    def images_per_second(self) -> float | None:
        """The images trained on in a second, as the median over the epochs; None before the first epoch."""
        return median(row["images_per_s"] for row in self.rows) if self.rows else None

    @property
    def writer(self) -> SummaryWriter:
        """TensorBoard's writer, opened at its first use; its old entries of repeated epochs are dropped."""
        if self._writer is None:
            _date_back(self.run.path, int(time.time()))
            self._writer = SummaryWriter(str(self.run.path), purge_step=self._written)
        return self._writer

    def state_dict(self) -> dict[str, Any]:
        """All rows, since the files may get lost; the number of them in the files; and the values of the next row."""
        return {"rows": list(self.rows), "written": self._written, "pending": dict(self.pending)}

    def begin(self, state: Mapping[str, Any] | None) -> None:
        """Take over the rows of an earlier session of the run; entries of repeated epochs are dropped from the files.

        Args:
            state: The result of `state_dict` when the run was saved; None for a run from the beginning.
        """
        state = state or {"rows": [], "written": 0, "pending": {}}
        self.rows, self._written, self.pending = list(state["rows"]), state["written"], dict(state["pending"])

    def log_hyperparams(self, params: Mapping[str, Any]) -> None:  # type: ignore[override]
        """Write the values by which TensorBoard's HPARAMS tab compares runs."""
        if rank():
            return
        for summary in hparams(dict(params), FINAL)[:2]:
            self.writer._get_file_writer().add_summary(summary)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep values for the next row; of several values of one name the last one counts."""
        self.pending.update(metrics)

    def end_epoch(self, epoch: int, step: int, picture: Picture | None) -> None:
        """Make a row of the values logged since the last one, and write all rows that are not in the files yet.

        Args:
            epoch: The epoch that is complete, from 0.
            step: The optimiser steps that the run has taken.
            picture: A panel of predictions for TensorBoard.
        """
        values, self.pending = self.pending, {}
        first = {"epoch": epoch, "step": step, "lr": values.pop("lr")}
        last = {name: values.pop(name) for name in ("images_per_s", "seconds")}
        values = {name: value for name, value in sorted(values.items()) if name not in first}
        self.rows.append({**first, **values, **last})
        try:
            self._write(picture)
        except OSError as error:  # a full disk: the rows are kept, and written after the next epoch
            warn(f"the logs of epoch {epoch + 1} could not be written: {error}")
            self._writer = None

    def _write(self, picture: Picture | None = None) -> None:
        if rank():
            return
        columns = dict.fromkeys(name for row in self.rows for name in row if not name.startswith(CLASS_IOU))
        table = csv_text([columns, *([row.get(name) for name in columns] for row in self.rows)])
        write_text(self.run.path / METRICS, table)
        for row in self.rows[self._written :]:  # a full disk may have kept rows of earlier epochs out
            for name, value in row.items():
                if name not in NOT_DRAWN:
                    self.writer.add_scalar(name, value, int(row["epoch"]))
        if picture is not None:
            self.writer.add_image("predictions", picture, len(self.rows) - 1, dataformats="HWC")
        self.writer.flush()
        self._written = len(self.rows)

    def finish(self) -> None:
        """Write the scores of the test, which Lightning has logged, and close the files."""
        if rank():
            return
        self._write()  # the disk was full after the last epoch, or the file was lost since
        for name in FINAL:
            self.writer.add_scalar(name, self.pending[name], len(self.rows))
        self.writer._get_file_writer().add_summary(hparams({}, FINAL)[2])
        self.writer.close()

    def finalize(self, status: str) -> None:
        """Close the files if training failed: in a sweep, other jobs follow in this process."""
        if self._writer and status == "failed":
            with suppress(OSError):
                self._writer.close()


def _date_back(folder: Path, now: int) -> None:
    """Date the event files of earlier sessions of a run before `now`, in seconds since 1970.

    TensorBoard reads them in the order of the dates in their names. If the clock was set back, the new file would come
    first, and would not replace the entries after it.
    """
    for age, path in enumerate(sorted(folder.glob("events.out.tfevents.[0-9]*.*"), reverse=True), start=1):
        *head, date, rest = path.name.split(".", 4)
        if date.isdecimal() and int(date) > now - age:
            path.rename(folder / ".".join([*head, f"{now - age:010}", rest]))
