"""Check a data set: `python -m fcnseg.check data.root=<folder>` prints what it holds and which files are broken."""

import os
import sys
from pathlib import Path

from omegaconf import DictConfig

from fcnseg.cli.command import command
from fcnseg.cli.messages import WRONG_USE, console


@command("config")
def check(cfg: DictConfig) -> None:
    """Print what the data set holds, and every problem by file name; exit with 2 if there are any."""
    from hydra.utils import instantiate

    from fcnseg.data.source import find

    folder = find(instantiate(cfg.data.source), Path(os.path.expanduser(cfg.data.root)), cfg.data.get("download"))

    from fcnseg.check.survey import render, survey  # imports torch, which a refusal does not wait for

    surveys = [survey(folder, "train"), survey(folder, "val", "train")]
    screen = console()
    screen.print(f"{folder.path}", highlight=False, soft_wrap=True)
    render(surveys, screen)
    if any(survey.problems for survey in surveys):
        sys.exit(WRONG_USE)


if __name__ == "__main__":
    check()
