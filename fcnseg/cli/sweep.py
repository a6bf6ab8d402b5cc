"""A sweep: with `-m`, one command runs a job for each combination of the values that it lists."""

import gc
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from fcnseg.cli.arguments import Arguments, quoted
from fcnseg.cli.configs import default_values
from fcnseg.cli.journal import Journal, last_line, new_record
from fcnseg.cli.launchers import prepare_launcher
from fcnseg.cli.messages import FAILED, console, explanation, leave
from fcnseg.errors import StopError, warn
from fcnseg.machine.files import write_json
from fcnseg.runs.folder import Run


def sweep(arguments: Arguments, launch: Callable[[Namespace], None]) -> None:
    """Run the jobs of a sweep and print the table of their outcomes; exit with 1 unless all have finished.

    Args:
        arguments: The command line, which names the folder of runs, the launcher and the values of the sweep.
        launch: The function that starts Hydra with the given flags.
    """
    runs = arguments.values.get("runs", "runs")
    journal = Journal(Path(runs if isinstance(runs, str) else "runs"))  # a sweep over it, such as runs=a,b, is not text
    overrides = [*arguments.flags.overrides, f"hydra.sweep.dir={quoted(str(journal.folder.absolute()))}"]
    try:
        prepare_launcher(str(arguments.values.get("hydra/launcher")), journal)
        launch(Namespace(**{**vars(arguments.flags), "multirun": True, "overrides": overrides}))
    finally:
        finished = journal.close(console())
    if not finished:
        leave("not every job has finished; the same command repeats those that have not", FAILED)


def run_job(cfg: DictConfig, check: Callable[[DictConfig], None], job: Callable[[DictConfig], object]) -> object:
    """Run one job of a sweep and write its result, or its error, into the journal. Only a request to stop is raised again.

    Args:
        cfg: The config that the job is run with.
        check: The function that raises if a value in the config is wrong.
        job: The function that does the work and returns the mIoU.
    """
    hydra_cfg = HydraConfig.get()
    record, started = new_record(hydra_cfg.overrides.task), time.perf_counter()
    path = Path(hydra_cfg.sweep.dir) / f"{hydra_cfg.job.num}.json"
    write_json(path, record)
    try:
        with isolated(), chdir(hydra_cfg.runtime.cwd):  # Hydra has changed to the sweep's folder
            check(cfg)
            run = Run.of(cfg, default_values)
            record["run"], done = run.path.name, "skipped" if run.is_finished(cfg) else "finished"
            write_json(path, record)
            record |= {"miou": job(cfg), "status": done}
    except (KeyboardInterrupt, StopError):
        record["status"] = "interrupted"
        raise
    except Exception as error:
        message = explanation(error)
        record |= {"status": "failed", "error": last_line(message)}
        warn(message)
    finally:
        # First of all: on Ctrl-C, a launcher may kill this process a second later.
        write_json(path, {**record, "seconds": round(time.perf_counter() - started, 1)})
        gc.collect()  # here: while it is handled, an error keeps the network and the images of its job in memory
        if torch := sys.modules.get("torch"):
            torch.cuda.empty_cache()
    return record.get("miou")


@contextmanager
def isolated() -> Iterator[None]:
    """Undo the `with` block's changes to the environment, PyTorch's determinism and wandb, for this process's next job."""
    from unittest.mock import patch  # late: it takes a tenth of the time in which a wrong command is refused

    try:
        with patch.dict(os.environ):
            yield
    finally:
        if torch := sys.modules.get("torch"):
            torch.use_deterministic_algorithms(False)
            torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = False
        if wandb := sys.modules.get("wandb"):
            wandb.finish()  # otherwise the next job would log into this one's run
