"""One run in several processes: the numbers of one, whoever starts them, stops them or kills one of them."""

import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
from injection import at, content, differences, fill, kill, load, rows, run, send, start, tiny, wait_until
from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.pytorch.strategies.launchers import subprocess_script

from fcnseg import fit
from fcnseg.callbacks.checkpoints import Checkpoints
from fcnseg.learning.divided_task import DividedTask
from fcnseg.learning.task import SegmentationTask
from fcnseg.machine import precision
from fcnseg.machine.files import read_json
from fcnseg.results import scoring
from fcnseg.results.per_image import PerImage
from fcnseg.runs.checkpoint_files import newest_good

ENDED = 60  # seconds, on a busy machine


def torchrun(rank, world, port):
    return {
        **{"TORCHELASTIC_RUN_ID": "none", "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world},
        **{"LOCAL_WORLD_SIZE": world, "GROUP_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
    }


def srun(rank, world, port):
    return {
        **{"SLURM_JOB_ID": 1, "SLURM_JOB_NAME": "train", "SLURM_NTASKS": world, "SLURM_NODEID": 0},
        **{"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": port},
    }


def begin(cwd, world, *args, by=torchrun, inject=None):
    """Start the processes of a run, as torchrun or srun would; `inject(rank)` is called in each of them."""
    port = find_free_network_port()

    def prepare(rank):
        os.environ.update({name: str(value) for name, value in by(rank, world, port).items()})
        if inject:
            inject(rank)

    words = [*args, f"trainer.devices={world}"]
    return [start(cwd, *words, inject=partial(prepare, rank)) for rank in range(world)]


def run_in(cwd, world, *args, **how):
    """The outcomes of all processes of a run that has ended."""
    return [process.wait(ENDED) for process in begin(cwd, world, *args, **how)]


def finish_in(cwd, world, *args, **how):
    """The folder of a run that all processes have finished without an error."""
    outcomes = run_in(cwd, world, *args, **how)
    assert [outcome.code for outcome in outcomes] == [0] * world, [outcome.err for outcome in outcomes]
    assert "".join(outcome.out + outcome.err for outcome in outcomes[1:]) == ""  # only the first prints
    return cwd / "runs" / "run"


def only(rank, *what):
    """An `inject` that does `at(*what)` in one process."""
    return lambda number: at(*what) if number == rank else None


def test_all_processes_take_the_first_ones_precision(tmp_path, data):
    """trainer.precision=auto may choose another one on each of two machines."""
    words = [word for word in tiny(data) if not word.startswith("trainer.precision")]

    def inject(rank):
        precision.bf16_gain = fit.bf16_gain = lambda threads: 0.0 if rank else 2.0
        seen = tmp_path / f"rank{rank}"
        at(DividedTask, "training_step", 1, lambda *_: seen.write_text(str(torch.is_autocast_enabled("cpu"))))

    run = finish_in(tmp_path, 2, *words, "trainer.precision=auto", inject=inject)
    assert read_json(run / "result.json")["precision"] == "bf16-mixed"
    assert [(tmp_path / f"rank{rank}").read_text() for rank in range(2)] == ["True", "True"]


@pytest.fixture
def unet(data):
    """20 steps of U-Net in four epochs; the last batch of each has 4 of 6 images. By SGD: Adam magnifies rounding."""
    words = [word for word in tiny(data, "unet")[:-5] if not word.startswith(("loss=", "data.batch", "data.source"))]
    size = ["data.batch_size=6", "data.source.train=28", "data.source.val=20", "trainer.max_epochs=4"]
    words = [word for word in words if not word.startswith("trainer.max_epochs")]
    return [*words, *size, "trainer.precision=32-true", "optimizer=sgd", "optimizer.lr=0.01", "name=run"]


def assert_close(one, other):
    """Losses and weights differ by less than 1e-5."""
    states = [load(path / "checkpoints" / "last.ckpt") for path in (one, other)]
    for key, value in states[0]["state_dict"].items():
        torch.testing.assert_close(value, states[1]["state_dict"][key], rtol=0, atol=1e-5, msg=key)
    for row, wanted in zip(rows(one), rows(other), strict=True):
        assert {key: float(row[key]) for key in row if "loss" in key} == pytest.approx(
            {key: float(wanted[key]) for key in row if "loss" in key}, abs=1e-5
        )


def test_two_processes_train_as_one(tmp_path, unet):
    assert run(tmp_path, *unet, "runs=alone").code == 0
    alone = tmp_path / "alone" / "run"
    together = finish_in(tmp_path, 2, *unet)
    assert load(alone / "checkpoints" / "last.ckpt")["global_step"] == 20
    assert float(rows(alone)[-1]["train/loss"]) < 0.95 * float(rows(alone)[0]["train/loss"])  # it trains
    assert_close(together, alone)
    assert read_json(together / "result.json")["sessions"][0]["device"].startswith("2 x CPU")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "more"),
    [
        (3, []),
        (1, ["+trainer.accumulate_grad_batches=3"]),
        (2, ["+trainer.accumulate_grad_batches=3"]),
        (3, ["loss=weighted"]),
        (3, ["loss=label_smoothing", "ema=0.9", "+trainer.gradient_clip_val=0.5", "schedule=poly"]),
        (3, ["aug=strong", "+aug@aug.mix=classmix", "+aug@aug.cut=cutmix", "data.pack_size=48"]),
        (2, ["data.batch_size=2", "data.source.train=3"]),  # the third image joins the first batch
        (3, ["data.batch_size=3", "data.source.train=5"]),  # a process without an image
    ],
    ids=str,
)
def test_any_number_of_processes_trains_as_one(tmp_path, unet, world, more):
    alone = [word for word in more if "accumulate" not in word]
    assert run(tmp_path, *unet, *alone, "runs=alone").code == 0
    assert_close(finish_in(tmp_path, world, *unet, *more), tmp_path / "alone" / "run")


