"""Write a trained network as a file for other programs: `python -m fcnseg.export run=runs/<name> format=onnx`."""

from functools import partial
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig

from fcnseg.cli.command import command
from fcnseg.cli.messages import EXIT_FAILED, leave, tell
from fcnseg.data.settings import sides
from fcnseg.errors import check_choice
from fcnseg.machine.files import replacing, write_json
from fcnseg.runs.folder import Run

ENDINGS = {"onnx": ".onnx", "torch": ".pt2", "weights": ".pth"}  # the suffix of each format's files
NEEDED = ("onnx", "onnxscript", "onnxruntime")  # the packages that the format onnx needs


@command("export")
def export(cfg: DictConfig) -> None:
    """Write the run's network with its best weights, compare the file with PyTorch, and keep it only if both agree."""
    run = Run(Path(str(cfg.run)))
    out, beside = check_settings(cfg, run)
    size = sides(run.config.data.size)
    from fcnseg.export import formats, parity
    from fcnseg.runs import stored_network

    trained = stored_network.load(run.path, trust=cfg.trust)
    images, source = parity.photographs(run, root=cfg.data.root, trust=cfg.trust)
    graph, written = formats.Graph(trained.net, raw=cfg.raw), formats.FORMATS[cfg.format]
    metadata = formats.metadata(run, trained, name=cfg.format, raw=cfg.raw)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as file:  # an error in this block removes the file
            written.write(graph, metadata, file)
            file.flush()  # so that it can be opened
            rows = parity.compare(graph, partial(written.open, Path(file.name), graph), images, size)
            parity.show(rows, source, raw=cfg.raw)
            parity.check(rows, graph)
    except parity.DifferentError as error:
        leave(f"{out} was not kept: {error}", EXIT_FAILED)
    write_json(beside, {**metadata, "parity": [row._asdict() for row in rows]})
    tell(f"the network is in {out}, and what it takes and gives in {beside}")


def check_settings(cfg: DictConfig, run: Run) -> tuple[Path, Path]:
    """The file of the network and the one that describes it, if nothing is in their place and the settings fit together.

    Raises:
        ValueError: The format does not exist or is not installed, a setting has no effect on it, or a file would be lost.
    """
    check_choice("format", cfg.format, ENDINGS)
    if cfg.format == "onnx" and (names := missing()):
        raise ValueError(f'format=onnx needs {names}, which is not installed: pip install ".[export]"')
    if cfg.format == "weights" and cfg.raw:
        raise ValueError("raw=true changes the graph, which format=weights does not have: leave it out")
    out = Path(str(cfg.out or f"{run.path.resolve().name}{ENDINGS[cfg.format]}"))
    beside = out.with_name(f"{out.name}.json")
    if out.is_dir():
        raise ValueError(f"out={out} is a folder, wanted the file for the network: out={out / f'net{ENDINGS[cfg.format]}'}")
    if not cfg.overwrite and (taken := [path for path in (out, beside) if path.exists()]):
        raise ValueError(f"{taken[0]} is there already: choose another file with out=, or give overwrite=true")
    return out, beside


def missing() -> str:
    """The packages that the format onnx needs and that are not installed."""
    return ", ".join(name for name in NEEDED if not find_spec(name))


if __name__ == "__main__":
    export()
