"""SIGKILL at random moments through runs with random settings: `python tests/faults/soak.py --kills 50`.

The settings are drawn anew for each of --draws parts; every network has its turn. A run with them is trained once unbroken.
Then the same command is started, killed and started again until the run ends, which has to be where the unbroken one ended,
bit for bit (weights, optimiser, schedule, generators, metrics.csv, TensorBoard, result.json); then the next run, until the
part's share of the kills is spent. Every other run is saved seldom, as where epochs are shorter than their save, and draws
and packs its data anew, and so it may be killed at that too. Commands run in forks of one process that has imported
everything: a start costs a fork here, not the seconds of importing torch, which resume times leave out.
"""

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from functools import partial
from itertools import cycle
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent.parent)]

import torch  # noqa: E402
from injection import NETS, at, content, differences, signal, start, tiny  # noqa: E402

from fcnseg.runs.checkpoint_files import newest_good  # noqa: E402

EPOCHS = {"transfer": 3}  # whose files are large; of the others:
MORE = 10
SELDOM = ["checkpoint.every_n_steps=null", "checkpoint.min_seconds=0.2"]
DRAWN = {
    "checkpoint.every_n_steps": (1, 2, 5),
    "patience": (1, 3, "null"),
    "data.split": ("official", "halves"),
    "data.batch_size": (5, 8),  # 24 images: the last batch of five has four
    "optimizer": ("adam", "adamw"),
    "schedule": ("constant", "cosine", "poly", "onecycle"),
    "ema": ("null", 0.9),
    "aug": ("none", "flip"),
    "loss": ("ce", "weighted", "ce_dice"),
    "seed": range(1000),
}


def note(path, *_, **__):
    path.write_text(str(time.monotonic()))


def launch(folder, args):
    """Start the command, the end of whose first step is written down."""
    first_step = folder / "first step"
    first_step.unlink(missing_ok=True)
    inject = partial(at, torch.optim.Adam, "step", 1, partial(note, first_step), after=True)
    return time.monotonic(), start(folder, *args, inject=inject, with_hydra=True), first_step


def soak(folder, net, kills, rng):
    """(kills, kills whose run ended as the unbroken one, seconds to the first new step after each, what differed)."""
    own = {setting.partition("=")[0] for setting in NETS[net]}
    drawn = {key: rng.choice(values) for key, values in DRAWN.items() if key not in own}
    print(net, *(f"{key}={value}" for key, value in drawn.items()), flush=True)
    data = folder / "data"
    args = [argument for argument in tiny(data, net) if argument.partition("=")[0] not in drawn]
    args += [f"trainer.max_epochs={EPOCHS.get(net, MORE)}", *(f"{key}={value}" for key, value in drawn.items())]
    for name in ("packed", "unbroken"):
        began, process, _ = launch(folder, [*args, f"runs={name}"])
        outcome = process.wait(600)
        assert outcome.code == 0, outcome.err
        whole = time.monotonic() - began
    wanted = content(folder / "unbroken" / "run")
    done = exact = number = 0
    seconds, wrong = [], []
    while done < kills:
        number += 1
        path, here, seldom = folder / str(number) / "run", 0, number % 2 == 0
        if seldom:
            shutil.rmtree(data)
        while True:
            resumes = newest_good(path / "checkpoints") is not None
            began, process, first_step = launch(folder, [*args, *SELDOM * seldom, f"runs={number}"])
            if done < kills:
                time.sleep(rng.uniform(0.25, 1.1) * whole)
                process.send(signal.SIGKILL)  # if it has ended by itself, a zombie gets it
            outcome = process.wait(600)
            if resumes and first_step.exists():
                seconds.append(float(first_step.read_text()) - began)
            if outcome.code != -signal.SIGKILL:
                break
            here, done = here + 1, done + 1
        assert outcome.code == 0, outcome.err
        found = differences(content(path), wanted)
        exact += 0 if found else here
        wrong += [f"{net}, {drawn}, run {number}: {difference}" for difference in found]
    return done, exact, seconds, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, seconds, wrong, done, exact = random.Random(options.seed), [], [], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for left, net in zip(range(options.draws, 0, -1), cycle(NETS), strict=False):
            home = Path(folder) / str(left)
            home.mkdir()
            share = -(-(options.kills - done) // left)
            found = soak(home, net, share, rng)
            median, slowest = (statistics.median(found[2]), max(found[2])) if found[2] else (0, 0)
            print(f"{net}: {found[0]} kills, {found[1]} resumed exactly;", end=" ")
            print(f"first new step after {median:.2f} s (median), {slowest:.2f} s (slowest)", flush=True)
            done, exact = done + found[0], exact + found[1]
            seconds, wrong = seconds + found[2], wrong + found[3]
    print(f"{exact} of {done} kills resumed exactly; slowest resume {max(seconds):.2f} s, imports excluded")
    print(*wrong, sep="\n", end="" if not wrong else "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
