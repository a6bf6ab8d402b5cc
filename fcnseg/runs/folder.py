"""The run folder: its files, and the checks before it is written to."""

import shutil
import traceback
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from fcnseg.errors import RunFailedError, StopError
from fcnseg.machine.files import read_json, write_json, write_text
from fcnseg.names import (
    CHECKPOINTS,
    CONFIG,
    EVALUATIONS,
    FAILED,
    FINISHED,
    HYDRA,
    INTERRUPTED,
    LOCK,
    METRICS,
    PER_IMAGE,
    RESULT,
    STATUS,
)
from fcnseg.results.per_image import PerImage
from fcnseg.runs import identity, older, read_files, status
from fcnseg.settings.table import MAY_GROW


@dataclass(frozen=True)
class Run:
    """A run, finished or not. Each property is read from the files of its folder when it is used.

    Attributes:
        path: The folder of the run, which may not exist yet.
        defaults: Returns the default of every setting: see `cli.configs.default_values`. A run of an earlier version lacks
            some settings, and is compared as if it had their defaults.
    """

    path: Path
    defaults: identity.Defaults = identity.no_defaults

    @classmethod
    def of(cls, cfg: DictConfig, defaults: identity.Defaults = identity.no_defaults) -> "Run":
        """The run with the settings `cfg`, whose `name` comes from the user or from `identity.run_name`."""
        return cls(Path(cfg.runs) / str(cfg.name), defaults)

    @property
    def config(self) -> DictConfig:
        """The whole config that the run was started with: plain values without interpolations.

        Raises:
            ValueError: There is no run here, or its config is damaged.
        """
        path = self.path / CONFIG
        if not path.is_file():
            raise ValueError(f"no run in {self.path}: found no {path}; give the folder of a run, such as runs/<name>")
        return read_files.config(path)

    @property
    def status(self) -> dict[str, Any] | None:
        """The content of status.json; None without the file: see `status.read`."""
        return status.read(self.path)

    @property
    def result(self) -> dict[str, Any] | None:
        """The content of result.json, a `results.result.Result` unless somebody changed it; None unless the run has finished.

        Raises:
            ValueError: The file is damaged.
        """
        stored = read_json(self.path / RESULT, "remove it, and the command that trained the run tests it again")
        return None if stored is None else older.result(stored)

    @property
    def epochs(self) -> list[dict[str, float]]:
        """The rows of metrics.csv, one an epoch; empty if there is no such file.

        Raises:
            ValueError: The file is damaged.
        """
        path = self.path / METRICS
        return read_files.table(path) if path.exists() else []

    @property
    def checkpoints(self) -> Path:
        """The folder of last.ckpt, previous.ckpt and best.ckpt."""
        return self.path / CHECKPOINTS

    @contextmanager
    def recorded(self, cfg: DictConfig, **began: str) -> Iterator[None]:
        """Keep the status of a locked run up to date while it trains in the `with` block.

        Args:
            cfg: The run's whole config.
            began: What status.json keeps of the beginning, such as `data_fingerprint`.

        Raises:
            RunFailedError: The folder cannot be written, or the block raised; the traceback is in status.json.
        """
        try:
            try:  # the user can mend only errors of the folder
                self.start(cfg, **began)
            except OSError as error:
                raise self._unwritable(error) from error
            yield
        except StopError:  # a signal: no failure, since the same command resumes the run
            status.end(self.path, INTERRUPTED)
            raise
        except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
            status.end(self.path, INTERRUPTED)
            raise KeyboardInterrupt from None
        except BaseException as error:  # without its traceback here, the run would look as if it had been killed
            status.end(self.path, FAILED, error=f"{type(error).__name__}: {error}", traceback=traceback.format_exc())
            raise RunFailedError(f"{self.path} failed: {type(error).__name__}: {error}") from error
        status.end(self.path, FINISHED)
        # The block wrote the result, and `status.end` is silent without a folder.
        if self.result is None:
            raise RunFailedError(f"{self.path} was removed while the run ended: the same command trains it again")

    def check_own(self) -> None:
        """Stop if the folder is no longer the one in which this process began.

        Raises:
            FileNotFoundError: The folder was removed or renamed, or another process has made a new one.
        """
        if not status.is_of_this_process(self.path) or not (self.path / CONFIG).is_file():
            raise FileNotFoundError(
                f"the folder {self.path} was removed or replaced while its run trained: leave it in its place, and the same"
                " command trains the run again"
            )

    def locked(self) -> AbstractContextManager[object]:
        """Make the folder, and keep other processes out of it in the `with` block.

        Raises:
            ValueError: The folder cannot be written, leads elsewhere, or another process trains this run.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._check_no_links()  # before the lock, whose file might be a link, too
            return FileLock(self.path / LOCK).acquire(timeout=0)  # no waiting: the other process may train for days
        except Timeout as error:
            raise ValueError(f"another process trains the run {self.path}: wait for it, or choose another name=") from error
        except OSError as error:
            raise self._unwritable(error) from error

    def _check_no_links(self) -> None:
        """Refuse a folder with links in it: it may come from somebody else, and a run writes only into its own folder."""
        folders = (self.path, self.path / HYDRA, self.checkpoints)
        inside = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
        if links := [path for path in inside if path.is_symlink()]:
            raise ValueError(
                f"{links[0]} is a symbolic link, through which this run would write to {links[0].readlink()}: put that in"
                " the link's place, or choose another folder with runs= or name="
            )

    def _unwritable(self, error: OSError, remedy: str = "choose another with runs=") -> ValueError:
        """The error that the folder cannot be written."""
        return ValueError(f"cannot write the run folder {self.path}: {error.strerror}; make room there, or {remedy}")

    def is_finished(self, cfg: DictConfig) -> bool:
        """Whether `cfg` is done: there is a result, with at least the epochs and the patience that `cfg` asks for.

        Raises:
            ValueError: The run has other settings than `cfg`.
        """
        self.check_same(cfg)
        if cfg.resume == "never" or self.result is None:
            return False
        # A patience of null is an endless one. A longer run than `cfg` asks for is not trained again.
        return all((inf if had is None else had) >= (inf if now is None else now) for now, had in self._lengths(cfg))

    def _lengths(self, cfg: DictConfig) -> list[tuple[int | None, int | None]]:
        """For the epochs and for the patience, the value in `cfg` and the value in the run's config.

        A run of an earlier version may lack one of them: it counts as equal to `cfg`'s.
        """
        wanted, config = {key: OmegaConf.select(cfg, key) for key in MAY_GROW}, self.config
        return [(now, OmegaConf.select(config, key, default=now)) for key, now in wanted.items()]

    def check_same(self, cfg: DictConfig) -> None:
        """Refuse to resume a run under other settings than its own; more epochs or patience are allowed.

        Raises:
            ValueError: Settings differ (the message has a table of them), or the run has lost its config.
        """
        if cfg.resume == "never":
            return
        if not (self.path / CONFIG).is_file():
            if (self.path / RESULT).exists() or any(self.checkpoints.glob("*.ckpt")):
                raise ValueError(
                    f"the run {self.path} has lost its settings, found no {self.path / CONFIG}: restore the hidden folder"
                    " .hydra, choose another name=, or start over with resume=never"
                )
        elif differing := identity.differences(self.config, cfg, self.defaults):
            rows = [f"  {key}: {new} now, {old} then" for key, (old, new) in differing.items()]
            head = (
                f"the run {self.path} was made with other settings, or by a version with other defaults: give these, choose"
                " another name=, or start over with resume=never"
            )
            raise ValueError("\n".join([head, *rows]))

    def check_data(self, fingerprint: str) -> None:
        """Refuse to resume a run on other data than it began with.

        Raises:
            ValueError: The data set's files have changed.
        """
        before = (self.status or {}).get("data_fingerprint", fingerprint)
        if before != fingerprint:
            raise ValueError(
                f"the data set has changed since {self.path} began ({before} then, {fingerprint} now): put the files back,"
                " or start over with resume=never"
            )

    @property
    def per_image(self) -> PerImage | None:
        """The content of images.npz; None without such a file, as in a run of an earlier version.

        Raises:
            ValueError: The file is damaged.
        """
        return PerImage.read(self.path / PER_IMAGE)

    def add_per_image(self, findings: PerImage | None) -> None:
        """Write the findings of the run's own test in every image; do nothing for None.

        Raises:
            ValueError: The folder cannot be written, or leads elsewhere.
        """
        if findings:
            self._check_no_links()
            try:
                findings.write(self.path / PER_IMAGE)
            except OSError as error:
                raise self._unwritable(error, "copy the run to where you can write") from error

    def add_evaluation(self, name: str, measured: Mapping[str, Any], findings: PerImage | None) -> Path:
        """Write the measurements of a later test beside the run's result, which stays unchanged.

        Raises:
            ValueError: The folder cannot be written, or leads elsewhere.
        """
        path = self.path / EVALUATIONS / f"{name}.json"
        try:
            self._check_no_links()
            path.parent.mkdir(exist_ok=True)
            if findings:
                findings.write(path.with_suffix(f".{PER_IMAGE}"))
            write_json(path, dict(measured))
        except OSError as error:
            raise self._unwritable(error, "copy the run to where you can write") from error
        return path

    def start(self, cfg: DictConfig, **began: str) -> None:
        """Set the status, remove the results of an earlier training, and store the config.

        The status comes first, so that it is true whenever the process may be killed.
        """
        status.begin(self.path, **began)
        for name in (RESULT, PER_IMAGE):
            (self.path / name).unlink(missing_ok=True)
        if cfg.resume == "never" and (self.path / HYDRA).is_dir():
            self._clear()
        self.checkpoints.mkdir(exist_ok=True)
        (self.path / HYDRA).mkdir(exist_ok=True)
        write_text(self.path / CONFIG, OmegaConf.to_yaml(cfg, resolve=True))  # last: with it, the folder counts as a run

    def _clear(self) -> None:
        """Remove the files of an earlier run, checkpoints first and config last, so that a kill leaves no wrong pair."""
        kept = (LOCK, STATUS, HYDRA, self.checkpoints.name)
        others = [path for path in self.path.iterdir() if path.name not in kept]
        for path in [self.checkpoints, *others, self.path / HYDRA]:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
