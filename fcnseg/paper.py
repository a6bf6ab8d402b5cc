"""What the paper prints: its experiments, their settings and their numbers (Tables 5-11, Figures 2-8)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Printed:
    """A table of the paper's results.

    Attributes:
        experiment: Our name of it: `conf/experiment/<experiment>.yaml`.
        adds: What it adds to the experiment `after`, in a few words.
        after: The experiment it builds on.
        table: The table's number.
        figure: Its loss curves' number.
        loss: Test loss; weighted by class from `weighted` on.
        iou: By the paper's definition, as `paper_iou`.
        acc: By the paper's definition, as `paper_acc`.
    """

    experiment: str
    adds: str
    after: str | None
    table: int
    figure: int
    lr: float
    epochs: int
    patience: int
    loss: float
    iou: float
    acc: float


EXPERIMENTS = {
    printed.experiment: printed
    for printed in (
        Printed("baseline", "FCN, constant lr", None, 5, 2, 0.001, 13, 3, 1.2276, 0.0634, 0.7300),
        # 13 epochs in the caption of Figure 3, 30 on its axis
        Printed("cosine", "+ cosine annealing", "baseline", 6, 3, 0.001, 30, 3, 1.1035, 0.0653, 0.7414),
        Printed("flip", "+ flips", "cosine", 7, 4, 0.001, 30, 9, 1.0258, 0.0766, 0.7501),
        Printed("weighted", "+ weighted loss", "flip", 8, 5, 0.00185, 30, 9, 1.7111, 0.0904, 0.7200),
        Printed("wilson", "Wilson's model", "weighted", 9, 6, 0.00185, 30, 9, 1.6004, 0.1051, 0.7237),
        Printed("transfer", "transfer learning", "weighted", 10, 7, 0.00185, 50, 9, 1.5543, 0.1147, 0.7439),
        Printed("unet", "U-Net", "weighted", 11, 8, 0.001, 30, 9, 1.8510, 0.0866, 0.7347),
    )
}
DATA = "voc2012"
IMAGES = {"train": 1464, "val": 725, "test": 724}  # official train, and val's 1449 in two halves
FLOOR = {"paper_iou": 0.054, "paper_acc": 0.748}  # background everywhere, on all of val
