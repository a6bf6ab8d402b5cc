"""Test a finished run again, from its folder: `python -m fcnseg.evaluate run=runs/<name>`."""

from pathlib import Path

from omegaconf import DictConfig

from fcnseg.cli.command import command
from fcnseg.cli.messages import console
from fcnseg.errors import warn
from fcnseg.machine.signals import stop_requests
from fcnseg.runs.folder import Run
from fcnseg.runs.summary import show

SIZES = ("training", "original")


@command("evaluate")
def evaluate(cfg: DictConfig) -> float | None:
    """Rebuild the run, test its best weights, and print what training printed at its end; return the test mIoU.

    Another image set, or the images' own sizes, give a file in the run's `evaluations`.
    """
    if cfg.at not in SIZES:
        raise ValueError(f"at={cfg.at}: wanted one of {', '.join(SIZES)}")
    run = Run(Path(str(cfg.run)))
    stored = run.config
    from fcnseg.models.tta import averaged
    from fcnseg.runs import provenance, reopen, result  # import torch, which a refused command need not wait for

    if cfg.verify:
        provenance.check_checkpoint(run)
    data = reopen.data(stored, root=cfg.data.root, only=cfg.set, trust=cfg.trust)
    then = (run.result or run.status or {}).get("data_fingerprint", data.fingerprint)
    if cfg.set is None and (changed := data.changed_since(then)):
        warn(f"{run.path}: {changed}: these scores and those of its training are not comparable")
    task = reopen.task(run.path, data, trust=cfg.trust)
    task.net = averaged(task.net, cfg.tta)
    trainer = reopen.trainer(stored, kept_precision=(run.result or {}).get("precision"))
    if (floor := (run.result or {}).get("floor_class")) in data.classes.names:  # the most frequent class is train's
        data.floor_class = data.classes.names.index(floor)
    if cfg.at == "original":
        task.original_masks = data.original_masks
    with stop_requests():
        measured = result.measure(trainer, task, data)
    images = result.per_image(task, data)
    miou = show(measured, run.path, console())
    if cfg.set is not None or cfg.at == "original" or cfg.tta != "none":
        how = [data.root.resolve().name, data.only or "test", measured["size"], *[cfg.tta] * (cfg.tta != "none")]
        name = "-".join(map(str, [*how, data.fingerprint[-12:]]))
        path = run.add_evaluation(name, {**measured, "tta": cfg.tta, "root": str(data.root)}, images)
        console().print(f"these scores are in {path}", highlight=False, soft_wrap=True)
    elif run.result and not changed:
        try:
            run.add_images(images)
        except ValueError as error:  # the scores are shown; a folder that is only read needs nothing more
            warn(str(error))
    return miou


if __name__ == "__main__":
    evaluate()
