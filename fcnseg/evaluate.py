"""Test a finished run again, from its folder: `python -m fcnseg.evaluate run=runs/<name>`."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from fcnseg.cli.command import command
from fcnseg.cli.messages import console
from fcnseg.errors import warn

TRAINER = ("accelerator", "devices", "precision", "deterministic", "benchmark", "inference_mode")


@command("evaluate")
def evaluate(cfg: DictConfig) -> float | None:
    """Rebuild the run, test its best weights, and print what training printed at its end; return the test mIoU."""
    from fcnseg import build  # imports torch, which a refused command need not wait for
    from fcnseg.runs import provenance, rebuild, result
    from fcnseg.runs.folder import Run
    from fcnseg.signals import stop_requests

    run = Run(Path(cfg.run))
    stored = run.config
    if cfg.verify:
        provenance.check_checkpoint(run)
    data = rebuild.data(stored, root=cfg.data.root, trust=cfg.trust)
    then = (run.result or run.status or {}).get("data_fingerprint", data.fingerprint)
    if changed := data.changed_since(then):
        warn(f"{run.path}: {changed}: these scores and those of its training are not comparable")
    task = rebuild.task(run.path, data.class_pixels, trust=cfg.trust)
    kept = (run.result or {}).get("precision")
    with stop_requests():
        measured = result.measure(build.trainer_here(_trainer(stored), kept), task, data)
    return result.show(measured, run.path, console())


def _trainer(stored: DictConfig) -> DictConfig:
    """The values of the run's trainer that matter in a test, and nothing else that its folder may name."""
    own = {key: stored.trainer[key] for key in TRAINER if key in stored.trainer}
    return OmegaConf.create({"trainer": {"_target_": "lightning.Trainer", **own}})


if __name__ == "__main__":
    evaluate()
