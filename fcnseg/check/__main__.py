"""Check a data set: `python -m fcnseg.check data.root=<folder>` prints what it holds and which files are broken."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from fcnseg.cli.command import command
from fcnseg.cli.configs import default_config
from fcnseg.cli.messages import EXIT_WRONG_USE, console, tell
from fcnseg.results import paper
from fcnseg.texts import first_of

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
    """Print what the data set holds, and every problem by file name; exit with 2 if one of them stops training or a test."""
    from hydra.utils import instantiate

    from fcnseg.data.dataset import find_data_set
    from fcnseg.settings.parameters import check_parameters

    _refuse_settings_without_effect(cfg)
    check_parameters(cfg.data, "data")
    source, root = instantiate(cfg.data.source), Path(os.path.expanduser(cfg.data.root))
    files = _recognised(cfg, source, root)
    if cfg.write and not files:
        raise ValueError(f"write=true: the classes of data={cfg.choices.data} are known; leave it out")
    data_set = files or find_data_set(source, root, cfg.data.get("download"))
    tell(f"{files.path}: {files.format}" if files else f"{data_set.path}")
    if files and not _ready(files, write=cfg.write):
        sys.exit(EXIT_WRONG_USE)

    from fcnseg.check.survey import image_sets, render, survey, warnings_of

    chosen, left_out = image_sets(data_set)
    surveys = [survey(data_set, name, *chosen[:number]) for number, name in enumerate(chosen)]
    for line in left_out:
        tell(line)
    render(surveys, [*data_set.alone, *warnings_of(*surveys)], console())
    if cfg.picture and any(one.contents for one in surveys):
        from fcnseg.check.contact_sheet import save

        save(Path(cfg.picture), data_set, surveys)
        tell(f"pairs and shares are in {cfg.picture}")
    if any(survey.problems for survey in surveys):
        sys.exit(EXIT_WRONG_USE)


def _refuse_settings_without_effect(cfg: DictConfig) -> None:
    for key, reason in WITHOUT_EFFECT.items():
        if (value := cfg.data.get(key)) != default_config("check").data.get(key):
            raise ValueError(f"data.{key}={value}: check {reason}; leave it out")


def _recognised(cfg: DictConfig, source: Any, root: Path) -> "Files | None":
    """The files that data=folder finds in `root`, if it is chosen or data=voc2012 cannot read them; else None."""
    from fcnseg.data import formats
    from fcnseg.data.formats.files import make_val

    files: Files | None = None
    if getattr(source, "func", source) is formats.folder:
        files = source(root)
    elif cfg.choices.data == paper.DATA and cfg.write:  # VOC's layout as well, to be given other classes
        files = formats.folder(root)
    elif cfg.choices.data == paper.DATA and (files := formats.beyond_voc(root)):
        make_val(files)
    return files


def _ready(files: "Files", *, write: bool) -> bool:
    """Whether the classes of `files` are known or have been written; if not, what the masks hold is printed.

    Args:
        files: The files of the data set, and the classes if a file lists them.
        write: Whether classes.yaml may be written.

    Raises:
        ValueError: The class list is broken, or there is one already where `write` asks for it.
    """
    from fcnseg.data.formats.classes import FILE, find_class_list
    from fcnseg.data.formats.mask_values import count_values, write_classes

    known = files.class_list
    if known and write:
        raise ValueError(f"write=true: {known.source} says the classes already: leave it out")
    # Polygons store names, and a mask that is not there is a problem of the survey.
    stored = count_values([mask for _, mask in files.pairs.values() if not files.drawings and (mask.is_file() or not known)])
    if write:
        tell(f"{write_classes(files, stored)} is written: give the classes their names in it")
        files.class_list = find_class_list(files.path)
        return True
    frequent = sorted(stored.pixels, key=lambda value: -stored.pixels[value])
    if known:
        tell(f"its classes are those of {known.source}")
        strange = [value for value in frequent if value not in {*known.legend.values, *known.legend.colours}]
        if strange:
            tell(first_of([f"no class has {value}: {stored.found(value)}" for value in strange]))
        return True
    tell(f"nothing says which classes its masks have: they hold{':' if stored.pixels else ' nothing'}")
    for line in (*(f"{value}: {stored.found(value)}" for value in frequent[:20]), *stored.problems):
        tell(f"  {line}")
    tell(f"write=true writes {files.path / FILE} with them, for you to name (README, Your data)")
    return False


if __name__ == "__main__":
    check()
