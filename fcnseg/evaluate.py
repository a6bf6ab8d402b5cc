"""Test a finished run again, from its folder: `python -m fcnseg.evaluate run=runs/<name>`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from fcnseg.cli.command import command
from fcnseg.cli.messages import console, tell
from fcnseg.errors import check_choice
from fcnseg.machine.signals import stop_requests
from fcnseg.results.per_image import PerImage
from fcnseg.results.summary import show
from fcnseg.runs.folder import Run
from fcnseg.texts import warn

if TYPE_CHECKING:
    from lightning import Trainer

    from fcnseg.data.module import DataModule
    from fcnseg.learning.task import SegmentationTask

SCORED_AT = ("training", "original")


@command("evaluate")
def evaluate(cfg: DictConfig) -> float | None:
    """Rebuild the run, test its best weights, and print what training printed at its end; return the test mIoU.

    Other images than those of the run's own test, or their own sizes, give a file in the run's `evaluations`.
    """
    check_settings(cfg)
    run = Run(Path(str(cfg.run)))
    data, task, trainer = reopened(cfg, run)
    from fcnseg.results.scoring import measure, per_image

    with stop_requests():
        measured = measure(trainer, task, data)
    findings = per_image(task, data)
    miou = show(measured, run.path, console())
    keep(measured, findings, cfg=cfg, run=run, data=data)
    return miou


def check_settings(cfg: DictConfig) -> None:
    """Refuse an unknown size to score at, or an image set that cannot be one, before PyTorch is imported.

    Raises:
        ValueError: `at` is not in `SCORED_AT`, or `set` is a path.
    """
    check_choice("at", cfg.at, SCORED_AT)
    if cfg.set is not None and "/" in str(cfg.set):
        raise ValueError(f"set={cfg.set}: wanted the name of an image set, such as val")


def reopened(cfg: DictConfig, run: Run) -> "tuple[DataModule, SegmentationTask, Trainer]":
    """The data, the task and the trainer for the test of a run that `cfg` asks for.

    Raises:
        ValueError: There is no such run, or its network cannot be rebuilt, or its data cannot be opened.
    """
    stored, result = run.config, run.result or {}
    from fcnseg.runs import reopen

    if cfg.verify:  # scores of other weights would be taken for those of the result
        reopen.check_best(run)
    floor_class = result.get("floor_class")
    data = reopen.data(stored, root=cfg.data.root, only=cfg.set, floor_class=floor_class, trust=cfg.trust)
    if cfg.set is None and (change := changed(run, data)):
        warn(f"{run.path}: {change}: these scores and those of its training are not comparable")
    task = reopen.task(run.path, data, tta=cfg.tta, at_original=cfg.at == "original", trust=cfg.trust)
    return data, task, reopen.trainer(stored, kept_precision=result.get("precision"))


def changed(run: Run, data: "DataModule") -> str | None:
    """A sentence that the data differ from the run's training data; None if they are the same."""
    return data.changed_since((run.result or run.status or {}).get("data_fingerprint", data.fingerprint))


def keep(measured: Mapping[str, Any], findings: PerImage | None, *, cfg: DictConfig, run: Run, data: "DataModule") -> None:
    """Write the test's measurements into the run's folder; for the run's own test, only its findings in every image.

    Args:
        measured: The value of `scoring.measure`.
        findings: The value of `scoring.per_image`.
        cfg: The config of the command.
        run: The run that was tested.
        data: The data that it was tested on.

    Raises:
        ValueError: The folder cannot be written.
    """
    own_test = cfg.set is None and cfg.at == "training" and cfg.tta == "none"
    try:
        if not own_test or changed(run, data):
            tta = [] if cfg.tta == "none" else [cfg.tta]
            parts = [data.root.resolve().name, measured["split"], measured["size"], *tta, data.fingerprint[-12:]]
            name = "-".join(map(str, parts))
            path = run.add_evaluation(name, {**measured, "tta": cfg.tta, "root": str(data.root)}, findings)
            tell(f"these scores are in {path}")
        elif run.result:  # images.npz belongs to it
            run.add_per_image(findings)
    except ValueError as error:
        if not own_test:
            raise
        warn(str(error))  # the scores are shown, which is enough for a folder that cannot be written


if __name__ == "__main__":
    evaluate()
