"""The processes of a run, one for each of its devices: how they start, and how they end.

Lightning's DDP starts and connects them. Their communication is in `distributed`.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from subprocess import Popen
from threading import Thread
from typing import TYPE_CHECKING, Any, cast

from fcnseg.errors import DivergedError, LostError, StopError
from fcnseg.texts import warn

if TYPE_CHECKING:
    from lightning import Trainer  # whose import takes seconds, and a refused command does not need it
    from lightning.fabric.plugins import ClusterEnvironment

TORCHRUN = "TORCHELASTIC_RUN_ID"  # the environment variable by which torchrun is known
PARENT = "FCNSEG_PARENT"  # the environment variable that tells a process which one has started it
GRACE = 30  # seconds that the first process has to end by itself after another one has failed


def devices_and_machines(trainer: Mapping[Any, Any]) -> tuple[int, int]:
    """The devices of each machine, and the machines, that the settings of a trainer ask for."""
    devices = trainer["devices"]
    several = isinstance(devices, Sequence) and not isinstance(devices, str)
    return len(devices) if several else int(devices), int(trainer.get("num_nodes", 1))


def environment(devices: int, nodes: int) -> "ClusterEnvironment":
    """Lightning's description of how the processes are started: by torchrun, by srun, or by Lightning itself.

    Raises:
        ValueError: torchrun or srun has started another number of processes.
    """
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    cluster: ClusterEnvironment
    if TORCHRUN in os.environ:
        cluster = TorchElasticEnvironment()
    elif int(os.environ.get("SLURM_NTASKS", 1)) > 1:
        os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(devices))  # without it Lightning refuses srun --ntasks
        cluster = SLURMEnvironment(auto_requeue=False)
    else:
        cluster = LightningEnvironment()
        cluster.set_world_size(devices * nodes)
        cluster.set_global_rank(cluster.node_rank() * devices + cluster.local_rank())
    if (started := cluster.world_size()) != devices * nodes:
        raise ValueError(
            f"torchrun or srun has started {started} processes, wanted {devices * nodes}: one for each of"
            f" trainer.devices={devices} devices on each of trainer.num_nodes={nodes} machines"
        )
    return cluster


def start_processes(trainer: "Trainer") -> None:
    """Start the other processes of a run on several devices, unless torchrun or srun has, and connect all.

    Raises:
        ValueError: The run was started from Python, in which there is no command that could be started again.
    """
    if (launcher := trainer.strategy.launcher) is None:
        return
    from lightning.pytorch.strategies.launchers import subprocess_script

    cluster, main = cast(Any, trainer.strategy).cluster_environment, cast(Any, sys.modules["__main__"])
    if not cluster.creates_processes_externally and getattr(main.__spec__, "name", "") != "fcnseg.train":
        raise ValueError("from Python, a run cannot start other processes: use the command line, or torchrun")
    # Lightning's own watcher also kills this process, before it has said or written why.
    vars(subprocess_script)["_launch_process_observer"] = partial(_end_after, _failure_of_a_child)
    # Its handler of SIGTERM, and its look for one in each step, wait for the GPU; `Checkpoints` does both.
    cast(Any, trainer)._signal_connector.register_signal_handlers = lambda: None
    cast(Any, trainer).fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
    os.environ.setdefault(PARENT, str(os.getpid()))
    launcher.launch(trainer.strategy.setup_environment, trainer=trainer)


def _end_after(wait: Callable[..., None], *args: object) -> None:
    """End this process when `wait` returns, even if it waits for another process on a GPU."""

    def watch() -> None:
        wait(*args)
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _failure_of_a_child(children: list[Popen[bytes]]) -> None:
    """Wait until another process has failed, then give this one time to write why, unless it waits for that process."""
    while all(child.poll() in (None, 0) for child in children):
        time.sleep(0.2)
    time.sleep(GRACE)
    warn("a process of this run has ended: the same command resumes from the last save")


def _end_of_parent(parent: int) -> None:
    """Wait until the process that has started this one is gone."""
    while os.getppid() == parent:
        time.sleep(1)


@contextmanager
def only_the_first_prints(trainer: Mapping[Any, Any]) -> Iterator[None]:
    """Let only the first process of a run print in the `with` block.

    The others are silent, unless one fails for a reason that the first cannot know.

    Args:
        trainer: The settings of the trainer; the processes of its run are not connected yet.

    Raises:
        ValueError: See `environment`.
    """
    devices, nodes = devices_and_machines(trainer)
    is_alone = devices * nodes == 1 and TORCHRUN not in os.environ
    if is_alone or environment(devices, nodes).global_rank() == 0:
        yield
        return
    if "LOCAL_RANK" in os.environ:  # another process of ours, or torchrun's, has started this one
        _end_after(_end_of_parent, int(os.environ.get(PARENT, os.getppid())))
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        try:
            yield
        except StopError as error:
            sys.exit(128 + error.signum)
        except KeyboardInterrupt:
            sys.exit(130)
        except (DivergedError, LostError):  # which the first process tells of
            sys.exit(1)