def test_the_scores_of_a_checkpoint_are_those_of_one_process(tmp_path, args):
    """Five batches on three processes: one of them gets a batch twice."""
    args = [*args, "data.batch_size=6", "data.source.val=28"]
    assert run(tmp_path, *args, inject=partial(at, scoring, "measure", 1, kill)).code == -9
    shutil.copytree(tmp_path / "runs", tmp_path / "others" / "runs")
    found = finish_in(tmp_path / "others", 3, *args)
    assert run(tmp_path, *args).code == 0
    wanted = tmp_path / "runs" / "run"
    for name in ("metrics", "iou", "confusion", "calibration", "images"):
        assert read_json(found / "result.json")[name] == read_json(wanted / "result.json")[name], name
    one, other = (vars(PerImage.read(path / "images.npz")) for path in (found, wanted))
    assert all((one[name] == other[name]).all() for name in one)


@pytest.fixture(scope="session")
def unbroken_pair(tmp_path_factory, data):
    """A run of two processes, with dropout, that nothing has disturbed."""
    return content(finish_in(tmp_path_factory.mktemp("pair"), 2, *tiny(data, "dropping")))


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_all_and_the_same_command_goes_on(tmp_path, data, unbroken_pair, killed):
    args, path = tiny(data, "dropping"), tmp_path / "runs" / "run"
    inject = only(killed, DividedTask, "training_step", 5, kill)
    outcomes = run_in(tmp_path, 2, *args, inject=inject)
    assert [outcomes[killed].code, outcomes[1 - killed].code] == [-9, 1], outcomes
    assert outcomes[1].err == ""
    if killed == 1:
        assert "another process of the run has ended" in outcomes[0].err
        assert read_json(path / "status.json")["status"] == "failed"
    finish_in(tmp_path, 2, *args)
    assert differences(content(path), unbroken_pair) == []


@pytest.mark.parametrize("asked", [0, 1])
def test_a_signal_to_one_process_stops_all_with_one_state(tmp_path, data, unbroken_pair, asked):
    args, path = [*tiny(data, "dropping"), "checkpoint.every_n_steps=null"], tmp_path / "runs" / "run"
    inject = only(asked, DividedTask, "training_step", 5, send(signal.SIGTERM))
    outcomes = run_in(tmp_path, 2, *args, inject=inject)
    assert [outcome.code for outcome in outcomes] == [143, 143], outcomes
    assert "stopped by SIGTERM: the same command resumes" in outcomes[0].err
    assert outcomes[1].err == ""
    assert read_json(path / "status.json")["status"] == "interrupted"
    assert load(newest_good(path / "checkpoints"))["global_step"] == 5
    finish_in(tmp_path, 2, *args)
    assert differences(content(path), unbroken_pair) == []


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["on_validation_start", "validation_step", "on_validation_epoch_end"])
def test_a_signal_around_a_validation_stops_all(tmp_path, data, unbroken_pair, moment):
    args = [*tiny(data, "dropping"), "checkpoint.every_n_steps=null"]
    outcomes = run_in(tmp_path, 2, *args, inject=only(1, DividedTask, moment, 1, send(signal.SIGTERM)))
    assert [outcome.code for outcome in outcomes] == [143, 143], outcomes
    finish_in(tmp_path, 2, *args)
    assert differences(content(tmp_path / "runs" / "run"), unbroken_pair) == []


