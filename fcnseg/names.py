"""The names of scores, files and statuses in logs, results and run folders. This module imports nothing."""

SCORES = {  # every score by its name, with its title for people
    "miou": "mIoU",
    "pixel_acc": "pixel accuracy",
    "mean_acc": "mean accuracy",
    "paper_iou": "paper's IoU",
    "paper_acc": "paper's accuracy",
}
PAPER_SCORES = ("paper_iou", "paper_acc")  # NaN without a background
MONITOR = "val/miou"  # the value by which the best epoch is chosen

# The files of a run's folder, and the files of its folder of checkpoints.
HYDRA, STATUS, METRICS, RESULT = ".hydra", "status.json", "metrics.csv", "result.json"
CONFIG = f"{HYDRA}/config.yaml"
CHECKPOINTS, BEST, LAST, PREVIOUS = "checkpoints", "best.ckpt", "last.ckpt", "previous.ckpt"
SUMS = "SHA256SUMS"  # the hashes of the checkpoints, which `sha256sum -c` reads
PER_IMAGE, EVALUATIONS, CARD, LOCK = "images.npz", "evaluations", "README.md", ".lock"

# How a run stands, in status.json; a killed one has stored that it runs, and its process is gone.
RUNNING, FINISHED, FAILED, INTERRUPTED, KILLED = "running", "finished", "failed", "interrupted", "killed"
