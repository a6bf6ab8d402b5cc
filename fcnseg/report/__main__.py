"""Report on runs: `python -m fcnseg.report` reads `runs/` and writes `report/`."""

from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from fcnseg.cli.command import command
from fcnseg.cli.messages import tell
from fcnseg.machine.files import write_text

TITLE = "Segmentation networks, run and compared"


def _names(given: ListConfig | str | None) -> list[str] | None:
    """The names of a setting that may be one name, or a list of names; None if it is null."""
    if given is None:
        return None
    return [str(name) for name in given] if isinstance(given, ListConfig) else [str(given)]


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write {out}: {error.strerror}; choose another folder with out=") from error


@command("report")
def report(cfg: DictConfig) -> None:
    """Read the runs, compare them with each other and with the paper, and write the report's files."""
    from fcnseg.report import render, tables, worst_images
    from fcnseg.report.collect import collect
    from fcnseg.report.sections import sections, studied, summary

    images, compare = _names(cfg.images), _names(cfg.compare) or []
    for name in ("data.root", "trust"):
        if images == [] and OmegaConf.select(cfg, name):
            raise ValueError(f"{name} has no effect with images=[], for which no network is loaded: leave one of them out")
    out, entries = Path(cfg.out), collect(cfg.runs)
    content = sections(entries, images=images, root=cfg.data.root, trust=cfg.trust, compare=compare)
    lead = f"{summary(entries)}, from {cfg.runs}."
    _make(out)
    beside = render.write_html(out, TITLE, lead, content)
    write_text(out / "results.csv", tables.as_csv(entries))
    write_text(out / "images.csv", worst_images.as_csv(studied(entries)))
    render.write_markdown(out, TITLE, lead, content)
    remarks = [f"{entry.name} ({entry.status}): {remark}" for entry in entries for remark in entry.remarks]
    for line in [*remarks, *filter(None, [beside]), f"{lead} The report is {out / 'index.html'}"]:
        tell(line)


if __name__ == "__main__":
    report()
