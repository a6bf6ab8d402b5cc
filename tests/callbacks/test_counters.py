"""The private counters that a save sets are those of the installed Lightning, and do what `callbacks.checkpoints` says."""

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from fcnseg.callbacks.checkpoints import before_next_epoch, before_validation


class Counting(LightningModule):
    """Three steps and two validation batches an epoch; writes down what it does."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.done = []

    def training_step(self, batch, batch_idx):
        self.done.append(f"step {self.current_epoch}.{batch_idx}")
        return self.layer(batch).sum()

    def validation_step(self, batch, batch_idx):
        self.done.append(f"validation {self.current_epoch}.{batch_idx}")

    def train_dataloader(self):
        return DataLoader(torch.ones(3, 1))

    def val_dataloader(self):
        return DataLoader(torch.ones(2, 1))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trained(folder, callback=None, checkpoint=None):
    module = Counting()
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[callback] if callback else [],
        default_root_dir=folder,
    )
    trainer.fit(module, ckpt_path=checkpoint)
    return module.done


class Saving(Callback):
    """Saves once, at a hook, as the wrapper wants it."""

    def __init__(self, hook, path, save):
        self.path, self.save, self.saved = path, save, False
        setattr(self, hook, self.act)

    def act(self, trainer, *_):
        if trainer.current_epoch == int(self.path.stem[-1]) and not self.saved:
            self.saved = True
            self.save(trainer, self.path)


WHOLE = [f"{kind} {epoch}.{i}" for epoch in (0, 1) for kind, n in (("step", 3), ("validation", 2)) for i in range(n)]


def plain(trainer, path):
    trainer.save_checkpoint(path)


def wrapped(trainer, path):
    with before_validation(trainer):
        trainer.save_checkpoint(path)


def between(trainer, path):
    with before_next_epoch(trainer):
        trainer.save_checkpoint(path)


def earlier(trainer, path):
    """As versions of this package before `before_next_epoch` saved."""
    trainer.fit_loop.epoch_loop.batch_progress.reset_on_run()
    trainer.save_checkpoint(path)


@pytest.mark.parametrize("hook", ["on_validation_start", "on_validation_batch_end"])
@pytest.mark.parametrize("epoch", [0, 1])
def test_a_save_before_a_validation_resumes_with_it(tmp_path, hook, epoch):
    path = tmp_path / f"epoch{epoch}.ckpt"
    assert trained(tmp_path, Saving(hook, path, wrapped)) == WHOLE
    assert trained(tmp_path, checkpoint=path) == WHOLE[WHOLE.index(f"validation {epoch}.0") :]


@pytest.mark.parametrize("save", [between, earlier])
def test_a_save_between_epochs_resumes_with_the_next(tmp_path, save):
    path = tmp_path / "epoch1.ckpt"
    assert trained(tmp_path, Saving("on_train_epoch_start", path, save)) == WHOLE
    assert trained(tmp_path, checkpoint=path) == WHOLE[WHOLE.index("step 1.0") :]


def test_without_them_lightning_would_not(tmp_path):
    """If this fails, Lightning has learnt it, and these functions can go."""
    for hook, epoch, wanted in (("on_validation_start", 0, "validation 0.0"), ("on_train_epoch_start", 1, "step 1.0")):
        path = tmp_path / f"epoch{epoch}.ckpt"
        trained(tmp_path, Saving(hook, path, plain))
        assert trained(tmp_path, checkpoint=path) != WHOLE[WHOLE.index(wanted) :], hook
        path.unlink()
