"""What networks cost, beside how good they are."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from statistics import fmean

import torch
from torch.utils.flop_counter import FlopCounterMode

from fcnseg.data import sides
from fcnseg.report import charts
from fcnseg.report.collect import Entry
from fcnseg.report.compare import Experiment
from fcnseg.report.document import Block, Chart, Table, Text
from fcnseg.runs import rebuild
from fcnseg.runs.folder import Run
from fcnseg.runs.result import shown

MOST_POINTS = 12  # of a chart, each with a colour and a line of the legend


def costs(found: Sequence[Experiment], *, trust: bool = False) -> list[Block]:
    """Parameters, multiplications, speed and time of every experiment on one test set, with mIoU over them as a chart."""
    counted: dict[str, float | None] = {}
    rows, points = [], {}
    for experiment in found:
        entry, miou = experiment.first, experiment.stat("metrics", "test/miou")
        model = {key: value for key, value in entry.config.items() if key.startswith("model.")}
        key = f"{sorted(model.items())} {entry.result['size']} {len(entry.classes)}"
        if key not in counted:  # seeds, losses and schedules have the same network
            counted[key] = giga_macs(entry, trust=trust)
        gmac, seconds = counted[key], _mean(experiment, _seconds_to_best)
        speed = _mean(experiment, lambda entry: entry.result.get("images_per_s"))
        rows.append(
            [
                *(experiment.title, f"{entry.result['parameters']:,}", shown(gmac, 3), shown(speed, 1)),
                *(shown(seconds, 1), shown(miou and miou.mean, 4)),
            ]
        )
        if gmac and miou:
            points[experiment.title] = (gmac, miou.mean)
    columns = ("experiment", "parameters", "GMAC", "images/s trained", "seconds to the best epoch", "mIoU")
    about = (
        "GMAC: billions of multiplications and additions for one image at the run's size, of convolutions and matrix products. "
        f"Speed and seconds are means over seeds, on the hardware of each run. {found[0].test_set}."
    )
    best = dict(sorted(points.items(), key=lambda point: -point[1][1])[:MOST_POINTS])
    caption = f"mIoU over GMAC: {len(best)} of {len(found)} experiments, the best ones. {found[0].test_set}."
    chart = [Chart("cost", caption, partial(charts.cost, best, "GMAC for an image"))] if len(best) > 1 else []
    return [Text(about), Table(columns, rows), *chart]


def giga_macs(entry: Entry, *, trust: bool = False) -> float | None:
    """Billions of multiplications with additions for an image at the run's size; None if the network cannot be rebuilt.

    The network has no values: on torch's meta device neither memory nor time is spent on them.
    """
    with (
        suppress(Exception),
        torch.device("meta"),
        torch.inference_mode(),
    ):  # a config may be of any version, or be damaged
        net = rebuild.network(Run(entry.path).config, len(entry.classes), trust=trust).eval()
        size = entry.result["size"]
        height, width = sides(size if isinstance(size, int) else [int(side) for side in size.split("x")])
        with FlopCounterMode(display=False) as counter:
            net(torch.empty(1, 3, height, width))
        return float(counter.get_total_flops()) / 2e9  # a multiplication and an addition are two operations
    return None


def _seconds_to_best(entry: Entry) -> float | None:
    rows = entry.rows[: entry.result["best_epoch"] + 1]
    return sum(row["seconds"] for row in rows) if rows and all("seconds" in row for row in rows) else None


def _mean(experiment: Experiment, of: Callable[[Entry], float | None]) -> float | None:
    values = [value for entry in experiment.entries if (value := of(entry)) is not None]
    return fmean(values) if values else None
