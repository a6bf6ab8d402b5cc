"""What stops a run instead of letting it end with numbers that mean nothing."""

from collections.abc import Collection
from math import isfinite
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from fcnseg.data.module import VOCDataModule
from fcnseg.errors import DivergedError
from fcnseg.task import SegmentationTask

LOOKED_AT_EVERY = 50  # steps: on a GPU, looking waits for it


def _first_bad(values: Collection[Tensor]) -> int | None:
    """The position of the first of some () values that is not finite; None if all are. Waits for the GPU, once."""
    numbers = torch.stack(list(values)).tolist() if values else []
    return next((position for position, number in enumerate(numbers) if not isfinite(number)), None)


class FiniteLoss(Callback):
    """Stops the run when a loss is NaN or infinite, before anything of it is saved or shown as a result."""

    def __init__(self) -> None:
        self._unseen: dict[int, Tensor] = {}  # the losses of the steps since the last look
        self._validated: list[Tensor] = []  # the sum of the losses after each batch of this validation
        self._lr = 0.0

    def state_dict(self) -> dict[str, Any]:
        """The last step's learning rate, for a run resumed in the validation after it."""
        return {"lr": self._lr}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self._lr = state_dict["lr"]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Remember this step's learning rate: after an epoch's last, the schedule has changed it before anybody looks."""
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Keep this step's loss; look now and then, on the CPU every time."""
        assert isinstance(outputs, dict)
        loss: Tensor = outputs["loss"]
        self._unseen[trainer.global_step - 1] = loss
        if loss.device.type == "cpu" or trainer.global_step % LOOKED_AT_EVERY == 0:
            self.look(trainer)

    def look(self, trainer: Trainer) -> None:
        """Stop if a loss has not been finite.

        Raises:
            DivergedError: with the step, the learning rate, the batch's images and the remedies.
        """
        if (bad := _first_bad(self._unseen.values())) is None:
            self._unseen.clear()
            return
        step = list(self._unseen)[bad]
        raise DivergedError(
            f"the loss of step {step} (epoch {step // int(trainer.num_training_batches) + 1}) is NaN or infinite."
            f" {self._remedies(_data(trainer).trained_on(step))}"
        )

    def _remedies(self, images: list[str]) -> str:
        return (
            f"Learning rate: {self._lr:g}. The batch's images: {', '.join(images)}. Lower optimizer.lr, set"
            " trainer.precision=32-true, or look these images over with python -m fcnseg.check"
        )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look, at the latest at the epoch's end."""
        self._validated = []
        if not trainer.sanity_checking and trainer.optimizers:
            self.look(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the sum of the losses, to which NaN logits add NaN."""
        assert isinstance(pl_module, SegmentationTask)
        self._validated.append(pl_module.losses["val/loss"].total.clone())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop if the validation's loss or logits were not finite.

        Raises:
            DivergedError: as `look` does.
        """
        if (number := _first_bad(self._validated)) is None:
            return
        data = _data(trainer)
        loader = data.val_dataloader()
        images = data.names("val", loader.batches(loader.samples)[number])
        raise DivergedError(
            f"the validation's loss or logits after step {trainer.global_step} are NaN or infinite, though the training's"
            f" loss ({trainer.callback_metrics.get('train/loss', 'first epoch')}) was not. {self._remedies(images)}"
        )


def _data(trainer: Trainer) -> VOCDataModule:
    data: object = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, VOCDataModule)
    return data
