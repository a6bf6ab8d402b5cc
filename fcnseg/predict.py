"""Masks of new photographs: `python -m fcnseg.predict run=runs/<name> images=photos out=masks`."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from fcnseg.cli.command import command
from fcnseg.cli.messages import console
from fcnseg.errors import RunFailedError, counted, warn
from fcnseg.machine.progress_bar import with_progress
from fcnseg.runs.folder import Run

if TYPE_CHECKING:
    from fcnseg.inference.masks import MaskFolder
    from fcnseg.inference.segmenter import Segmenter

FORMATS = ("masks", "voc")  # the values of the setting `format`
LOADED = ("tta", "tile", "overlap", "batch_size", "trust")  # the settings that `inference.load` takes
WRITTEN = ("overlay", "scores", "oriented")  # the settings of the written files and their orientation


@command("predict")
def predict(cfg: DictConfig) -> None:
    """Write the mask of every photograph that has none yet; name the files that are no photographs, or broken ones."""
    if cfg.format not in FORMATS:
        raise ValueError(f"format={cfg.format}: wanted one of {', '.join(FORMATS)}")
    run, out = Run(Path(str(cfg.run))), Path(str(cfg.out))
    config = run.config
    from fcnseg import inference  # imports torch: a refused command need not wait for it
    from fcnseg.data import decode
    from fcnseg.inference import submission
    from fcnseg.inference.masks import MaskFolder, key_of
    from fcnseg.inference.photographs import photographs

    given = photographs(str(cfg.images), without=out)
    for path in given.others:
        warn(f"{path} is skipped: photographs are {', '.join(decode.FORMATS)} files")
    segmenter = inference.load(run.path, **{key: cfg[key] for key in LOADED}).to(cfg.device)
    folder = out / submission.place(config, segmenter.classes, str(cfg.images)) if cfg.format == "voc" else out
    key, wanted = key_of(run, segmenter, oriented=cfg.oriented), {name: cfg[name] for name in WRITTEN}
    masks = MaskFolder(folder=folder, beside=out, key=key, **wanted)
    masks.check_places(given.files, overwrite=cfg.overwrite)
    todo = {name: path for name, path in given.files.items() if not masks.has(name, path)}
    broken, rate = _write(masks, segmenter, todo)
    there = len(given.files) - len(todo)
    before = f", {counted(there, 'of them was', 'of them were')} there already" if there else ""
    output = console()
    masks_are = counted(len(given.files) - broken, "mask is", "masks are")
    output.print(f"{masks_are} in {folder}{before}{rate}", soft_wrap=True)
    if cfg.table:
        output.print(f"the classes' shares are in {masks.write_shares(given.files, segmenter.classes)}", soft_wrap=True)
    if broken:
        raise RunFailedError(f"{broken} of {counted(len(given.files), 'photograph')} could not be read, the others are done")
    if cfg.format == "voc":
        path = submission.archive(out, folder, given.files)
        output.print(
            f"{path} is what VOC's server takes: {counted(len(given.files), 'indexed mask')}, one for each image of"
            f" {cfg.images}, each of its photograph's size with labels 0..{len(segmenter.classes) - 1}",
            soft_wrap=True,
        )


def _write(masks: "MaskFolder", segmenter: "Segmenter", photographs: Mapping[str, Path]) -> tuple[int, str]:
    """Write the masks of photographs; return the number of unreadable ones and a text on the speed."""
    began, broken = time.perf_counter(), 0
    for error in with_progress(masks.write(segmenter, photographs), "Predicting", len(photographs)):
        if error:
            warn(str(error))
            broken += 1
    speed = len(photographs) / (time.perf_counter() - began)
    return broken, f"; {speed:.1f} images/s" if photographs else ""


if __name__ == "__main__":
    predict()
