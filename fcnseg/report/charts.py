"""Draw the report's charts as matplotlib figures, from plain numbers.

A figure has no background, and one colour of ink that `svg` leaves to the page: it suits a light page and a dark one.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure  # without pyplot there is no backend to choose and nothing to close
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from fcnseg.data import voc
from fcnseg.pictures import colour, legend, overlay, photograph

Reals = npt.NDArray[np.float64]
INK, BLUE, ORANGE = "#24292f", "#3d85c6", "#e0832c"
styled = rc_context(
    {
        **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
        **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
        **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0),
        **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "axes.labelsize"), 9),
        **{"legend.fontsize": 8.5, "axes.axisbelow": True, "grid.color": INK, "grid.alpha": 0.13},
        "svg.fonttype": "none",  # text stays text: the file is small, has the page's font, and can be read out
        "svg.hashsalt": "fcnseg",  # the same figure gives the same file
    }
)


@dataclass(frozen=True)
class Curve:
    """The losses of one run, one entry an epoch.

    Attributes:
        train: The training losses.
        val: The validation losses.
        best: The epoch of the best weights, counted from 0.
        stopped: Whether early stopping ended the run.
    """

    train: Sequence[float]
    val: Sequence[float]
    best: int
    stopped: bool


@dataclass(frozen=True)
class Step:
    """One row of the ablation chart; every IoU is by the paper's definition.

    Attributes:
        adds: What the step adds, in a few words.
        ours: The mean of our IoU over seeds.
        deviation: The standard deviation of our IoU over seeds; 0 for one seed.
        paper: The IoU that the paper prints.
        added: The gains on the experiment that this one builds on, ours and the paper's; None if that one did not run.
    """

    adds: str
    ours: float
    deviation: float
    paper: float
    added: tuple[float, float] | None


def _chart(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty chart of this size in inches."""
    figure = Figure((width, height), layout="constrained")
    return figure, figure.add_subplot()


def _each_once(axes: Axes) -> tuple[list[Artist], list[str]]:
    """Handles and labels for a legend; a label that several lines have is in it once."""
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    return [*once.values()], [*once]


@styled
def svg(figure: Figure) -> str:
    """The figure as an `<svg>` element whose ink is the colour of the text around it."""
    file = io.StringIO()
    # Without a date, the same runs give the same page.
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = file.getvalue()
    # An XML declaration comes first, which has no place inside a page.
    return text[text.index("<svg") :].replace(INK, "currentColor").strip()


