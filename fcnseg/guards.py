"""What stops a run instead of letting it end with numbers that mean nothing."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from fcnseg.data.module import VOCDataModule

LOOKED_AT_EVERY = 50  # steps: on a GPU, looking waits for it


class DivergedError(RuntimeError):
    """The loss or the logits are no longer numbers."""


class FiniteLoss(Callback):
    """Stops the run when a loss is NaN or infinite, before anything of it is saved or shown as a result."""

    def __init__(self) -> None:
        self._first: Tensor | None = None  # (): the first step whose loss was not finite, or -1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Remember on the device whether this step's loss was finite; look now and then, on the CPU every time."""
        assert isinstance(outputs, dict)
        loss: Tensor = outputs["loss"]
        step = torch.full_like(loss, trainer.global_step - 1, dtype=torch.long)
        if self._first is None:
            self._first = torch.full_like(step, -1)
        self._first = torch.where((self._first < 0) & ~loss.isfinite(), step, self._first)
        if loss.device.type == "cpu" or trainer.global_step % LOOKED_AT_EVERY == 0:
            self.look(trainer)

    def look(self, trainer: Trainer) -> None:
        """Stop if a loss has not been finite.

        Raises:
            DivergedError: with the step, the learning rate, the batch's images and the remedies.
        """
        if self._first is None or (step := int(self._first)) < 0:
            return
        data, lr = _data(trainer), trainer.optimizers[0].param_groups[0]["lr"]
        raise DivergedError(
            f"the loss of step {step} (epoch {step // int(trainer.num_training_batches) + 1}) is NaN or infinite."
            f" Learning rate: {lr:g}. The batch's images: {', '.join(data.trained_on(step))}. Lower optimizer.lr, set"
            " trainer.precision=32-true, or look these images over with python -m fcnseg.data"
        )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look, at the latest at the epoch's end."""
        if not trainer.sanity_checking and trainer.optimizers:
            self.look(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop if the validation's loss or logits were not finite."""
        loss = trainer.callback_metrics["val/loss"]
        if not loss.isfinite():
            raise DivergedError(
                f"the validation's loss or logits after step {trainer.global_step} are NaN or infinite, though the training's"
                f" loss ({trainer.callback_metrics.get('train/loss', 'first epoch')}) was not: lower optimizer.lr or set"
                " trainer.precision=32-true"
            )


def _data(trainer: Trainer) -> VOCDataModule:
    data: object = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, VOCDataModule)
    return data


@contextmanager
def limits_explained(batch_size: int, size: int, precision: str) -> Iterator[None]:
    """Say which settings to change if a batch in the `with` block takes too much memory, or is too small.

    Raises:
        MemoryError: there is too little memory.
        ValueError: batch norm is left with one value a channel.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            f"data.batch_size={batch_size} at data.size={size} leaves batch norm one value a channel: raise either"
        ) from error
    except (torch.OutOfMemoryError, RuntimeError, MemoryError, OSError) as error:
        cpu = "can't allocate memory" in str(error) or isinstance(error, MemoryError)
        if not (cpu or isinstance(error, torch.OutOfMemoryError) or getattr(error, "errno", None) == errno.ENOMEM):
            raise
        raise MemoryError(
            f"out of memory with data.batch_size={batch_size}, data.size={size}, trainer.precision={precision}: lower"
            f" data.batch_size, then data.size, or set trainer.precision=bf16-mixed ({str(error).splitlines()[0]})"
        ) from error
