"""Check a data set: `python -m fcnseg.check data.root=<folder>` prints what it holds and which files are broken."""

import os
import sys
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from fcnseg.cli import messages
from fcnseg.cli.command import command
from fcnseg.cli.messages import WRONG_USE


@command("check")
def check(cfg: DictConfig) -> None:
    """Print what the data set holds, and every problem by file name; exit with 2 if one of them stops training."""
    from hydra.utils import instantiate

    from fcnseg.data import formats
    from fcnseg.data.source import find

    source, root = instantiate(cfg.data.source), Path(os.path.expanduser(cfg.data.root))
    console = messages.console()
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    if cfg.choices.data == "voc2012" and (cfg.write or formats.beyond_voc(root)):
        source = formats.folder
    if getattr(source, "func", source) is formats.folder:
        from fcnseg.check.classes import ready

        layout = formats.recognise(root, **getattr(source, "keywords", {}))
        say(f"{layout.path}: {layout.format}")
        folder = ready(layout, say, write=cfg.write)
        alone = tuple(layout.alone)
    else:
        folder, alone = find(source, root, cfg.data.get("download")), ()
        say(f"{folder.path}")
    if folder is None:
        sys.exit(WRONG_USE)

    from fcnseg.check.survey import compare, render, survey  # imports torch, which a refusal does not wait for

    surveys = [survey(folder, "train"), survey(folder, "val", "train")]
    render(surveys, [*alone, *compare(*surveys)], console)
    if cfg.picture:
        from fcnseg.check.picture import save

        if save(Path(cfg.picture), folder, surveys):
            say(f"pairs and shares are in {cfg.picture}")
    if any(survey.problems for survey in surveys):
        sys.exit(WRONG_USE)


if __name__ == "__main__":
    check()
