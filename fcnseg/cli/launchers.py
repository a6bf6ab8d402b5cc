"""Changes to the launchers that give every job of a sweep a process of its own: Ray, for GPUs, and submitit, for SLURM."""

import os
import shutil
import time
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, cast

from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf

AddLost = Callable[[int, Iterable[str], Exception], JobReturn]  # `sweep.Journal.add_lost`
SECONDS_TO_SAVE = 60  # the time that jobs have to save their state after Ctrl-C


def prepare_launcher(name: str, add_lost: AddLost) -> None:
    """Let a sweep go on when the process of one job dies, and let Ctrl-C give the jobs time to save their state.

    Unchanged, the launchers give up the whole sweep after one killed job. On Ctrl-C, Ray kills its jobs at once, and
    submitit leaves them running.

    Args:
        name: The choice of `hydra/launcher`. A launcher that runs the jobs in this process needs no changes.
        add_lost: The function that records a job whose process has died.

    Raises:
        ValueError: The launcher is not installed, or there is no SLURM here.
    """
    prepare = {"gpus": _prepare_ray, "slurm": _prepare_submitit, "submitit_local": _prepare_submitit}.get(name)
    try:
        if prepare:
            prepare(add_lost)
    except ImportError as error:
        extra = "ray" if name == "gpus" else "slurm"
        raise ValueError(f'hydra/launcher={name} is not installed ({error}): pip install ".[{extra}]"') from error
    if name == "slurm" and not shutil.which("srun"):
        raise ValueError(
            "hydra/launcher=slurm found no srun on this machine: start the sweep on a machine of the cluster, or leave the"
            " launcher out, and the jobs run here one after the other"
        )


def _prepare_ray(add_lost: AddLost) -> None:
    """Replace the functions with which the launcher starts jobs and waits for them."""
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # a job uses this environment
    import ray
    import torch
    from hydra_plugins.hydra_ray_launcher import _core

    OmegaConf.register_new_resolver("gpus_a_job", lambda cluster: int(bool(cluster) or torch.cuda.is_available()), replace=True)
    launch, jobs = vars(_core)["launch_job_on_ray"], {}

    def launch_and_remember(context: Any, remote: Any, cfg: DictConfig, *rest: Any) -> Any:
        """Start a job as the launcher does, and keep the config that it was started with."""
        job = launch(context, remote, cfg, *rest)
        jobs[job] = cfg.hydra
        return job

    def get(job: Any) -> JobReturn:
        """Wait for a job; one whose process has died is added to the journal, and the others go on."""
        try:
            return cast(JobReturn, ray.get(job))
        except ray.exceptions.RayError as error:
            return add_lost(jobs[job].job.num, jobs[job].overrides.task, error)
        except KeyboardInterrupt:
            for other in jobs:
                ray.cancel(other)
            ray.wait([*jobs], num_returns=len(jobs), timeout=SECONDS_TO_SAVE)
            raise

    # The launcher uses nothing else of `ray`.
    vars(_core).update(launch_job_on_ray=launch_and_remember, ray=SimpleNamespace(get=get))


def _prepare_submitit(add_lost: AddLost) -> None:
    """Replace the methods with which submitit starts jobs and waits for them."""
    from submitit.core.core import Executor, Job
    from submitit.core.utils import UncompletedJobError

    launch, wait = Executor.map_array, Job.results
    jobs: list[Any] = []

    def launch_and_remember(*args: Any) -> list[Any]:
        """Start all jobs as the launcher does, and keep them."""
        jobs.extend(launch(*args))
        return jobs

    def results(job: Any) -> list[JobReturn]:
        """Wait for a job; one whose process has died is added to the journal, and the others go on."""
        try:
            return cast(list[JobReturn], wait(job))
        except UncompletedJobError as error:
            overrides, _, number, *_ = job.submission().args
            return [add_lost(number, overrides, error)]
        except KeyboardInterrupt:
            for other in jobs:
                other.cancel(check=False)
            deadline = time.monotonic() + SECONDS_TO_SAVE
            while time.monotonic() < deadline and not all(other.done() for other in jobs):
                time.sleep(1)
            raise

    cast(Any, Executor).map_array, cast(Any, Job).results = launch_and_remember, results
