"""Training any network on any data: `SegmentationTask`."""

from collections.abc import Callable, Iterable, Mapping

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fcnseg.data.batch import Batch
from fcnseg.metrics import RunningMean, SegmentationMetrics


class SegmentationTask(LightningModule):
    """A network, its loss, its optimiser and its schedule: the steps that turn batches into gradients and scores.

    Logs, once an epoch: `train/loss`; `val/loss` and `val/miou`, `val/pixel_acc`, ... (see `metrics.scores`); the same
    under `test/`.

    Args:
        net: (N, 3, H, W) images to (N, num_classes, H, W) logits.
        loss: Of logits and mask.
        optimizer: Makes the optimiser from the parameters to train.
        schedule: Makes the schedule from the optimiser; stepped once an epoch.
        num_classes: Classes of the masks.
        memory_format: Of the network's weights and images.
    """

    losses: Mapping[str, RunningMean]
    metrics: Mapping[str, SegmentationMetrics]

    def __init__(
        self,
        net: nn.Module,
        *,
        loss: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        schedule: Callable[[Optimizer], LRScheduler],
        num_classes: int,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        super().__init__()
        self.net = net.to(memory_format=memory_format)
        self.loss = loss
        self.optimizer, self.schedule, self.memory_format = optimizer, schedule, memory_format
        self.losses = nn.ModuleDict({f"{stage}/loss": RunningMean() for stage in ("train", "val", "test")})  # type: ignore[assignment]
        self.metrics = nn.ModuleDict({stage: SegmentationMetrics(num_classes) for stage in ("val", "test")})  # type: ignore[assignment]

    def forward(self, image: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) to logits (N, num_classes, H, W)."""
        logits: Tensor = self.net(image.contiguous(memory_format=self.memory_format))
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        return self._step(batch, "train")[0]

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The labels (N, H, W) predicted for a batch."""
        return self._score(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The labels (N, H, W) predicted for a batch."""
        return self._score(batch, "test")

    def _step(self, batch: Batch, stage: str) -> tuple[Tensor, Tensor]:
        image, mask, _ = batch
        logits = self(image)
        loss: Tensor = self.loss(logits, mask)
        self.losses[f"{stage}/loss"].add(loss, len(mask))
        return loss, logits

    def _score(self, batch: Batch, stage: str) -> Tensor:
        _, logits = self._step(batch, stage)
        lowest, highest = logits.aminmax()
        self.losses[f"{stage}/loss"].add(highest - lowest, 0)  # 0, or NaN if a logit is NaN or infinite
        prediction = logits.max(dim=1).indices  # as argmax, in two thirds of its time on the CPU
        self.metrics[stage].update(prediction, batch[1])
        return prediction

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean loss."""
        self.log("train/loss", self.losses["train/loss"].pop())

    def on_validation_start(self) -> None:
        """Forget a validation that was interrupted."""
        self._forget("val")

    def on_test_start(self) -> None:
        """Forget an earlier test."""
        self._forget("test")

    def _forget(self, stage: str) -> None:
        self.losses[f"{stage}/loss"].pop()
        self.metrics[stage].reset()

    def on_validation_epoch_end(self) -> None:
        """Log the validation's loss and scores."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log the test's loss and scores."""
        self._log_scores("test")

    def _log_scores(self, stage: str) -> None:
        loss = self.losses[f"{stage}/loss"].pop()
        self.log(f"{stage}/loss", loss)
        # No score looks like one if the loss is no number: the largest of NaN logits would still be some class.
        self.log_dict({f"{stage}/{name}": score + 0 * loss for name, score in self.metrics[stage].compute().items()})

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser of the parameters that are not frozen, and its schedule, an epoch at a time."""
        optimizer = self.optimizer(parameter for parameter in self.net.parameters() if parameter.requires_grad)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.schedule(optimizer), "interval": "epoch"}}
