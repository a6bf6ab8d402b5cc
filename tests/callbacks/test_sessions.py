"""The sessions of a run, as checkpoints and result.json list them."""

from types import SimpleNamespace

import pytest

from fcnseg.callbacks.sessions import Sessions
from fcnseg.results import provenance


@pytest.mark.parametrize("key", ["sessions", "parts"])  # earlier versions called them parts
def test_a_resumed_run_lists_its_earlier_sessions(key, monkeypatch):
    monkeypatch.setattr(provenance, "surroundings", lambda trainer: {"threads": 1})
    first = {"epochs": [1, 2], "threads": 2}
    sessions = Sessions({"commit": "0123abc", "dirty": False})
    sessions.on_load_checkpoint(None, None, {key: [first], "global_step": 8})
    stored = {}
    sessions.on_save_checkpoint(SimpleNamespace(global_step=12, num_training_batches=4), None, stored)
    assert stored == {"sessions": [first, {"epochs": [3, 3], "threads": 1, "commit": "0123abc", "dirty": False}]}


def test_a_package_that_is_updated_meanwhile_is_not_the_sessions(monkeypatch):
    sessions = Sessions({"commit": "0123abc", "dirty": False})
    for threads in (1, 2):
        monkeypatch.setattr(provenance, "surroundings", lambda trainer, threads=threads: {"threads": threads})
        assert sessions.here(None)["threads"] == 1
