"""The masks of photographs as files in a folder, each of which names the run and settings that predicted it."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from fcnseg.data.dataset import Classes
from fcnseg.inference.prediction import NOTE, Prediction
from fcnseg.inference.segmenter import Segmenter, map_ahead
from fcnseg.machine.files import csv_text, replacing, sha256, write_text
from fcnseg.machine.limits import cores
from fcnseg.names import BEST
from fcnseg.runs.folder import Run


class MaskFolder(NamedTuple):
    """A folder that masks are written into.

    Attributes:
        folder: The folder that the masks are in.
        beside: The folder for the other files: `overlays`, `scores` and `shares.csv`.
        key: A hash of all that masks depend on besides their photographs: see `key_of`.
        overlay: Whether there are also pictures of the masks over the photographs.
        scores: Whether there are also pictures of the scores.
        oriented: Whether all are upright; otherwise their pixels are ordered as in the photographs' files.
    """

    folder: Path
    beside: Path
    key: str
    overlay: bool
    scores: bool
    oriented: bool

    def mask(self, name: str) -> Path:
        """The file of a mask."""
        return self.folder / f"{name}.png"

    def check_places(self, files: Mapping[str, Path], *, overwrite: bool) -> None:
        """Refuse to write the masks of `files`, photographs by the names of their masks, over a photograph or one another.

        Without `overwrite`, other files and masks of other settings are not replaced, either.

        Raises:
            ValueError: Something would be lost.
        """
        # Resolved, since a link may lead from `out` to the photographs.
        places = {self.mask(name).resolve() for name in files}
        if same := places & {path.resolve() for path in files.values()}:
            raise ValueError(f"the mask would replace the photograph {min(same)}: choose another out=")
        if same := places & {path.resolve() for name in files for path in self._more(name).values()}:
            raise ValueError(f"{min(same)} would be a mask and a picture of scores, too: rename this folder of photographs")
        # A mask of other settings is also foreign: nobody could see that a folder's masks come from two networks.
        foreign = [path for path in map(self.mask, files) if path.exists() and not _note(path).startswith(self.key)]
        if foreign and not overwrite:
            raise ValueError(
                f"{len(foreign)} files in {self.folder} have the names of masks, and were not written by this command with"
                f" these settings, such as {foreign[0]}: choose another out=, or replace them with overwrite=true"
            )

    def has(self, name: str, photograph: Path) -> bool:
        """Whether a mask and the files beside it exist, and its photograph is unchanged."""
        # A note may name more than is wanted now: extra files of an earlier command do no harm.
        are_there = all(path.exists() for path in (photograph, *self._more(name).values()))
        return are_there and {*self._note_of(photograph).split()} <= {*_note(self.mask(name)).split()}

    def write(self, segmenter: Segmenter, photographs: Mapping[str, Path]) -> Iterator[ValueError | None]:
        """Predict and write the masks of photographs, given by the names of the masks, in threads while the network works.

        Yields:
            For each photograph None, or the error that says why it cannot be read.

        Raises:
            ValueError: The place of the masks cannot be written.
        """
        try:
            with ThreadPoolExecutor(cores()) as pool:
                # No more masks are written ahead than the network sees at once: memory is bounded if the disk is slower.
                found = segmenter.stream(photographs.values(), scores=self.scores)
                yield from map_ahead(pool, self._keep, zip(photographs.items(), found, strict=True), segmenter.batch_size)
        except OSError as error:  # of a thread that wrote: those of reading are among the results
            raise ValueError(f"cannot write into {self.folder}: {error.strerror}; make room or choose another out=") from error

    def _keep(self, predicted: tuple[tuple[str, Path], Prediction | ValueError]) -> ValueError | None:
        """Write the files beside a mask, then the mask: if the mask exists, all its files exist."""
        (name, photograph), prediction = predicted
        if isinstance(prediction, ValueError):
            return prediction
        for kind, path in self._more(name).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                if kind == "overlays":
                    Image.fromarray(prediction.overlay()).save(file, "JPEG", quality=90)
                else:
                    sure = (prediction.scores * 65535).round().astype(np.uint16)
                    prediction.picture(sure, oriented=self.oriented).save(file, "PNG")
        self.mask(name).parent.mkdir(parents=True, exist_ok=True)
        prediction.save(self.mask(name), oriented=self.oriented, note=self._note_of(photograph))
        return None

    def write_shares(self, names: Mapping[str, object], classes: Classes) -> Path:
        """Write a table of the share of pixels that each class has in every existing mask."""
        rows: list[list[str]] = [["image", *classes.names]]
        for name in names:
            if (path := self.mask(name)).exists():
                with Image.open(path) as mask:
                    pixels = np.bincount(np.asarray(mask).ravel(), minlength=len(classes))
                rows.append([name, *(f"{share:.6f}" for share in pixels / pixels.sum())])
        write_text(path := self.beside / "shares.csv", csv_text(rows))
        return path

    def _more(self, name: str) -> dict[str, Path]:
        """The files beside a mask, by the names of their folders."""
        kinds = (("overlays", "jpg", self.overlay), ("scores", "png", self.scores))
        return {kind: self.beside / kind / f"{name}.{suffix}" for kind, suffix, wanted in kinds if wanted}

    def _note_of(self, photograph: Path) -> str:
        """The text that identifies a mask: its settings, its photograph's size and time, the files beside it."""
        stat = photograph.stat()
        return " ".join([self.key, str(stat.st_size), str(stat.st_mtime_ns), *self._more("")])


def key_of(run: Run, segmenter: Segmenter, *, oriented: bool) -> str:
    """A hash of all that masks depend on besides their photographs: the run's best weights and how they are used."""
    how = [segmenter.size, segmenter.tta, segmenter.tile, segmenter.overlap, oriented]
    return hashlib.sha256(json.dumps([sha256(run.checkpoints / BEST), *how]).encode()).hexdigest()[:16]


def _note(path: Path) -> str:
    """The text that `write` put into a mask; empty without such a mask."""
    # A PNG that another program has left half-written raises SyntaxError: it is as foreign as one without a text.
    with suppress(OSError, SyntaxError), Image.open(path, formats=["PNG"]) as mask:
        return str(mask.info.get(NOTE, ""))
    return ""
