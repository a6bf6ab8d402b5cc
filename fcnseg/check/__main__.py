"""Check a data set: `python -m fcnseg.check data.root=<folder>` prints what it holds and which files are broken."""

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from fcnseg import paper
from fcnseg.cli import messages
from fcnseg.cli.command import command
from fcnseg.cli.configs import default_config
from fcnseg.cli.messages import WRONG_USE

if TYPE_CHECKING:
    from fcnseg.data.formats.files import Files

WITHOUT_EFFECT = {  # settings of a run's data, and the way that `check` works without them
    "size": "looks at images at their own sizes",
    "pack_size": "looks at images at their own sizes",
    "batch_size": "makes no batches",
    "split": "looks at the whole of train and of val",
    "limit": "looks at all images",
    "cache": "makes no packs",
}


@command("check")
def check(cfg: DictConfig) -> None:
    """Print what the data set holds, and every problem by file name; exit with 2 if one of them stops training."""
    from hydra.utils import instantiate

    from fcnseg.data.dataset import find

    for key, reason in WITHOUT_EFFECT.items():
        if (value := cfg.data.get(key)) != default_config("check").data.get(key):
            raise ValueError(f"data.{key}={value}: check {reason}; leave it out")
    source, root = instantiate(cfg.data.source), Path(os.path.expanduser(cfg.data.root))
    console = messages.console()
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    if files := _recognised(cfg, source, root):
        from fcnseg.check.class_list import ready

        say(f"{files.path}: {files.format}")
        data_set, alone = ready(files, say, write=cfg.write), tuple(files.alone)
    elif cfg.write:
        raise ValueError(f"write=true: the classes of data={cfg.choices.data} are known; leave it out")
    else:
        data_set, alone = find(source, root, cfg.data.get("download")), ()
        say(f"{data_set.path}")
    if data_set is None:
        sys.exit(WRONG_USE)

    from fcnseg.check.survey import render, survey, warnings_of  # imports torch, which a refusal does not wait for

    surveys = [survey(data_set, "train"), survey(data_set, "val", "train")]
    render(surveys, [*alone, *warnings_of(*surveys)], console)
    if cfg.picture:
        from fcnseg.check.contact_sheet import save

        if save(Path(cfg.picture), data_set, surveys):
            say(f"pairs and shares are in {cfg.picture}")
    if any(survey.problems for survey in surveys):
        sys.exit(WRONG_USE)


def _recognised(cfg: DictConfig, source: Any, root: Path) -> "Files | None":
    """The files that data=folder finds in `root`, if it is chosen or data=voc2012 cannot read them; else None."""
    from fcnseg.data import formats
    from fcnseg.data.formats.files import split

    if getattr(source, "func", source) is formats.folder:
        return formats.recognise(root, **getattr(source, "keywords", {}))
    if cfg.choices.data != paper.DATA:
        return None
    if cfg.write:
        return formats.recognise(root)
    if files := formats.beyond_voc(root):
        split(files)
    return files


if __name__ == "__main__":
    check()
