"""The arms side by side: they take turns, so that whatever else the machine does meets all of them alike."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from fcnseg.benchmark.process import Plan, Worker, WorkerError
from fcnseg.errors import RunFailedError

EPOCH = 1464  # images in VOC-2012's train split
AGREEMENT = {"32-true": 1e-4}  # how far apart, relative, first losses may lie in this precision;
AGREEMENT_REDUCED = 1e-2  # and in any that has bfloat16 in it
Tell = Callable[[str], None]


class Arm:
    """One arm: its process, and what it has answered. One that fails says why, and leaves the others alone.

    Args:
        name: Which of `arms.ARMS`.
        plan: What it runs.
    """

    def __init__(self, name: str, plan: Plan) -> None:
        self.name, self.plan = name, plan
        self.facts: dict[str, Any] = {}
        self.blocks: list[dict[str, Any]] = []
        self.memory: dict[str, float | None] = {}
        self.failed: str | None = None
        self.worker = Worker("fcnseg.benchmark.arms:work", name, plan)
        self.facts = self._answer(self.worker.receive) or {}

    def _answer(self, answer: Callable[[], Any]) -> Any:
        if self.failed is None:
            try:
                return answer()
            except WorkerError as error:
                self.failed = str(error)
        return None

    def run(self, wanted: str) -> None:
        """Run a block: to "time" it, or to count its "syncs"."""
        if block := self._answer(lambda: self.worker.ask(wanted)):
            self.blocks.append(block)

    def finish(self) -> None:
        """Take its peak of memory."""
        self.memory = self._answer(self.worker.receive) or {}

    @property
    def figures(self) -> dict[str, Any]:
        """What was measured: `images_per_s` of every block, their `median`, and the rest."""
        if self.failed is not None:
            return {"failed": self.failed}
        images = self.plan.steps * self.plan.cfg.data.batch_size
        speeds = [images / block["seconds"] for block in self.blocks[1 : 1 + self.plan.repeats]]
        speed = median(speeds)
        return {
            **self.facts,
            "cold": {
                **self.facts["cold"],
                "set-up": self.blocks[0]["setup"],
                "first step": self.blocks[0]["first_step"],
            },
            "images_per_s": speed,
            "images_per_s_of_blocks": speeds,
            "epoch_s": EPOCH / speed,
            "first_loss": self.blocks[0]["losses"][0],
            "memory_mb": self.memory,
            "syncs_per_step": self.blocks[-1]["syncs"] if self.plan.syncs else None,
        }


def compare(plan: Plan, names: Sequence[str], tell: Tell) -> dict[str, dict[str, Any]]:
    """Run the arms `names` block by block in turns.

    Returns:
        Of every arm, `Arm.figures` and `ratio`, its speed over the plain arm's.

    Raises:
        RunFailedError: the arms' first losses do not agree, so that they would not train the same.
    """
    arms: list[Arm] = []
    try:
        for name in names:
            tell(f"{name} starts")
            arms.append(Arm(name, plan))
        for turn in range(plan.blocks):
            tell(f"block {turn + 1} of {plan.blocks}")
            for arm in arms[:: -1 if turn % 2 else 1]:
                arm.run("syncs" if turn > plan.repeats else "time")
            if turn == 0:
                check_first_losses([arm for arm in arms if arm.failed is None])
        for arm in arms:
            arm.finish()
    finally:
        for arm in arms:
            arm.worker.close()
    measured = {arm.name: arm.figures for arm in arms}
    plain = measured.get("plain", {}).get("images_per_s")
    for figures in measured.values():
        speed = figures.get("images_per_s")
        figures["ratio"] = speed / plain if speed and plain else None
    return measured


def check_first_losses(arms: Sequence[Arm]) -> None:
    """Hold every arm's first loss against the first arm's.

    Raises:
        RunFailedError: two lie too far apart.
    """
    losses = [arm.blocks[0]["losses"][0] for arm in arms]
    for arm, loss in zip(arms, losses, strict=True):
        precisions = {arm.facts["precision"], arms[0].facts["precision"]}
        allowed = max(AGREEMENT.get(precision, AGREEMENT_REDUCED) for precision in precisions)
        if not abs(loss - losses[0]) <= allowed * abs(losses[0]):
            raise RunFailedError(
                f"the first losses of {arms[0].name} ({losses[0]:.6f}) and {arm.name} ({loss:.6f}) differ by more than"
                f" {allowed:g}: random augmentation and dropout draw differently, so take aug=none and a network without"
            )