def picture(figure: Figure) -> Image.Image:
    """The figure on white, as a picture that a notebook can show."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, facecolor="white")
    return Image.open(file)


@styled
def loss_curves(curves: Sequence[Curve]) -> Figure:
    """Figures 2-8: training and validation loss of one experiment, a pair of lines for every seed."""
    figure, axes = _chart(4.2, 2.8)
    # The lines of several seeds cross: they are thinner.
    width = 1.8 if len(curves) == 1 else 1.2
    for curve in curves:
        epochs = np.arange(1, len(curve.train) + 1)
        axes.plot(epochs, curve.train, color=BLUE, linewidth=width, label="training")
        axes.plot(epochs, curve.val, color=ORANGE, linewidth=width, label="validation")
        axes.plot(curve.best + 1, curve.val[curve.best], "o", color=INK, fillstyle="none", ms=8, label="best epoch")
        if curve.stopped:
            axes.plot(len(curve.val), curve.val[-1], "x", color=INK, ms=6, mew=1.6, label="early stop")
    axes.grid()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel="loss")
    axes.legend(*_each_once(axes), ncols=2)
    return figure


def _cells(axes: Axes, values: Reals, rows: Sequence[str], columns: Sequence[str], top: float) -> None:
    """Colour a matrix of values from transparent at 0, which suits a page of any colour, to blue at `top`."""
    opacity = np.where(np.isnan(values), 0, 0.04 + 0.86 * np.clip(np.nan_to_num(values) / top, 0, 1))
    blue = np.broadcast_to(to_rgb(BLUE), (*values.shape, 3))
    axes.imshow(np.dstack([blue, opacity]), aspect="auto", interpolation="none")
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.spines[:].set_visible(False)


@styled
def class_heat_map(iou: Reals, titles: Sequence[str], shares: Sequence[float | None]) -> Figure:
    """IoU of every class, and their mean, a column for every experiment.

    Args:
        iou: (21, experiments), NaN for a class in neither truth nor prediction.
        titles: The titles of the experiments, which head the columns.
        shares: The share of the labelled test pixels that every class has; None where it was not recorded.
    """
    figure, axes = _chart(2.8 + 0.62 * len(titles), 6.4)
    values = np.vstack([np.nanmean(iou, axis=0), iou])
    named = [name if share is None else f"{name} {share:.1%}" for name, share in zip(voc.CLASSES, shares, strict=True)]
    top = float(np.nanmax(values[2:], initial=0.1))  # background is far above the others
    _cells(axes, values, ["mean of classes", *named], titles, top)
    for (row, column), value in np.ndenumerate(values):
        text = "-" if np.isnan(value) else f"{value:.2f}"
        axes.text(column, row, text, ha="center", va="center", size=8, weight="normal" if row else "bold")
    axes.axhline(0.5, color=INK, linewidth=0.8)  # between the mean and the classes
    return figure


@styled
def confusion_matrix(matrix: Reals) -> Figure:
    """Which class (row) is taken for which class (column), in percent of the row's pixels.

    Args:
        matrix: (21, 21) counts of pixels by truth and prediction.
    """
    figure, axes = _chart(6.4, 5.6)
    pixels = matrix.sum(1, keepdims=True)
    shares = np.where(pixels > 0, matrix / np.maximum(pixels, 1), np.nan)
    _cells(axes, shares, voc.CLASSES, voc.CLASSES, top=1)
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.095:  # shown as 10 or more; with all 441 numbers the chart cannot be read
            axes.text(column, row, f"{share * 100:.0f}", ha="center", va="center", size=7)
    axes.set(xlabel="predicted", ylabel="truth")
    return figure


@styled
def ablation(steps: Sequence[Step], floor: float) -> Figure:
    """The IoU after each step, ours beside the paper's, with the floor of this test set as a line."""
    figure, axes = _chart(6.8, 0.9 + 0.5 * len(steps))
    for row, step in enumerate(steps):
        axes.plot((step.paper, step.ours), (row, row), color=INK, alpha=0.25, linewidth=1.2)
        axes.plot(step.ours, row, "o", color=BLUE, ms=8, label="ours")
        axes.errorbar(step.ours, row, xerr=step.deviation, fmt="none", ecolor=BLUE, capsize=3)
        axes.plot(step.paper, row, "D", color=ORANGE, fillstyle="none", ms=7, mew=1.6, label="the paper's")
        if step.added:
            # To the right of the axes, at the height of the row.
            text = f"ours {step.added[0]:+.4f}\npaper's {step.added[1]:+.4f}"
            axes.annotate(text, (1.02, row), xycoords=("axes fraction", "data"), va="center", size=8)
    axes.axvline(floor, color=INK, linewidth=1, linestyle="--", label="background everywhere")
    axes.set_yticks(range(len(steps)), [step.adds for step in steps])
    axes.set(xlabel="IoU by the paper's definition", ylim=(len(steps) - 0.5, -0.5))
    axes.grid(axis="x")
    figure.legend(*_each_once(axes), ncols=3, loc="outside upper left")
    return figure


@styled
def gallery(image: Tensor, truth: Tensor, predictions: Mapping[str, Tensor]) -> Figure:
    """Figures 9-11: an image, its truth and every network's mask; below, the same masks over the image.

    Args:
        image: (3, H, W) uint8.
        truth: (H, W) labels, 255 for void.
        predictions: The title of every network, to its (H, W) labels.
    """
    masks = {"truth": truth, **predictions}
    figure = Figure((1.5 * (len(masks) + 1), 3.9), layout="constrained")
    grid = figure.subplots(2, len(masks) + 1)
    for axes in grid.flat:
        axes.axis("off")
    grid[0, 0].imshow(photograph(image))
    grid[0, 0].set_title("image", size=8)
    for column, (name, mask) in enumerate(masks.items(), start=1):
        grid[0, column].imshow(colour(mask))
        grid[0, column].set_title(name, size=8)
        grid[1, column].imshow(overlay(image, mask))
    patches = [Patch(facecolor=shade, edgecolor=INK, label=name) for name, shade in legend([*masks.values()]).items()]
    figure.legend(handles=patches, ncols=8, loc="outside lower left")
    return figure
