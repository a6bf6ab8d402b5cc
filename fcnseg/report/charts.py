"""Charts of losses, scores and predictions, as matplotlib figures made from plain numbers.

They have no background and one colour of ink, which `svg` leaves to the page: they suit a light page and a dark one.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
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
in_our_style = rc_context(
    {
        **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
        **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
        **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0),
        **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "axes.labelsize"), 9),
        **{"legend.fontsize": 8.5, "axes.axisbelow": True, "grid.color": INK, "grid.alpha": 0.13},
        "svg.fonttype": "none",  # text stays text: small files, the page's font, and it can be read out
        "svg.hashsalt": "fcnseg",  # the same figure, the same file
    }
)


@dataclass(frozen=True)
class Curve:
    """One run's losses, an entry an epoch.

    Attributes:
        train: Training loss.
        val: Validation loss.
        best: The epoch of the best weights, counted from 0.
        stopped: Whether patience ended it.
    """

    train: Sequence[float]
    val: Sequence[float]
    best: int
    stopped: bool


@dataclass(frozen=True)
class Step:
    """A row of the ablation: IoU by the paper's definition.

    Attributes:
        adds: What it adds, in a few words.
        ours: Ours, the mean over seeds.
        deviation: Over seeds; 0 for one.
        paper: The paper's.
        added: What was gained on the experiment it builds on, ours and the paper's; None where there is none.
    """

    adds: str
    ours: float
    deviation: float
    paper: float
    added: tuple[float, float] | None


def _blank(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty chart of this size in inches."""
    figure = Figure((width, height), layout="constrained")
    return figure, figure.add_subplot()


@in_our_style
def svg(figure: Figure) -> str:
    """An `<svg>` element whose ink is the colour of the text around it."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = file.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor").strip()


def picture(figure: Figure) -> Image.Image:
    """The figure on white; a notebook shows it by itself."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, facecolor="white")
    return Image.open(file)


@in_our_style
def loss_curves(curves: Sequence[Curve]) -> Figure:
    """Figures 2-8: training and validation loss of runs that differ in their seed alone."""
    figure, axes = _blank(4.2, 2.8)
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
    handles, names = axes.get_legend_handles_labels()
    once = dict(zip(names, handles, strict=True))  # not once a seed
    axes.legend(once.values(), once.keys(), ncols=2)
    return figure


def _cells(axes: Axes, values: Reals, rows: Sequence[str], columns: Sequence[str], top: float) -> None:
    """Colour cells (rows, columns) from clear at 0 to blue at `top`: the page shows through, whatever its colour."""
    cells = np.empty((*values.shape, 4))
    cells[..., :3] = to_rgb(BLUE)
    cells[..., 3] = np.where(np.isnan(values), 0, 0.04 + 0.86 * np.clip(np.nan_to_num(values) / top, 0, 1))
    axes.imshow(cells, aspect="auto", interpolation="none")
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.spines[:].set_visible(False)


@in_our_style
def class_heat_map(iou: Reals, runs: Sequence[str], shares: Sequence[float | None]) -> Figure:
    """IoU of every class, and of their mean, for several runs.

    Args:
        iou: (21, runs), NaN for a class in neither truth nor prediction.
        runs: Their names.
        shares: Of the labelled test pixels, per class; None where not recorded.
    """
    figure, axes = _blank(2.8 + 0.62 * len(runs), 6.4)
    values = np.vstack([np.nanmean(iou, axis=0), iou])
    named = [name if share is None else f"{name} {share:.1%}" for name, share in zip(voc.CLASSES, shares, strict=True)]
    top = float(np.nanmax(values[2:], initial=0.1))  # background is far above the others
    _cells(axes, values, ["mean of classes", *named], runs, top)
    for (row, column), value in np.ndenumerate(values):
        text = "-" if np.isnan(value) else f"{value:.2f}"
        axes.text(column, row, text, ha="center", va="center", size=8, weight="normal" if row else "bold")
    axes.axhline(0.5, color=INK, linewidth=0.8)
    return figure


@in_our_style
def confusion_matrix(matrix: Reals) -> Figure:
    """Which class (row) is taken for which (column), in percent of the row's pixels.

    Args:
        matrix: (21, 21) pixels by truth and prediction.
    """
    figure, axes = _blank(6.4, 5.6)
    pixels = matrix.sum(1, keepdims=True)
    shares = np.where(pixels > 0, matrix / np.maximum(pixels, 1), np.nan)
    _cells(axes, shares, voc.CLASSES, voc.CLASSES, top=1)
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.095:
            axes.text(column, row, f"{share * 100:.0f}", ha="center", va="center", size=7)
    axes.set(xlabel="predicted", ylabel="truth")
    return figure


@in_our_style
def ablation(steps: Sequence[Step], floor: float) -> Figure:
    """What each step added to the IoU, ours beside the paper's, above the floor of this test set."""
    figure, axes = _blank(6.8, 0.9 + 0.5 * len(steps))
    for row, step in enumerate(steps):
        axes.plot((step.paper, step.ours), (row, row), color=INK, alpha=0.25, linewidth=1.2)
        axes.plot(step.ours, row, "o", color=BLUE, ms=8, label="ours")
        axes.errorbar(step.ours, row, xerr=step.deviation, fmt="none", ecolor=BLUE, capsize=3)
        axes.plot(step.paper, row, "D", color=ORANGE, fillstyle="none", ms=7, mew=1.6, label="the paper's")
        if step.added:
            text = f"ours {step.added[0]:+.4f}\npaper's {step.added[1]:+.4f}"
            axes.annotate(text, (1.02, row), xycoords=("axes fraction", "data"), va="center", size=8)
    axes.axvline(floor, color=INK, linewidth=1, linestyle="--", label="background everywhere")
    axes.set_yticks(range(len(steps)), [step.adds for step in steps])
    axes.set(xlabel="IoU by the paper's definition", ylim=(len(steps) - 0.5, -0.5))
    axes.grid(axis="x")
    handles, names = axes.get_legend_handles_labels()
    once = dict(zip(names, handles, strict=True))
    figure.legend(once.values(), once.keys(), ncols=3, loc="outside upper left")
    return figure


@in_our_style
def gallery(image: Tensor, truth: Tensor, predictions: Mapping[str, Tensor]) -> Figure:
    """Figures 9-11: an image, its truth and every model's mask; beneath them, the same masks over the image.

    Args:
        image: (3, H, W) uint8.
        truth: (H, W) labels, 255 for void.
        predictions: Model to (H, W) labels.
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