def test_a_full_disk_for_a_while_stops_no_process(tmp_path, data, unbroken_pair, small_disk):
    def inject(rank):
        if rank == 0:
            at(Checkpoints, "_save_last", 4, lambda *_: fill(small_disk))
            at(Checkpoints, "_save_last", 5, lambda *_: (small_disk / "filler").unlink())

    outcomes = run_in(tmp_path, 2, *tiny(data, "dropping"), "runs='small disk'", inject=inject)
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert [outcome.err.count("saving failed") for outcome in outcomes] == [1, 0]
    assert differences(content(small_disk / "run"), unbroken_pair) == []


def test_a_disk_full_to_the_end_ends_all(tmp_path, data, small_disk):
    inject = only(0, Checkpoints, "_save_last", 6, lambda *_: fill(small_disk))
    outcomes = run_in(tmp_path, 2, *tiny(data), "runs='small disk'", inject=inject)
    assert [outcome.code for outcome in outcomes] == [1, 1]
    assert "could not be saved: make room" in outcomes[0].err
    assert outcomes[1].err == ""


def test_a_run_goes_on_with_another_number_of_processes(tmp_path, unet):
    """Two to the seventh step, one to the fourteenth, then three."""
    assert run(tmp_path, *unet, "runs=alone").code == 0
    outcomes = run_in(tmp_path, 2, *unet, inject=only(0, DividedTask, "training_step", 7, send(signal.SIGTERM)))
    assert [outcome.code for outcome in outcomes] == [143, 143]
    inject = partial(at, SegmentationTask, "training_step", 7, send(signal.SIGTERM))
    outcome = run(tmp_path, *unet, inject=inject)
    assert (outcome.code, "(before: 2 x CPU" in outcome.err) == (143, True), outcome.err
    third = run_in(tmp_path, 3, *unet)
    assert [outcome.code for outcome in third] == [0, 0, 0]
    assert "is resumed with device 3 x CPU" in third[0].err
    found = read_json(tmp_path / "runs" / "run" / "result.json")["sessions"]
    assert [part["device"][:3] for part in found] == ["2 x", "CPU", "3 x"]
    assert_close(tmp_path / "runs" / "run", tmp_path / "alone" / "run")


def test_a_finished_run_is_shown_once(tmp_path, data):
    args = tiny(data)
    finish_in(tmp_path, 2, *args)
    outcomes = run_in(tmp_path, 2, *args)
    assert [outcome.code for outcome in outcomes] == [0, 0]
    assert ["has finished" in outcome.out for outcome in outcomes] == [True, False]


def test_a_second_start_of_a_run_is_refused(tmp_path, data):
    args = tiny(data)

    def inject(rank):
        at(DividedTask, "training_step", 2, lambda *_: time.sleep(20 if rank == 0 else 0))

    first = begin(tmp_path, 2, *args, inject=inject)
    while not (tmp_path / "runs" / "run" / "checkpoints" / "last.ckpt").exists():
        time.sleep(0.1)
    second = run_in(tmp_path, 2, *args)
    assert [outcome.code for outcome in second] == [2, 2]
    assert ["another process trains" in outcome.err for outcome in second] == [True, False]
    first[1].send(signal.SIGKILL)
    first[0].send(signal.SIGKILL)
    assert [process.wait().code for process in first] == [-9, -9]


def test_a_process_that_fails_alone_says_why(tmp_path, data):
    def fail(*_):
        raise MemoryError("no room for the third step")

    outcomes = run_in(tmp_path, 2, *tiny(data), inject=only(1, DividedTask, "training_step", 3, fail))
    assert [outcome.code for outcome in outcomes] == [1, 1]
    assert "process 2 of 2 failed: MemoryError" in outcomes[1].err
    assert "another process of the run has ended" in outcomes[0].err


