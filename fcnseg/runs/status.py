"""The status of a run: its file status.json, which says whether the run goes on or how it has ended, and why."""

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from fcnseg.machine.files import read_json, write_json
from fcnseg.names import FINISHED, KILLED, RESULT, RUNNING, STATUS
from fcnseg.texts import warn


def read(folder: Path) -> dict[str, Any] | None:
    """The content of status.json; None without the file.

    Its `status` is running, finished, failed, interrupted, or killed (recorded as running, but its process is gone).

    Raises:
        ValueError: The file is damaged.
    """
    status = read_json(folder / STATUS)
    if status and (folder / RESULT).exists():  # a training removes it first: the run was killed before it had recorded its end
        return {**status, "status": FINISHED}
    if not status or status.get("status") != RUNNING:
        return status
    # The number of a process says nothing on another machine, which may share the disk.
    is_gone = status.get("host") == platform.node() and not _is_alive(status.get("pid"))
    return {**status, "status": KILLED if is_gone else RUNNING}


def begin(folder: Path, **began: str) -> None:
    """Write that this process trains the run, and what the file keeps of the beginning."""
    write_json(folder / STATUS, {"status": RUNNING, **_process(), **began, "started": _now()})


def is_of_this_process(folder: Path) -> bool:
    """Whether the folder has the status that this process began."""
    return _is_own(read_json(folder / STATUS) or {})


def end(folder: Path, status: str, **more: str) -> None:
    """Write how the run has ended, unless another process has taken it over; a full disk is not an error."""
    before = read_json(folder / STATUS) or {}
    taken_over = before.get("status") == RUNNING and not _is_own(before)
    if taken_over or not folder.is_dir():  # the run belongs to another process now, or was removed
        return
    if (folder / RESULT).exists():  # a signal came after the end
        status = FINISHED
    path, now = folder / STATUS, {**before, "status": status, "ended": _now()}
    try:
        write_json(path, {**now, **more})
    except OSError:  # the disk is full, but the existing file can still be changed
        try:
            with path.open("r+") as file:
                json.dump(now, file)
                file.truncate()
        except OSError as error:
            warn(f"{path} could not be written: {error.strerror}")


def _process() -> dict[str, Any]:
    """The values that distinguish this process from all others."""
    return {"host": platform.node(), "pid": os.getpid()}


def _is_own(status: dict[str, Any]) -> bool:
    return {**status, **_process()} == status


def _is_alive(pid: object) -> bool:
    """Whether a process with this number runs on this machine."""
    try:
        os.kill(int(str(pid)), 0)  # the signal 0 only asks whether the process exists
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    except PermissionError:  # the process of another user
        return True
    return True


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
