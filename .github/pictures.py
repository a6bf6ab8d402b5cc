"""Make the README's pictures anew: `python .github/pictures.py runs/<name> report/index.html`, with Chromium installed."""

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

import fcnseg
from fcnseg.data.pictures import colour, photograph
from fcnseg.runs.folder import Run
from fcnseg.runs.reopen import data

HERE = Path(__file__).parent
SHOWN, SIDE, GAP = 8, 128, 6  # images in the row; pixels of each, and between two
SCREEN = (1280, 860)  # of the report's first screen


def predictions(run: Path) -> Image.Image:
    """Rows of test photographs, their truths, and the predictions of the network of a run."""
    batch = next(iter(data(Run(run).config).test_dataloader()))
    segmenter = fcnseg.load(run)
    labels = segmenter.logits(batch.image).argmax(1)
    coloured = partial(colour, classes=segmenter.classes)
    shown = ((photograph, batch.image), (coloured, batch.mask), (coloured, labels))
    rows = [[show(image) for image in images[:SHOWN]] for show, images in shown]
    width, height = SHOWN * (SIDE + GAP) - GAP, len(rows) * (SIDE + GAP) - GAP
    picture = Image.new("RGB", (width, height), "white")
    for row, tiles in enumerate(rows):
        for column, tile in enumerate(tiles):
            smooth = Image.Resampling.BICUBIC if row == 0 else Image.Resampling.NEAREST
            picture.paste(
                Image.fromarray(np.asarray(tile)).resize((SIDE, SIDE), smooth),
                (column * (SIDE + GAP), row * (SIDE + GAP)),
            )
    return picture


def screenshot(page: str) -> Image.Image:
    """The first screen of a page in headless Chromium."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.png"
        size = f"--window-size={SCREEN[0]},{SCREEN[1]}"
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", size, f"--screenshot={path}"]
        subprocess.run(["chromium", *options, Path(page).resolve().as_uri()], check=True, capture_output=True)
        return Image.open(path).convert("RGB")


if __name__ == "__main__":
    for name, picture in (("predictions", predictions(Path(sys.argv[1]))), ("report", screenshot(sys.argv[2]))):
        picture.quantize(256).save(HERE / f"{name}.png", optimize=True)
