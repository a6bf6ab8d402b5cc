"""What happens after every epoch, and the first of it: a row in the run's logs."""

import csv
import io
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from fcnseg.callbacks.after_epoch import AfterEpoch
from fcnseg.data.batch import denormalize
from fcnseg.files import write_text
from fcnseg.metrics import SCORES
from fcnseg.pictures import panel

Row = dict[str, float]
SHOWN = 4  # images in the panel of predictions
FINAL = tuple(f"test/{name}" for name in (*SCORES, "loss"))


def _number(text: str) -> float:
    return int(text) if text.isdigit() else float(text)


def _date_back(folder: Path, now: int) -> None:
    """Date the event files of earlier parts of a run before `now`, in seconds.

    TensorBoard reads them in the order of the dates in their names: after a clock was set back, the new file would come
    first, and purge nothing.
    """
    for age, path in enumerate(sorted(folder.glob("events.out.tfevents.*"), reverse=True), start=1):
        *head, date, rest = path.name.split(".", 4)
        if int(date) > now - age:
            path.rename(folder / ".".join([*head, f"{now - age:010}", rest]))


class RunLog(AfterEpoch):
    """`metrics.csv` and TensorBoard's events: a row an epoch, hyperparameters, and a panel of predictions.

    A resumed run takes the rows of its earlier parts over, so that no epoch is there twice.

    Args:
        folder: The run's folder.
        hyperparameters: What TensorBoard's HPARAMS tab compares runs by.
    """

    def __init__(self, folder: Path, hyperparameters: Mapping[str, Any]) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"
        self.hyperparameters = dict(hyperparameters)
        self.rows: list[Row] = []
        self._writer: SummaryWriter | None = None
        self._logged = 0  # rows that TensorBoard has
        self._unlogged: list[Row] = []  # of an earlier part of the run
        self._images = 0
        self._lr = 0.0
        self._started = self._training = self._trained = 0.0
        self._samples: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def writer(self) -> SummaryWriter:
        """TensorBoard's; opened at its first use, and whatever an earlier part of the run logged too much is dropped."""
        if self._writer is None:
            _date_back(self.path.parent, int(time.time()))
            self._writer = SummaryWriter(str(self.path.parent), purge_step=self._logged)
        return self._writer

    @property
    def images_per_second(self) -> float | None:
        """Median over the epochs of the images trained on in a second, validation not counted."""
        return median(row["images_per_s"] for row in self.rows) if self.rows else None

    def state_dict(self) -> dict[str, Any]:
        """The epoch's learning rate, for a run resumed after its schedule has stepped, and rows not written yet."""
        return {"lr": self._lr, "unlogged": self.rows[self._logged :]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self._lr, self._unlogged = state_dict["lr"], state_dict["unlogged"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the rows of an earlier part of this run."""
        if stage == "fit" and self.path.exists():
            with self.path.open(newline="") as file:
                self.rows = [{key: _number(text) for key, text in row.items()} for row in csv.DictReader(file)]
            self._logged = len(self.rows)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the rows of epochs that come again."""
        super().on_train_start(trainer, pl_module)
        self.rows = [row for row in self.rows if row["epoch"] < trainer.current_epoch]
        self._logged = len(self.rows)
        self.rows += [row for row in self._unlogged if row["epoch"] >= self._logged]
        experiment, start, _ = hparams(self.hyperparameters, dict.fromkeys(FINAL, 0.0))
        for summary in (experiment, start):
            self.writer._get_file_writer().add_summary(summary)
        self._start_clock()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the epoch before, then start the clock of this one."""
        super().on_train_epoch_start(trainer, pl_module)
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]
        self._start_clock()

    def _start_clock(self) -> None:
        self._started, self._images = time.perf_counter(), 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """The epoch's training begins: what was saved since the epoch began is not part of it."""
        if not self._images:
            self._training = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: Any, batch_idx: int
    ) -> None:
        """Count images."""
        self._images += len(batch[1])

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The epoch's training is over."""
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        self._trained = time.perf_counter()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first images for the panel."""
        if batch_idx == 0:
            image, mask, _ = batch
            self._samples = (denormalize(image[:SHOWN]), mask[:SHOWN], outputs[:SHOWN])

    def after_epoch(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        """Add the epoch's row."""
        metrics = {name: value.item() for name, value in sorted(trainer.callback_metrics.items())}
        speed = self._images / (self._trained - self._training)
        seconds = time.perf_counter() - self._started
        times = {"images_per_s": round(speed, 2), "seconds": round(seconds, 3)}
        self.rows.append({"epoch": epoch, "step": trainer.global_step, "lr": self._lr, **metrics, **times})
        try:
            self._write(epoch)
        except OSError as error:  # a full disk: the rows are kept, and written with the next epoch's
            print(f"fcnseg: the logs of epoch {epoch + 1} could not be written: {error}", file=sys.stderr)
            self._writer = None

    def _write(self, epoch: int) -> None:
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, self.rows[-1].keys(), lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        write_text(self.path, text.getvalue())
        for row in self.rows[self._logged :]:
            for name, value in row.items():
                if name not in ("epoch", "step", "seconds"):
                    self.writer.add_scalar(name, value, int(row["epoch"]))
        if self._samples:
            self.writer.add_image("predictions", panel(*self._samples), epoch, dataformats="HWC")
        self.writer.flush()
        self._logged = len(self.rows)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the files: in a sweep, other jobs follow in this process."""
        if self._writer:
            with suppress(OSError):
                self._writer.close()

    def finish(self, metrics: Mapping[str, float | None]) -> None:
        """Log the final metrics, beside which HPARAMS shows the hyperparameters, and close the files."""
        if self._logged < len(self.rows):  # the disk was full after the last epoch
            self._write(len(self.rows) - 1)
        for name in FINAL:
            value = metrics[name]
            self.writer.add_scalar(name, float("nan") if value is None else value, len(self.rows))
        self.writer._get_file_writer().add_summary(hparams(self.hyperparameters, dict.fromkeys(FINAL, 0.0))[2])
        self.writer.close()
