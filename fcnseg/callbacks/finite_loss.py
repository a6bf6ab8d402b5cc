"""The callback that stops a run whose loss is NaN or infinite, before any of its values is saved or shown as a result."""

from math import isfinite
from typing import Any, cast

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from fcnseg.errors import DivergedError

CHECKED_EVERY = 50  # the steps between two checks on a GPU, where reading a loss waits for all work of the GPU


class FiniteLoss(Callback):
    """Stops the run with a `DivergedError` that names the step, the learning rate and the images of the batch."""

    def __init__(self) -> None:
        self._unchecked: dict[int, Tensor] = {}  # the losses of the steps since the last check
        self._lr = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Save the last step's learning rate, for a run that is resumed in the validation after it."""
        return {"lr": self._lr}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` saved."""
        self._lr = state_dict["lr"]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Remember this step's learning rate: after the last step of an epoch the schedule changes it before the check."""
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: object) -> None:
        """Keep this step's loss; check it at once on the CPU, and every 50 steps on a GPU."""
        loss: Tensor = outputs["loss"]
        self._unchecked[trainer.global_step - 1] = loss
        if loss.device.type == "cpu" or trainer.global_step % CHECKED_EVERY == 0:
            self.check(trainer)

    def check(self, trainer: Trainer) -> None:
        """Stop the run if a loss since the last check was not finite.

        Raises:
            DivergedError: One was not finite; the message has the step, the learning rate, the batch's images and the remedies.
        """
        losses = torch.stack(list(self._unchecked.values())).tolist() if self._unchecked else []
        for step, loss in zip(self._unchecked, losses, strict=True):
            if not isfinite(loss):
                epoch, data = step // int(trainer.num_training_batches) + 1, cast(Any, trainer).datamodule
                remedies = self._remedies(data.trained_on(step))
                raise DivergedError(f"the loss of step {step} (epoch {epoch}) is NaN or infinite. {remedies}")
        self._unchecked.clear()

    def _remedies(self, images: list[str]) -> str:
        return (
            f"Learning rate: {self._lr:g}. Images of the batch: {', '.join(images)}. Lower optimizer.lr, set"
            " trainer.precision=32-true, or look for broken images with python -m fcnseg.check"
        )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the last losses of the epoch before they are averaged."""
        if trainer.optimizers:  # in training, but not in a validation by itself
            self.check(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Stop the run if the loss or the logits of a validation batch were not finite.

        Raises:
            DivergedError: One was not finite; the message has the step, the learning rate, the batch's images and the remedies.
        """
        finite = torch.stack(pl_module.finite["val"]).tolist()
        if all(finite):
            return
        data = cast(Any, trainer).datamodule
        loader = data.val_dataloader()
        images = data.names("val", loader.batches(loader.samples)[finite.index(False)])
        raise DivergedError(
            f"the validation's loss or logits after step {trainer.global_step} are NaN or infinite, though the training's"
            f" loss ({trainer.callback_metrics.get('train/loss', 'first epoch')}) was not. {self._remedies(images)}"
        )
