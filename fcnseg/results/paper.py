"""The results that the paper prints (Tables 5 to 11, Figures 2 to 8); the settings are in `conf/experiment`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedResult:
    """What the paper prints of one of its experiments.

    Attributes:
        adds: What the experiment adds to the experiment `after`, in a few words.
        after: The experiment that it builds on.
        figure: The number of the figure that shows its losses.
        loss: The test loss; weighted by class in the experiment `weighted` and in those that build on it.
        paper_iou: The IoU, by the definition of our metric of this name.
        paper_acc: The accuracy, by the definition of our metric of this name.
    """

    adds: str
    after: str | None
    figure: int
    loss: float
    paper_iou: float
    paper_acc: float


EXPERIMENTS = {  # each has its settings in conf/experiment/<name>.yaml
    "baseline": PublishedResult("FCN, constant lr", None, 2, 1.2276, 0.0634, 0.7300),
    "cosine": PublishedResult("+ cosine annealing", "baseline", 3, 1.1035, 0.0653, 0.7414),
    "flip": PublishedResult("+ flips", "cosine", 4, 1.0258, 0.0766, 0.7501),
    "weighted": PublishedResult("+ weighted loss", "flip", 5, 1.7111, 0.0904, 0.7200),
    "wilson": PublishedResult("Wilson's model", "weighted", 6, 1.6004, 0.1051, 0.7237),
    "transfer": PublishedResult("transfer learning", "weighted", 7, 1.5543, 0.1147, 0.7439),
    "unet": PublishedResult("U-Net", "weighted", 8, 1.8510, 0.0866, 0.7347),
}
DATA = "voc2012"
COUNTS = {"train": 1464, "val": 725, "test": 724}  # official train, and val's 1449 in two halves
FLOOR = {"paper_iou": 0.054, "paper_acc": 0.748}  # background everywhere, on all of val
