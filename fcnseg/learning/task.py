"""Training any network on any data: `SegmentationTask`."""

from collections.abc import Callable, Mapping

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import LRSchedulerConfigType, OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from fcnseg.data.batch import Batch
from fcnseg.data.dataset import Classes
from fcnseg.learning.image_metrics import DetailedMetrics
from fcnseg.learning.losses import check_logits
from fcnseg.learning.metrics import RunningMean, SegmentationMetrics


class SegmentationTask(LightningModule):
    """A network, its loss, its optimiser and its schedule: the steps that turn batches into gradients and scores.

    It logs once an epoch: `train/loss`; `val/loss`, `val/miou`, `val/pixel_acc`, ... (see `fcnseg.names`); the same names under
    `test/`. If the loss or a logit of the validation or the test was NaN or infinite, all its values are NaN.

    Args:
        net: The network: (N, 3, H, W) images to (N, num_classes, H, W) logits.
        loss: The loss: logits and mask to a scalar.
        optimizer: A function that makes the optimiser of the network's parameters.
        schedule: A function that makes the schedule from the optimiser, the epochs of the run and the steps of an epoch.
        classes: The classes of the masks.
        memory_format: The memory format that the weights and the images are converted to.

    Attributes:
        details: The scores of the test, with the details of every image.
        finite: For "val" and "test", a flag for each batch so far: whether its loss and all its logits were finite.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        loss: nn.Module,
        optimizer: Callable[[nn.Module], Optimizer],
        schedule: Callable[[Optimizer, int, int], LRSchedulerConfigType],
        classes: Classes,
        memory_format: torch.memory_format,
    ) -> None:
        super().__init__()
        self.net, self.memory_format = net.to(memory_format=memory_format), memory_format
        self.loss, self.optimizer, self.schedule, self.classes = loss, optimizer, schedule, classes
        means = nn.ModuleDict({f"{stage}/loss": RunningMean() for stage in ("train", "val", "test")})
        self.losses: Mapping[str, RunningMean] = means  # type: ignore[assignment]
        self.details = DetailedMetrics(classes)
        metrics = nn.ModuleDict({"val": SegmentationMetrics(classes), "test": self.details})
        self.metrics: Mapping[str, SegmentationMetrics] = metrics  # type: ignore[assignment]
        self.finite: dict[str, list[Tensor]] = {"val": [], "test": []}

    def forward(self, image: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) to logits (N, num_classes, H, W)."""
        return check_logits(self.net(image.contiguous(memory_format=self.memory_format)), image, len(self.classes))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        _, loss = self._step(batch, "train")
        return loss

    def _step(self, batch: Batch, stage: str) -> tuple[Tensor, Tensor]:
        """The logits (N, C, H, W) of a batch and their loss, which enters the mean of the stage."""
        logits = self(batch.image)
        loss = self.loss(logits, batch.mask)
        self.losses[f"{stage}/loss"].add(loss, len(batch.mask))
        return logits, loss

    def images_of(self, batch: Batch, batch_idx: int) -> int:
        """The number of images that a step trains on."""
        return len(batch.mask)

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The labels (N, H, W) predicted for a batch."""
        return self._score(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The labels (N, H, W) predicted for a batch."""
        return self._score(batch, "test")

    def _score(self, batch: Batch, stage: str) -> Tensor:
        logits, loss = self._step(batch, stage)
        lowest, highest = logits.aminmax()  # a quarter of the time of logits.isfinite() on the CPU
        self.finite[stage].append((loss + highest - lowest).isfinite())
        prediction = logits.max(dim=1).indices  # as argmax, in two thirds of its time on the CPU
        self.metrics[stage].add(logits, prediction, batch)
        return prediction

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean loss."""
        self._log({"train/loss": self.losses["train/loss"].pop()})

    def on_validation_start(self) -> None:
        """Start from nothing, even if the validation before was interrupted."""
        self._reset("val")

    def on_test_start(self) -> None:
        """Start from nothing, even if there was a test before."""
        self._reset("test")

    def _reset(self, stage: str) -> None:
        self.finite[stage].clear()
        self.losses[f"{stage}/loss"].pop()
        self.metrics[stage].reset()

    def on_validation_epoch_end(self) -> None:
        """Log the validation's loss and scores."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log the test's loss and scores."""
        self._log_scores("test")

    def _log_scores(self, stage: str) -> None:
        values = {"loss": self.losses[f"{stage}/loss"].pop(), **self.metrics[stage].compute()}
        if not self.was_finite(stage):  # the largest of NaN logits would still be some class
            values = {name: torch.full_like(value, torch.nan) for name, value in values.items()}
        self._log({f"{stage}/{name}": value for name, value in values.items()})

    def _log(self, values: Mapping[str, Tensor]) -> None:
        """Log float64 scalars. Lightning moves them to the device, where they are rounded: Apple's has no float64."""
        on_cpu = self.device.type == "cpu"
        self.log_dict({name: value if on_cpu else value.float() for name, value in values.items()})

    def was_finite(self, stage: str) -> bool:
        """Whether the loss and all logits of "val" or "test" have been finite since it began. It waits for the GPU."""
        return bool(torch.stack(self.finite[stage]).all())

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimiser and the schedule of the trainer's run."""
        epochs, optimizer = self.trainer.max_epochs or 1, self.optimizer(self.net)
        epoch_steps = int(self.trainer.estimated_stepping_batches) // epochs
        return {"optimizer": optimizer, "lr_scheduler": self.schedule(optimizer, epochs, epoch_steps)}
