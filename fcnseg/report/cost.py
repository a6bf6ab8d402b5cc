"""The costs of networks, compared with their scores."""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean

from fcnseg.report import charts
from fcnseg.report.collect import Entry
from fcnseg.report.compare import Experiment
from fcnseg.report.document import Block, Chart, Table, Text
from fcnseg.runs.summary import as_text

MOST_POINTS = 12  # experiments in the chart: each needs a colour and a line of the legend
ABOUT = (
    "GMAC: billions of multiplications and additions for one image at the run's size, of convolutions and matrix products. "
    "Images/s predicted is the speed of the network alone on the test images. The memory is the most that training took, of "
    "the GPU, or of the whole process on a CPU. Speeds, seconds and memory are means over seeds, on the hardware of each run; "
    "earlier versions measured fewer of them."
)
MEASURED = ("images_per_s", "predicted_per_s", "peak_memory")
COLUMNS = (
    *("experiment", "parameters", "GMAC", "images/s trained", "images/s predicted", "seconds to the best epoch"),
    *("peak memory in MB", "mIoU"),
)


def costs(experiments: Sequence[Experiment]) -> list[Block]:
    """Parameters, multiplications, speed, time and memory of experiments on one test set, with mIoU over them as a chart."""
    rows, points = [], {}
    for experiment in experiments:
        entry, miou = experiment.first, experiment.stat("metrics", "test/miou")
        gmac = entry.result.get("giga_macs")
        means = [_mean(experiment, lambda entry, name=name: entry.result.get(name)) for name in MEASURED]  # type: ignore[misc]
        memory = means.pop()
        numbers = [*means, _mean(experiment, _seconds_to_best), memory and memory / 1e6]
        speeds = [as_text(number, 1) for number in numbers]
        rows.append(
            [
                experiment.title,
                f"{entry.result['parameters']:,}",
                as_text(gmac, 3),
                *speeds,
                as_text(miou and miou.mean),
            ]
        )
        if gmac and miou:
            points[experiment.title] = (gmac, miou.mean)
    best = dict(sorted(points.items(), key=lambda point: -point[1][1])[:MOST_POINTS])
    caption = f"mIoU over GMAC: {len(best)} of {len(experiments)} experiments, the best ones. {experiments[0].test_set}."
    chart = [Chart("cost", caption, partial(charts.cost, best, "GMAC for an image"))] if len(best) > 1 else []
    return [Text(f"{experiments[0].test_set}."), Table(COLUMNS, rows), *chart]


def _seconds_to_best(entry: Entry) -> float | None:
    rows = entry.rows[: entry.result["best_epoch"] + 1]
    return sum(row["seconds"] for row in rows) if rows and all("seconds" in row for row in rows) else None


def _mean(experiment: Experiment, measure: Callable[[Entry], float | None]) -> float | None:
    values = [value for entry in experiment.entries if (value := measure(entry)) is not None]
    return fmean(values) if values else None
