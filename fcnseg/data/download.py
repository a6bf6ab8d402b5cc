"""Fetching VOC-2012: an archive resumed, verified and unpacked so that nobody ever sees half a data set."""

import hashlib
import os
import shutil
import tarfile
import time
from collections.abc import Iterator, Sequence
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import cast
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from fcnseg.data import voc

_CHUNK = 1 << 18  # bytes
_TIMEOUT = 30.0  # seconds without a byte
_TRIES = 4  # of one mirror that cuts the connection
_PAUSE = 1.0  # seconds between two of them


class _MirrorError(Exception):
    """What a mirror answered instead of the archive."""


class _CutError(_MirrorError):
    """The mirror stopped half-way; what came so far is worth keeping."""


def voc2012(root: Path, *, urls: Sequence[str], md5: str) -> voc.Folder:
    """Finds VOC-2012 under `root`, or downloads it there (2 GB); one process does it, the others wait.

    An archive put into `root` by hand is taken before the network and kept.

    Args:
        root: Need not exist, its parent must.
        urls: Mirrors of one archive, tried in this order.
        md5: Of the whole archive, in hexadecimal digits.

    Raises:
        ValueError: `root` looks mistyped, no mirror has the archive, or the archive is a wrong or unsafe one.
        OSError: the disk is full or `root` not writable; the next call resumes the download.
    """
    if folder := voc.Folder.find(root):
        return folder
    if not root.exists() and not root.parent.exists():
        raise ValueError(f"no folder {root}, nor {root.parent}: wanted VOC-2012's; correct the path or create it")
    if not urls:
        raise ValueError(f"no VOC-2012 in {root} and no mirror to download it from: name at least one URL")
    root.mkdir(exist_ok=True)
    with FileLock(root / ".voc2012.lock"):
        return voc.Folder.find(root) or _install(root, urls, md5)


def _install(root: Path, urls: Sequence[str], md5: str) -> voc.Folder:
    target = root / "VOCdevkit" / "VOC2012"
    if target.exists():
        raise ValueError(f"{target} exists, but without ImageSets/Segmentation: complete it, or move it away")
    archive = root / PurePosixPath(urlsplit(urls[0]).path).name
    if archive.exists():
        if (found := _md5(archive)) != md5:
            raise ValueError(f"{archive} has md5 {found}, wanted {md5}: delete it, or put the whole archive there")
        return _extract(archive, target)
    part = archive.with_name(f"{archive.name}.part")  # keeps this name when whole: it marks the file as ours to delete
    if not part.exists() or _md5(part) != md5:
        _download(part, urls, md5, by_hand=archive)
    try:
        folder = _extract(part, target)
    except ValueError:
        part.unlink()
        raise
    part.unlink()
    return folder


def _download(part: Path, urls: Sequence[str], md5: str, *, by_hand: Path) -> None:
    answers = []
    for url in urls:
        try:
            return _download_from(url, part, md5)
        except _MirrorError as error:
            answers.append(f"  {url}: {error}")
    raise ValueError(
        "\n".join([f"no mirror sent {by_hand.name}:", *answers])
        + f"\ndownload {by_hand.name} (md5 {md5}) by hand and put it at {by_hand}, or try again later"
    )


def _download_from(url: str, part: Path, md5: str) -> None:
    """Completes and verifies `part`; a wrong file is discarded.

    Raises:
        _MirrorError: the mirror has not, or not reliably, what `md5` wants.
    """
    resumed = part.exists()
    for left in reversed(range(_TRIES)):
        try:
            _receive(url, part)
            break
        except _CutError:
            if not left:
                raise
            time.sleep(_PAUSE)
    if (found := _md5(part)) != md5:
        part.unlink()
        if not resumed:
            raise _MirrorError(f"a file with md5 {found}, wanted {md5}")
        _download_from(url, part, md5)  # the earlier bytes, of another run or mirror, may have been the wrong ones


def _receive(url: str, part: Path) -> None:
    """Appends to `part` what it lacks, or starts anew if the mirror will not resume."""
    have = part.stat().st_size if part.exists() else 0
    with _open(url, have) as answer, _progress() as progress:
        resumes = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        have = have if resumes else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        progress.console.print(f"downloading {url} to {part}" + f", from byte {have:,}" * resumes, soft_wrap=True)
        task = progress.add_task("", total=total, completed=have)
        with part.open("ab" if resumes else "wb") as file:
            for chunk in _chunks(answer):
                file.write(chunk)
                have += len(chunk)
                progress.update(task, completed=have)
    if total is not None and have < total:  # http.client takes an early end for the end
        raise _CutError(f"the connection ended at byte {have:,} of {total:,}")


def _open(url: str, start: int) -> HTTPResponse:
    headers = {"User-Agent": "fcnseg"}  # some servers turn Python's own away
    try:
        request = Request(url, headers=headers | ({"Range": f"bytes={start}-"} if start else {}))
        answer = cast(HTTPResponse, urlopen(request, timeout=_TIMEOUT))
    except HTTPError as error:
        error.close()
        if error.code == 416 and start:  # nothing lies beyond `start`: our bytes are not this file's
            return _open(url, 0)
        raise _MirrorError(str(error)) from error
    except (OSError, HTTPException, ValueError) as error:
        raise _MirrorError(str(error)) from error
    if answer.headers.get_content_type() == "text/html":
        answer.close()
        raise _MirrorError("a web page, wanted an archive")
    return answer


def _chunks(answer: HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := answer.read1(_CHUNK):  # read() would lose, when the connection breaks, what it had gathered
            yield chunk
    except (OSError, HTTPException) as error:
        raise _CutError(f"the connection broke: {error}") from error


def _progress() -> Progress:
    """A bar for people; log files get what is printed above it and no bar."""
    console = Console(stderr=True, highlight=False, markup=False)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _extract(archive: Path, target: Path) -> voc.Folder:
    """Unpacks beside `target`'s parent and moves the finished folder to `target`, all at once."""
    staging = archive.parent / ".voc2012.unpacking"  # always this name: the next call clears what a kill left
    if staging.exists():
        shutil.rmtree(staging)
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(staging, filter=_inside)
        if (unpacked := voc.Folder.find(staging)) is None:
            raise ValueError(f"{archive} holds no VOCdevkit/VOC2012: correct the URL and md5")
        (unpacked.path / ".complete").touch()
        target.parent.mkdir(exist_ok=True)
        os.replace(unpacked.path, target)
    except tarfile.TarError as error:
        raise ValueError(f"refused to unpack {archive}: {error}; get VOC-2012's own archive") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return voc.Folder(target)


def _inside(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
    if PurePosixPath(member.name).is_absolute():  # the filter "data" would only strip the slash
        raise tarfile.AbsolutePathError(member)
    return tarfile.data_filter(member, path)
