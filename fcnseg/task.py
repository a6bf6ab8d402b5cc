"""Training any network on any data: `SegmentationTask`."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import LRSchedulerConfigType, OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from fcnseg.data.batch import Batch
from fcnseg.data.dataset import Classes
from fcnseg.details import DetailedMetrics
from fcnseg.distributed import in_turn, same_buffers, total, world
from fcnseg.losses import TINY, size_of
from fcnseg.metrics import RunningMean, SegmentationMetrics
from fcnseg.models import enlarge


class SegmentationTask(LightningModule):
    """A network, its loss, its optimiser and its schedule: the steps that turn batches into gradients and scores.

    It logs once an epoch: `train/loss`; `val/loss`, `val/miou`, `val/pixel_acc`, ... (see `metrics.SCORES`); the same under
    `test/`. If the loss or a logit of the validation or the test was NaN or infinite, all its values are NaN.

    Args:
        net: The network: (N, 3, H, W) images to (N, num_classes, H, W) logits.
        loss: The loss: logits and mask to a scalar.
        optimizer: A function that makes the optimiser of the network's parameters.
        schedule: A function that makes the schedule from the optimiser, the epochs of the run and the steps of an epoch.
        classes: The classes of the masks.
        memory_format: The memory format that the weights and the images are converted to.
        accumulate: The number of parts in which a batch goes through the network, to save memory.

    Attributes:
        original_masks: Gives, for the samples of a test batch, their masks (1, H, W) at the images' own sizes; the test then
            scores there. None: at the size of the batch.
        finite: For "val" and "test", a flag for each batch so far: whether its loss and all its logits were finite.
    """

    losses: Mapping[str, RunningMean]
    metrics: Mapping[str, SegmentationMetrics]

    def __init__(
        self,
        net: nn.Module,
        *,
        loss: nn.Module,
        optimizer: Callable[[nn.Module], Optimizer],
        schedule: Callable[[Optimizer, int, int], LRSchedulerConfigType],
        classes: Classes,
        memory_format: torch.memory_format = torch.contiguous_format,
        accumulate: int = 1,
    ) -> None:
        super().__init__()
        self.net = net.to(memory_format=memory_format)
        self.loss, self.classes = loss, classes
        self.optimizer, self.schedule, self.memory_format = optimizer, schedule, memory_format
        self.accumulate = accumulate
        self.losses = nn.ModuleDict({f"{stage}/loss": RunningMean() for stage in ("train", "val", "test")})  # type: ignore[assignment]
        self.metrics = nn.ModuleDict({"val": SegmentationMetrics(classes), "test": DetailedMetrics(classes)})  # type: ignore[assignment]
        self.finite: dict[str, list[Tensor]] = {"val": [], "test": []}
        self.original_masks: Callable[[Tensor], Iterable[Tensor]] | None = None

    @property
    def details(self) -> DetailedMetrics:
        """The scores of the test, with what it found in every image."""
        return cast(DetailedMetrics, self.metrics["test"])

    def forward(self, image: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) to logits (N, num_classes, H, W)."""
        logits: Tensor = self.net(image.contiguous(memory_format=self.memory_format))
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        if world() == self.accumulate == 1:
            return self._step(batch, "train")[0]
        loader: Any = self.trainer.train_dataloader
        return self._step_in_parts(batch, loader.sizes[batch_idx] if world() > 1 else len(batch.mask))

    def _step_in_parts(self, batch: Batch, images: int) -> Tensor:
        """The loss of a whole batch of so many images, of which this process has a part, and its gradient by that part.

        Lightning's own accumulation would count steps in parts, and weight the parts of a shorter last batch too much.
        """
        self.optimizers(use_pl_optimizer=False).zero_grad()  # type: ignore[union-attr]  # see `optimizer_zero_grad`
        size = total(size_of(self.loss, batch.mask)).clamp_min(TINY)
        own, parts = torch.zeros((), device=size.device), [*zip(*map(self._parts, batch[:2]), strict=True)]
        for number, (image, mask) in enumerate(parts, start=1):
            loss: Tensor = self.loss(self(image), mask) * (size_of(self.loss, mask) / size)
            own += loss.detach()
            mean = loss * world()  # DDP divides the sum of all gradients by the number of processes
            if number < len(parts):  # Lightning has the last part backward, in which DDP sends the sum of all parts
                with torch.autocast(self.device.type, enabled=False):
                    self.trainer.strategy.backward(mean, None)
        whole = total(own)
        self.losses["train/loss"].add(whole, images)
        return mean + (whole - mean).detach()

    def _parts(self, batch: Tensor) -> list[Tensor]:
        return [part for part in batch.tensor_split(self.accumulate) if len(part)]

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Lightning calls it after the step, in which the gradients of all parts but the last have been computed."""
        if world() == self.accumulate == 1:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The labels (N, H, W) predicted for a batch."""
        return self._score(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The labels (N, H, W) predicted for a batch."""
        return self._score(batch, "test")

    def _step(self, batch: Batch, stage: str) -> tuple[Tensor, Tensor]:
        image, mask, _ = batch
        logits = self(image) if self.accumulate == 1 else torch.cat([self(part) for part in self._parts(image)])
        loss: Tensor = self.loss(logits, mask)
        self.losses[f"{stage}/loss"].add(loss, len(mask))
        return loss, logits

    def _score(self, batch: Batch, stage: str) -> Tensor:
        loss, logits = self._step(batch, stage)
        lowest, highest = logits.aminmax()  # a quarter of the time of logits.isfinite() on the CPU
        self.finite[stage].append((loss + highest - lowest).isfinite())
        prediction = logits.max(dim=1).indices  # as argmax, in two thirds of its time on the CPU
        if stage == "test":
            self.details.add_certainty(logits, batch[1])
        if stage == "test" and self.original_masks:
            for one, mask in zip(logits.cpu(), self.original_masks(batch.sample), strict=True):
                self.metrics[stage].update(enlarge.labels(one, *mask.shape[-2:])[None], mask)
        else:
            self.metrics[stage].update(prediction, batch[1])
        return prediction

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean loss."""
        self._log({"train/loss": self.losses["train/loss"].pop()})

    def on_validation_start(self) -> None:
        """Start from nothing, even if the validation before was interrupted."""
        same_buffers(self.net)
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

    def _gather(self, stage: str) -> None:
        """Put what all processes have found in the order in which one would have found it."""
        metric, mean = self.metrics[stage], self.losses[f"{stage}/loss"]
        states = [getattr(metric, name) for name in metric._defaults]
        lists: list[list[Any]] = [*states, self.finite[stage], mean.values, mean.counts]
        on_cpu = [[each.cpu() if isinstance(each, Tensor) else each for each in one] for one in lists]
        loader: Any = getattr(self.trainer, f"{stage}_dataloaders")
        found = in_turn(zip(*on_cpu, strict=True))[: len(loader.sizes)]  # some batches are there twice
        for one, together in zip(lists, zip(*found, strict=True), strict=True):
            one[:] = together

    def _log_scores(self, stage: str) -> None:
        if world() > 1:
            self._gather(stage)
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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the classes into a checkpoint: what the channels of the logits mean."""
        checkpoint["classes"] = self.classes.plain()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimiser and the schedule of the trainer's run."""
        epochs = self.trainer.max_epochs or 1
        return self.planned(epochs, int(self.trainer.estimated_stepping_batches) // epochs)

    def planned(self, epochs: int, epoch_steps: int) -> OptimizerLRSchedulerConfig:
        """The optimiser and the schedule of a run of so many epochs of so many steps."""
        optimizer = self.optimizer(self.net)
        return {"optimizer": optimizer, "lr_scheduler": self.schedule(optimizer, epochs, epoch_steps)}
