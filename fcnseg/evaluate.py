"""Test a finished run again, from its folder: `python -m fcnseg.evaluate run=runs/<name>`."""

from pathlib import Path

from omegaconf import DictConfig

from fcnseg.door import console, door


@door("evaluate")
def evaluate(cfg: DictConfig) -> float | None:
    """Rebuild the run, test its best weights, and print what training's own end printed; return its test mIoU."""
    from fcnseg import build, results, runs
    from fcnseg.signals import stop_requests

    path = Path(cfg.run)
    if cfg.verify:
        results.verify(runs.Run(path))
    run_cfg, task = runs.load(path)
    if cfg.data.root is not None:
        run_cfg.data.root = cfg.data.root
    data = build.data(run_cfg)
    data.prepare_data()
    with stop_requests():
        measured = results.measure(build.trainer(run_cfg), task, data)
    results.show(measured, path, console())
    miou: float | None = measured["metrics"]["test/miou"]
    return miou


if __name__ == "__main__":
    evaluate()
