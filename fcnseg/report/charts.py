"""Draw the report's charts as matplotlib figures, from plain numbers.

A figure has no background, and one colour of ink, which the page sets after `svg`: it suits a light page and a dark one.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # without pyplot, no backend is chosen and no figure must be closed
from matplotlib.ticker import MaxNLocator
from PIL import Image

from fcnseg.data.pictures import Picture
from fcnseg.report.statistics import nanmean
from fcnseg.results.per_image import Numbers

INK, BLUE, ORANGE = "#24292f", "#3d85c6", "#c96d14"
WHOLE: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.04}  # a picture of the axes and of all their labels
TAG, STYLE, DECLARATION = re.compile("<[^<>]+>"), re.compile(r' style="([^"]*)"'), re.compile(r"([\w-]+): *([^;]+)")
styled = rc_context(
    {
        **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
        **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
        **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0),
        **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "axes.labelsize"), 9),
        **{"legend.fontsize": 8.5, "axes.axisbelow": True, "axes.grid": True, "grid.color": INK, "grid.alpha": 0.13},
        "text.parse_math": False,  # a name with two dollar signs is not a formula
        "svg.fonttype": "none",  # text stays text: the file is small, has the page's font, and can be read out
        "svg.hashsalt": "fcnseg",  # the same figure gives the same file
    }
)


@dataclass(frozen=True)
class Curve:
    """The losses of one run, one entry an epoch.

    Attributes:
        train: The mean loss over the training batches.
        val: The mean loss over the validation images.
        best: The epoch of the best weights, counted from 0.
        stopped: Whether early stopping ended the run.
    """

    train: Sequence[float]
    val: Sequence[float]
    best: int
    stopped: bool


@dataclass(frozen=True)
class AblationRow:
    """One row of the ablation chart; every IoU is by the paper's definition.

    Attributes:
        adds: What the step adds, in a few words.
        ours: The mean of our IoU over seeds.
        deviation: The standard deviation of our IoU over seeds; 0 for one seed.
        paper: The IoU that the paper prints.
        after: The step that this one builds on; None if there is no such step or it did not run.
    """

    adds: str
    ours: float
    deviation: float
    paper: float
    after: "AblationRow | None"

    @property
    def gains(self) -> list[str]:
        """The gain of the step in our IoU, and in the paper's; two empty texts if `after` is None."""
        if not self.after:
            return ["", ""]
        return [f"{self.ours - self.after.ours:+.4f}", f"{self.paper - self.after.paper:+.4f}"]


def _chart(width: float, height: float, **settings: Any) -> tuple[Figure, Axes]:
    """An empty chart whose axes have this size in inches and these settings; labels of any length have room outside."""
    figure = Figure((width, height))
    return figure, figure.add_axes((0, 0, 1, 1), **settings)


@styled
def svg(figure: Figure) -> str:
    """The figure as an `<svg>` element whose ink is the colour of the text around it.

    Its style is in attributes: a page that allows only its own style sheet would ignore any other style.
    """
    file = io.StringIO()
    figure.savefig(file, format="svg", **WHOLE)
    text = file.getvalue()
    # The XML declaration at the start must not be inside a page. The metadata have a date: the same runs give the same page.
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = text.replace(INK, "currentColor").strip()
    return TAG.sub(lambda tag: STYLE.sub(_attributes, tag[0]), text)


def _attributes(style: re.Match[str]) -> str:
    """A style attribute of matplotlib's as attributes of SVG; the font is the page's."""
    return "".join(f' {name}="{value}"' for name, value in DECLARATION.findall(style[1]) if name != "font-family")


def picture(figure: Figure | Picture) -> Image.Image:
    """The figure on white, as a picture of Pillow's, which a notebook can show; an array of pixels becomes one as it is."""
    if isinstance(figure, np.ndarray):
        return Image.fromarray(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, facecolor="white", **WHOLE)
    return Image.open(file)


