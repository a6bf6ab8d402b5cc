"""The callback that logs what the task does not: hyperparameters, times, learning rate and pictures."""

import time
from collections.abc import Mapping
from itertools import chain
from math import isnan
from operator import itemgetter
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from fcnseg.callbacks.after_epoch import AfterEpoch
from fcnseg.data.batch import Batch, denormalize
from fcnseg.data.dataset import Classes
from fcnseg.data.pictures import Picture, panel
from fcnseg.learning.metrics import iou_per_class
from fcnseg.machine.distributed import gathered, rank, world
from fcnseg.runs.run_log import CLASS_IOU, RunLog

SHOWN = 4  # the number of images in the panel of predictions


class EpochLog(AfterEpoch):
    """Logs the hyperparameters once, and `lr`, `images_per_s` and `seconds` for every epoch, to all loggers of the trainer.

    `lr` is the learning rate at the start of an epoch; `lr/backbone` is the backbone's, if it has its own.

    Args:
        run_log: The run's own log, which also gets a panel of predictions.
        hyperparameters: The settings by which runs are compared, such as the learning rate.

    Attributes:
        images: The number of images that this epoch has trained on so far.
        began: The time at which this epoch's training began, by `time.perf_counter`.
    """

    def __init__(self, run_log: RunLog, hyperparameters: Mapping[str, Any]) -> None:
        super().__init__()
        self.run_log, self.hyperparameters = run_log, dict(hyperparameters)
        self.images = 0
        self.began = self._epoch_began = self._trained = 0.0
        self._rates: dict[str, float] = {}  # the learning rates that this epoch began with
        self._restored: dict[str, Any] | None = None  # the state of the run log in an earlier session of the run
        self._places: list[tuple[int, int]] = []  # the batch of every image in the panel, and its place in it
        self._samples: list[tuple[int, tuple[Tensor, Tensor, Tensor, list[str]]]] = []  # these images, by batch

    def state_dict(self) -> dict[str, Any]:
        """Save the epoch's learning rates, for a run resumed after its schedule has stepped."""
        return dict(self._rates)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` saved."""
        self._rates = dict(state_dict)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the run log's state beside the callbacks' states, which are the same for a run without interruption."""
        checkpoint["run_log"] = self.run_log.state_dict()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore the state of the run log."""
        self._restored = checkpoint["run_log"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the log of an earlier session of the run, also if no epoch is left to train."""
        self.run_log.begin(self._restored)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the hyperparameters."""
        super().on_train_start(trainer, pl_module)
        for logger in trainer.loggers:
            logger.log_hyperparams(self.hyperparameters)
        self._start_clock()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the previous epoch, then start the clock of this one."""
        super().on_train_epoch_start(trainer, pl_module)
        groups = trainer.optimizers[0].param_groups
        self._rates = {"lr": groups[0]["lr"]}
        if "backbone" in (last := groups[-1]).get("name", ""):
            self._rates["lr/backbone"] = last["lr"]
        self._start_clock()

    def _start_clock(self) -> None:
        self._epoch_began, self.images = time.perf_counter(), 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Start the clock of training, which excludes saving the previous epoch."""
        if not self.images:
            self.began = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: object, batch: Batch, batch_idx: int) -> None:
        """Count the images of the whole batch."""
        self.images += pl_module.images_of(batch, batch_idx)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock of training."""
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        self._trained = time.perf_counter()
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        shown = data.shown("val", SHOWN) if data else []  # the benchmark's trainer has only loaders
        self._places = [divmod(at, data.batch_size) for at in shown]
        self._samples = []

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: object
    ) -> None:
        """Keep the images of the panel."""
        batch_idx = batch_idx * world() + rank()
        if at := [place for number, place in self._places if number == batch_idx]:
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            image, mask, sample = (part[at] for part in batch)
            self._samples.append((batch_idx, (denormalize(image), mask, outputs[at], data.names("val", sample))))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Collect the images of the panel from all processes."""
        # Not earlier: a copy from a GPU waits for all of its work.
        on_cpu = [(at, (image.cpu(), mask.cpu(), labels.cpu(), names)) for at, (image, mask, labels, names) in self._samples]
        self._samples = sorted(chain(*gathered(on_cpu)), key=itemgetter(0))

    def after_epoch(self, trainer: Trainer, pl_module: Any, epoch: int) -> None:
        """Log the epoch's learning rates and times, and end its row in the run's own log."""
        speed, seconds = self.images / (self._trained - self.began), time.perf_counter() - self._epoch_began
        values = {**self._rates, "images_per_s": round(speed, 2), "seconds": round(seconds, 3)}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step - 1)  # the step under which Lightning logs the scores
        self.run_log.log_metrics(_iou_of_classes(pl_module))
        self.run_log.end_epoch(epoch, trainer.global_step, self._panel(pl_module.classes))

    def _panel(self, classes: Classes) -> Picture | None:
        """The panel of the validation's images, by their names; None if the trainer leaves these images out."""
        if not self._samples:
            return None
        images, truths, predictions, names = zip(*(shown for _, shown in self._samples), strict=True)
        # (N, 3, H, W), and twice (N, H, W)
        return panel(torch.cat(images), torch.cat(truths), torch.cat(predictions), classes, [*chain(*names)])


def _iou_of_classes(task: Any) -> dict[str, float]:
    """The IoU of every class in the validation's truth or predictions; empty if a value in these was not finite."""
    metric = task.metrics["val"]
    if not metric.matrices or not task.was_finite("val"):
        return {}
    values = iou_per_class(metric.all_matrices()[:, :-1].sum(0)).tolist()
    return {f"{CLASS_IOU}{name}": iou for name, iou in zip(task.classes.names, values, strict=True) if not isnan(iou)}
