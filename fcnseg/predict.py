"""Masks of new photographs: `python -m fcnseg.predict run=runs/<name> images=photos out=masks`."""

import time
from pathlib import Path

from omegaconf import DictConfig

from fcnseg.cli.command import command
from fcnseg.cli.messages import console
from fcnseg.data.progress import with_progress
from fcnseg.errors import RunFailedError, warn
from fcnseg.runs.folder import Run

KINDS = ("masks", "voc")  # of output
LOADED = ("tta", "tile", "overlap", "batch_size", "trust")  # settings that `inference.load` takes


@command("predict")
def predict(cfg: DictConfig) -> None:
    """Write the mask of every photograph that has none yet; name the files that are no photographs, or broken ones."""
    if cfg.format not in KINDS:
        raise ValueError(f"format={cfg.format}: wanted one of {', '.join(KINDS)}")
    run, out = Run(Path(str(cfg.run))), Path(str(cfg.out))
    config = run.config
    from fcnseg import inference  # imports torch, which a refused command need not wait for
    from fcnseg.data import decode
    from fcnseg.inference import submission
    from fcnseg.inference.masks import Masks, key_of
    from fcnseg.inference.photographs import photographs

    found = photographs(str(cfg.images), without=out)
    for path in found.others:
        warn(f"{path} is skipped: photographs are {', '.join(decode.FORMATS)} files")
    segmenter = inference.load(run.path, **{key: cfg[key] for key in LOADED}).to(cfg.device)
    folder = out / submission.place(config, segmenter.classes, str(cfg.images)) if cfg.format == "voc" else out
    key = key_of(run, segmenter, oriented=cfg.oriented)
    masks = Masks(folder, out, key, cfg.overlay, cfg.scores, cfg.oriented)
    masks.check_places(found.files, overwrite=cfg.overwrite)
    todo = {name: path for name, path in found.files.items() if not masks.has(name, path)}
    began, broken = time.perf_counter(), []
    for error in with_progress(masks.write(segmenter, todo), "Predicting", len(todo)):
        if error:
            warn(str(error))
            broken.append(error)
    speed, there = len(todo) / (time.perf_counter() - began), len(found.files) - len(todo)
    before, rate = f", {there} of them were there already" * bool(there), f"; {speed:.1f} images/s" * bool(todo)
    output = console()
    output.print(f"{len(found.files) - len(broken)} masks are in {folder}{before}{rate}", soft_wrap=True)
    if cfg.table:
        output.print(f"the classes' shares are in {masks.write_shares(found.files, segmenter.classes)}", soft_wrap=True)
    if broken:
        raise RunFailedError(f"{len(broken)} of {len(found.files)} photographs could not be read, the others are done")
    if cfg.format == "voc":
        path = submission.archive(out, folder, found.files)
        output.print(
            f"{path} is what VOC's server takes: {len(found.files)} indexed masks, one for each image of {cfg.images}, each of"
            f" its photograph's size with labels 0..{len(segmenter.classes) - 1}",
            soft_wrap=True,
        )


if __name__ == "__main__":
    predict()