@styled
def loss_curves(curves: Sequence[Curve]) -> Figure:
    """Figures 2-8: training and validation loss of one experiment, a pair of lines for every seed."""
    figure, axes = _chart(3.0, 2.1, xlabel="epoch", ylabel="loss")
    # The lines of several seeds cross, and are therefore thinner.
    width = 1.8 if len(curves) == 1 else 1.2
    for curve in curves:
        epochs = np.arange(1, len(curve.train) + 1)
        axes.plot(epochs, curve.train, color=BLUE, linewidth=width, label="training")
        axes.plot(epochs, curve.val, color=ORANGE, linewidth=width, label="validation")
        axes.plot(curve.best + 1, curve.val[curve.best], "o", color=INK, fillstyle="none", ms=8, label="best epoch")
        if curve.stopped:
            axes.plot(len(curve.val), curve.val[-1], "x", color=INK, ms=6, mew=1.6, label="early stop")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    # The lines of several seeds have the same label, which the legend shows once.
    once = {line.get_label(): line for line in axes.lines}
    axes.legend(handles=[*once.values()], ncols=2)
    return figure


@styled
def ablation(rows: Sequence[AblationRow], floor: float) -> Figure:
    """The IoU after each step, ours beside the paper's, with the floor of this test set as a line."""
    figure, axes = _chart(4.2, 0.5 * len(rows), xlabel="IoU by the paper's definition", ylim=(len(rows) - 0.5, -0.5))
    heights, ours, theirs = range(len(rows)), [row.ours for row in rows], [row.paper for row in rows]
    axes.hlines(heights, ours, theirs, color=INK, alpha=0.25, linewidth=1.2)
    axes.plot(ours, heights, "o", color=BLUE, ms=8, label="ours")
    axes.errorbar(ours, heights, xerr=[row.deviation for row in rows], fmt="none", ecolor=BLUE, capsize=3)
    axes.plot(theirs, heights, "D", color=ORANGE, fillstyle="none", ms=7, mew=1.6, label="the paper's")
    for height, row in enumerate(rows):
        if row.after:
            gains = "ours {}\npaper's {}".format(*row.gains)
            # To the right of the axes, at the height of the row.
            axes.annotate(gains, (1.02, height), xycoords=("axes fraction", "data"), va="center", size=8)
    axes.axvline(floor, color=INK, linewidth=1, linestyle="--", label="background everywhere")
    axes.set_yticks(heights, [row.adds for row in rows])
    axes.grid(visible=False, axis="y")
    axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    return figure


@styled
def reliability(runs: Mapping[str, Sequence[Numbers]]) -> Figure:
    """The share of right pixels over their confidence, a line for every run.

    Args:
        runs: By title, for every bin: the pixels, the sum of their confidence, and the right pixels, (B,) each.
    """
    figure, axes = _chart(4.4, 3.8, xlabel="mean confidence", ylabel="share of pixels right", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle="--", label="as sure as right")
    for title, (pixels, confidence, right) in runs.items():
        full = pixels > 0
        mean, share = confidence[full] / pixels[full], right[full] / pixels[full]
        (line,) = axes.plot(mean, share, linewidth=1.4, label=title)
        axes.scatter(mean, share, s=4 + 120 * pixels[full] / pixels.sum(), color=line.get_color(), alpha=0.7)
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.15))
    return figure


@styled
def curves(runs: Mapping[str, tuple[Numbers, Numbers]], across: str, up: str, *, scale: str = "linear") -> Figure:
    """Values over epochs, images or costs, a line for every experiment: the mean over seeds, in a band from lowest to highest.

    Args:
        runs: By the title of an experiment, (N,) places and (seeds, N) values, NaN where a seed has none.
        across: The label of the places.
        up: The label of the values.
        scale: The scale of the places, "linear" or "log".
    """
    figure, axes = _chart(4.2, 2.6, xlabel=across, ylabel=up, xscale=scale)
    for title, (places, values) in runs.items():
        (line,) = axes.plot(places, nanmean(values, axis=0), linewidth=1.6, marker="o", ms=4, label=title)
        if len(values) > 1:
            low, high = np.fmin.reduce(values), np.fmax.reduce(values)
            axes.fill_between(places, low, high, color=line.get_color(), alpha=0.18, linewidth=0)
    if scale == "linear":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        ticks = sorted({float(place) for places, _ in runs.values() for place in places})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])  # matplotlib's own labels are formulas
        axes.minorticks_off()
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.15))
    return figure