def test_a_loss_that_is_no_number_is_told_once(tmp_path, data):
    def broken(task, *_):
        with torch.no_grad():
            next(task.parameters()).fill_(torch.nan)

    outcomes = run_in(tmp_path, 2, *tiny(data), inject=only(1, DividedTask, "training_step", 3, broken))
    assert [outcome.code for outcome in outcomes] == [1, 1]
    assert "DivergedError: the loss of step 2" in outcomes[0].err
    assert outcomes[1].err == ""


def test_srun_starts_a_run(tmp_path, data):
    finish_in(tmp_path, 2, *tiny(data), by=srun)


def test_another_number_of_processes_than_wanted_is_refused(tmp_path, data):
    port = find_free_network_port()
    for by, world in ((torchrun, 1), (srun, 2)):
        environment = {name: str(value) for name, value in by(0, 3, port).items()}
        outcome = run(tmp_path, *tiny(data), f"trainer.devices={world}", inject=partial(os.environ.update, environment))
        assert outcome.code == 2
        assert f"has started 3 processes, wanted {world}" in outcome.err


def test_a_run_in_several_processes_is_not_started_from_python(tmp_path, data):
    outcome = run(tmp_path, *tiny(data), "trainer.devices=2")
    assert (outcome.code, "use the command line, or torchrun" in outcome.err) == (2, True), outcome.err


def command(*words):
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return lambda cwd: subprocess.Popen([sys.executable, *words], cwd=cwd, env=environment, **pipes)


def descendants(pid):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    children = [int(word) for word in found.stdout.split()]
    return [*children, *(pid for child in children for pid in descendants(child))]


def is_alive(pid):
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return bool(found.stdout.strip()) and "Z" not in found.stdout


@pytest.mark.slow
def test_lightning_starts_a_run(tmp_path, unet):
    """By the console script, in whose place `python -m` is started for the second process."""
    started = command("-m", "fcnseg", "train", *unet, "trainer.devices=2")(tmp_path)
    out, err = started.communicate(timeout=300)
    assert started.returncode == 0, err
    assert (out.count("epoch 1/4"), out.count("everything is in"), err) == (1, 1, "")
    assert run(tmp_path, *unet, "runs=alone").code == 0
    assert_close(tmp_path / "runs" / "run", tmp_path / "alone" / "run")


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["first", "second"])
def test_no_process_of_a_run_outlives_the_others(tmp_path, unet, killed):
    started = command("-m", "fcnseg.train", *unet, "trainer.devices=2", "trainer.max_epochs=9999", "patience=null")(tmp_path)
    wait_until((tmp_path / "runs" / "run" / "metrics.csv").exists, 300)
    (second,) = [pid for pid in descendants(started.pid)]
    os.kill(started.pid if killed == "first" else second, signal.SIGKILL)
    _, err = started.communicate(timeout=120)
    wait_until(lambda: not is_alive(second), 60)
    if killed == "second":
        assert (started.returncode, "another process of the run has ended" in err) == (1, True), err
        assert read_json(tmp_path / "runs" / "run" / "status.json")["status"] == "failed"


@pytest.mark.slow
def test_two_machines_started_by_torchrun(tmp_path, unet):
    port = find_free_network_port()
    how = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", f"--master-port={port}"]
    words = ["-m", "fcnseg.train", *unet, "+trainer.num_nodes=2"]
    machines = [command(*how, f"--node-rank={rank}", *words)(tmp_path) for rank in (0, 1)]
    ends = [(*machine.communicate(timeout=300), machine.returncode) for machine in machines]
    assert [code for *_, code in ends] == [0, 0], ends
    assert ["epoch 1/4" in out for out, *_ in ends] == [True, False]
    assert run(tmp_path, *unet, "runs=alone").code == 0
    assert_close(tmp_path / "runs" / "run", tmp_path / "alone" / "run")


def test_the_private_parts_that_processes_replaces_are_in_the_installed_lightning():
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    assert callable(subprocess_script._launch_process_observer)
    assert callable(trainer._signal_connector.register_signal_handlers)
    assert callable(trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor)
