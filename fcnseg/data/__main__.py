"""Look a data set over: `python -m fcnseg.data data.root=<folder>`."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from fcnseg.door import WRONG_USE, console, door


@door("config")
def check_data(cfg: DictConfig) -> None:
    """Print what the data set holds, and every problem by file name; exit with 2 if there are any."""
    from hydra.utils import instantiate

    from fcnseg.data import check

    folder = instantiate(cfg.data.source)(Path(cfg.data.root))
    surveys = [check.survey(folder, image_set) for image_set in ("train", "val")]
    screen = console()
    screen.print(f"{folder.path}", highlight=False, soft_wrap=True)
    check.render(surveys, screen)
    if any(survey.problems for survey in surveys):
        sys.exit(WRONG_USE)


if __name__ == "__main__":
    check_data()
