"""The only place that touches Lightning's private loop counters, which decide what a resumed run does next.

`tests/callbacks/test_counters.py` checks these functions with the installed version of Lightning.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning import Trainer


def begin_next_epoch(trainer: Trainer) -> None:
    """Reset the counter of batches, as Lightning does next: otherwise, a run resumed from a save would skip the epoch."""
    trainer.fit_loop.epoch_loop.batch_progress.reset_on_run()


@contextmanager
def before_validation(trainer: Trainer) -> Iterator[None]:
    """Set the counters, in the `with` block, so that a run resumed from a save there begins with the whole validation.

    With the counters of a running validation, Lightning would skip the validation.
    """
    progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
    before = progress.state_dict()
    progress.current.reset()
    progress.total.reset()
    progress.total.load_state_dict({**progress.total.state_dict(), "ready": 1, "started": 1})
    yield
    progress.load_state_dict(before)
