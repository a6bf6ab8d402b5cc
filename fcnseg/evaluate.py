"""Test a finished run again, from its folder: `python -m fcnseg.evaluate run=runs/<name>`."""

from pathlib import Path

from omegaconf import DictConfig

from fcnseg.cli.command import command
from fcnseg.cli.messages import console
from fcnseg.errors import warn


@command("evaluate")
def evaluate(cfg: DictConfig) -> float | None:
    """Rebuild the run, test its best weights, and print what training printed at its end; return the test mIoU."""
    from fcnseg import build  # imports torch, which a refused command need not wait for
    from fcnseg.runs import provenance, rebuild, result
    from fcnseg.runs.folder import Run
    from fcnseg.signals import stop_requests

    path = Path(cfg.run)
    if cfg.verify:
        provenance.check_checkpoint(Run(path))
    run_cfg, task = rebuild.load(path)
    if cfg.data.root is not None:
        run_cfg.data.root = cfg.data.root
    data = build.data(run_cfg)
    data.prepare_data()
    then = ((run := Run(path)).result or run.status or {}).get("data_fingerprint", data.fingerprint)
    if changed := data.changed_since(then):
        warn(f"{path}: {changed}: these scores and those of its training are not comparable")
    with stop_requests():
        measured = result.measure(build.trainer_here(run_cfg, (Run(path).result or {}).get("precision")), task, data)
    return result.show(measured, path, console())


if __name__ == "__main__":
    evaluate()
