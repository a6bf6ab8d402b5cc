"""Every schedule, groups of parameters and the average of the weights resume exactly, and are extended."""

import signal
from functools import partial

import pytest
import torch
from injection import at, content, differences, kill, run, send

from fcnseg.callbacks.checkpoints import Checkpoints
from fcnseg.learning.task import SegmentationTask

RECIPES = {
    "poly": ["schedule=poly", "schedule.warmup=2", "optimizer=sgd", "optimizer.nesterov=true", "ema=0.9"],
    "onecycle": ["schedule=onecycle", "+trainer.gradient_clip_val=0.5"],
    "cosine": ["schedule=cosine", "schedule.warmup=0.7", "optimizer.decay_norms=false", "ema=0.99"],
    "constant": ["schedule=constant", "schedule.warmup=4", "ema=0.5"],
}
SIGTERM = send(signal.SIGTERM)
MOMENTS = {  # there are three steps in an epoch
    "in step 2": (partial(at, SegmentationTask, "training_step", 2, kill), -9),
    "in step 5": (partial(at, SegmentationTask, "training_step", 5, kill), -9),
    "stopped in the first validation": (partial(at, SegmentationTask, "validation_step", 1, SIGTERM), 143),
    "in the last validation": (partial(at, SegmentationTask, "validation_step", 2, kill), -9),
    "first epoch saved": (partial(at, Checkpoints, "after_epoch", 1, kill, after=True), -9),
}
OFTEN = ("in step 5", "in the last validation", "finished")  # the others are tried with -m slow


QUICK = [pytest.param(name, marks=pytest.mark.slow if name == "constant" else ()) for name in RECIPES]


def moments(*names):
    return [pytest.param(name, marks=() if name in OFTEN else pytest.mark.slow) for name in names]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, args):
    """`whole(recipe, *more)`: what a run that nothing has disturbed leaves."""
    found = {}

    def whole(recipe, *more):
        if (recipe, *more) not in found:
            folder = tmp_path_factory.mktemp("whole")
            outcome = run(folder, *args, *RECIPES[recipe], *more)
            assert outcome.code == 0, outcome.err
            found[recipe, *more] = content(folder / "runs" / "run")
        return found[recipe, *more]

    return whole


@pytest.mark.parametrize("moment", moments(*MOMENTS))
@pytest.mark.parametrize("recipe", QUICK)
def test_a_recipe_resumes_exactly(tmp_path, args, whole, recipe, moment):
    inject, code = MOMENTS[moment]
    assert run(tmp_path, *args, *RECIPES[recipe], inject=inject).code == code
    outcome = run(tmp_path, *args, *RECIPES[recipe])
    assert outcome.code == 0, outcome.err
    assert differences(content(tmp_path / "runs" / "run"), whole(recipe)) == []


@pytest.mark.parametrize("recipe", QUICK)
@pytest.mark.parametrize("moment", moments("finished", "in step 5", "stopped in the first validation"))
def test_an_extended_run_is_on_the_longer_run_s_schedule(tmp_path, args, whole, recipe, moment):
    inject, code = MOMENTS.get(moment, (None, 0))
    assert run(tmp_path, *args, *RECIPES[recipe], inject=inject).code == code
    outcome = run(tmp_path, *args, *RECIPES[recipe], "trainer.max_epochs=3")
    assert outcome.code == 0, outcome.err
    assert "trainer.max_epochs is now 3: from epoch" in outcome.err
    found, wanted = content(tmp_path / "runs" / "run"), whole(recipe, "trainer.max_epochs=3")
    groups = [part["last"]["optimizer_states"][0]["param_groups"] for part in (found, wanted)]
    assert differences(*groups) == []  # learning rates, and momenta
    assert differences(found["last"]["lr_schedulers"], wanted["last"]["lr_schedulers"]) == []
    if recipe == "constant":
        assert differences(found["best"], wanted["best"]) == []
        assert differences(found["rows"], wanted["rows"]) == []
    else:
        assert differences(found["rows"][2]["lr"], wanted["rows"][2]["lr"]) == []


def test_an_extension_has_the_longer_run_s_momentum_from_its_first_step_on(tmp_path, args):
    found = []
    for folder, shorter, step in (("extended", True, 1), ("whole", False, 7)):
        note = tmp_path / f"{folder}.txt"

        def write(optimizer, *_, note=note, **__):
            (group,) = optimizer.param_groups
            note.write_text(str(sorted((key, value) for key, value in group.items() if key != "params")))

        command = [*args, *RECIPES["onecycle"], f"runs={folder}"]
        assert not shorter or run(tmp_path, *command).code == 0
        inject = partial(at, torch.optim.AdamW, "step", step, write)
        assert run(tmp_path, *command, "trainer.max_epochs=3", inject=inject).code == 0
        found.append(note.read_text())
    assert found[0] == found[1] != ""


def test_a_run_of_another_average_is_another_run(tmp_path, args):
    assert run(tmp_path, *args).code == 0
    outcome = run(tmp_path, *args, "ema=0.9")
    assert (outcome.code, "ema: 0.9 now, None then" in outcome.err) == (2, True), outcome


def test_a_disturbed_average_would_be_told_apart(whole):
    """Without this, the comparisons above could pass by comparing nothing."""
    found = whole("poly")
    average = found["last"]["callbacks"]["EMA"]["average"]
    name = next(iter(average))
    disturbed = {**average, name: average[name] * 2}
    assert differences(average, disturbed) == [f"/{name}: {str(average[name])[:200]} is not {str(disturbed[name])[:200]}"]
