"""Report on runs: `python -m fcnseg.report` reads `runs/` and writes `report/`."""

from contextlib import nullcontext
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, ListConfig

from fcnseg import paper
from fcnseg.cli.command import CONF, command, console
from fcnseg.files import write_text

TITLE = "Segmentation networks, run and compared"


def published() -> dict[str, dict[str, object]]:
    """The settings of the paper's experiments, as `conf/experiment` has them: what a run is held against."""
    from fcnseg.report.collect import flat

    ready = GlobalHydra.instance().is_initialized()  # in a command; a notebook has no Hydra yet
    with nullcontext() if ready else hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        configs = {name: hydra.compose("config", overrides=[f"experiment={name}"]) for name in paper.EXPERIMENTS}
    return {name: flat({key: cfg[key] for key in cfg if key != "choices"}) for name, cfg in configs.items()}


@command("report")
def report(cfg: DictConfig) -> None:
    """Read the runs, compare them with each other and the paper, and write the page, the Markdown and the table."""
    from fcnseg.report import content, html, markdown, tables  # import torch and matplotlib
    from fcnseg.report.collect import collect

    out, known = Path(cfg.out), published()
    entries = collect(cfg.runs)
    images = list(cfg.images) if isinstance(cfg.images, ListConfig) else cfg.images and [cfg.images]
    sections = content.sections(entries, known, images=images, root=cfg.data.root)
    lead = f"{content.summary(entries)}, from {cfg.runs}."
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write {out}: {error.strerror}; choose another folder with out=") from error
    write_text(out / "index.html", html.page(TITLE, lead, sections))
    write_text(out / "results.csv", tables.as_csv(entries, known))
    markdown.write(out, TITLE, lead, sections)
    screen = console()
    for entry in entries:
        for remark in entry.remarks:
            screen.print(f"{entry.path.name} ({entry.state}): {remark}", highlight=False, markup=False, soft_wrap=True)
    screen.print(f"{lead} The report is {out / 'index.html'}", highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    report()
