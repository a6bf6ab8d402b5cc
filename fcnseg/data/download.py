"""Download of a data set: it is resumed after an interruption, checked by its md5, and unpacked whole or not at all."""

import hashlib
import multiprocessing
import re
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from http.client import HTTPException, HTTPResponse
from itertools import islice
from multiprocessing.pool import ThreadPool
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from fcnseg.data import formats, voc
from fcnseg.data.dataset import find_folder
from fcnseg.machine.files import build_once

ROOT = Path("data")  # the default of `data.root`
_CHUNK = 1 << 18  # bytes that are read at once
_TIMEOUT = 30.0  # seconds in which a mirror has to send _LEAST bytes
_LEAST = 1 << 16  # bytes
_MOST = 4 << 30  # bytes of the largest archive: twice VOC's
_TRIES = 4  # the number of times that a mirror is asked, if it ends the connection early
_PAUSE = 1.0  # seconds between two tries
_FOLDERS = 1000  # the most folders that are searched for a data set nearby


class _MirrorError(Exception):
    """A mirror sent something other than the archive."""


class _RetryError(_MirrorError):
    """A mirror did not send all of the archive, but may do so if it is asked again."""


@dataclass(frozen=True)
class Published:
    """A data set that is published as an archive.

    Attributes:
        title: Its name, for messages.
        places: Its possible folders below `data.root`; the first is the one that it is downloaded to.
        holds: A folder inside it by which it is recognised.
        nothing_found: A function that gives the message for a `data.root` without this data set.
    """

    title: str
    places: Sequence[str]
    holds: str
    nothing_found: Callable[[Path], str]


def nothing_found(root: Path) -> str:
    """The message that there is no data set in `root`: what was searched, what the folder holds, and what would work."""
    if files := formats.beyond_voc(root):
        return f"no VOC-2012 in data.root={root}: found {files.format}; add data=folder, which reads it"
    if near := next((path for path in islice(_nearby(root), _FOLDERS) if voc.VOCFolder.find(path)), None):
        remedy = f"data.root={near} would work"
    elif (root / voc.IMAGES).is_dir():
        remedy = f"write the names of its images into {voc.LISTS}/train.txt and val.txt, one a line"
    else:
        remedy = "give a folder in VOC's layout (README, Your data)"
    looked = " or ".join(str(root / place / voc.LISTS) for place in ("", *voc.PLACES))
    remedy = f"{remedy}, or data.download=true downloads VOC-2012 into {root} (2 GB)"
    return f"no data set in data.root={root}: looked for {looked}; {formats.contents(root)}; {remedy}"


def _nearby(root: Path) -> Iterator[Path]:
    """Folders that the user may have meant: below `root`, with a similar name, or above it."""
    above = next(path for path in (root, *root.parents) if path.is_dir())
    tops = [root]
    if above != root:
        name, *rest = root.relative_to(above).parts
        tops = [above / close for close in get_close_matches(name, [path.name for path in above.iterdir()])]
        yield from (top.joinpath(*rest) for top in tops)
    yield from (path for top in tops for depth in ("*", "*/*") for path in top.glob(depth) if path.is_dir())
    yield from root.parents[:2]


VOC_ARCHIVE = Published("VOC-2012", voc.PLACES, voc.LISTS, nothing_found)


def voc2012(root: Path, *, urls: Sequence[str], md5: str, download: bool | None = None) -> voc.VOCFolder:
    """Find VOC-2012 under `root`, or download it there (2 GB): see `find_or_download`.

    Raises:
        ValueError: See `find_or_download`; or the data set in `root` has classes of its own.
        OSError: See `find_or_download`.
    """
    path = find_or_download(VOC_ARCHIVE, root, urls=urls, md5=md5, download=download)
    if files := formats.beyond_voc(root):
        own = f"data.root={root} has classes of its own in {files.known.source}"
        raise ValueError(f"{own}, wanted VOC's 21: add data=folder, which reads them")
    return voc.VOCFolder(path, licence="PASCAL VOC-2012, whose photographs are flickr's, under the terms of use of flickr")


def find_or_download(data_set: Published, root: Path, *, urls: Sequence[str], md5: str, download: bool | None) -> Path:
    """The folder of a data set under `root`, which is downloaded first; one process does it while others wait.

    Args:
        data_set: The data set that is wanted: its folder, and how it is recognised.
        root: The folder for the data set; it is made if the folder above it exists. An archive that the user has put there
            is unpacked and kept.
        urls: The mirrors of the archive, tried in this order.
        md5: The md5 of the archive, in hexadecimal digits.
        download: Whether the data set may be downloaded, or the archive unpacked. None: only if `root` is `ROOT`, since a
            folder that the user has named should already hold a data set.

    Raises:
        ValueError: There is no data set in `root` and nothing may be downloaded, `root` looks mistyped, no mirror has the
            archive, or the archive is wrong or unsafe.
        OSError: The disk is full or `root` is not writable; the next call resumes the download.
    """
    target = root / data_set.places[0]
    in_the_way = target.exists()  # asked first, since another process may finish it before the next line
    if folder := find_folder(root, data_set.places, data_set.holds):
        return folder
    if in_the_way:
        raise ValueError(f"{target} exists, but without {data_set.holds}: complete it, or move it away")
    if not (root == ROOT if download is None else download):
        raise ValueError(data_set.nothing_found(root))
    title = data_set.title
    if not root.parent.exists():
        raise ValueError(f"no folder {root}, nor {root.parent}: wanted {title}'s; correct the path or create it")
    if not urls:
        raise ValueError(f"no {title} in {root} and no mirror to download it from: name at least one URL")
    name = PurePosixPath(urlsplit(urls[0]).path).name or f"{title}.tar"
    archive, draft = root / name, root / f"{name}.draft"  # a whole draft keeps its name: it is ours to delete
    build_once(target, partial(_install, data_set, archive, draft, urls, md5))
    draft.unlink(missing_ok=True)
    return target


def _install(data_set: Published, archive: Path, draft: Path, urls: Sequence[str], md5: str, target: Path) -> None:
    """Unpack `archive` into the empty folder `target`, or the download `draft` if nobody has put an archive there."""
    if archive.exists():
        if (found := _md5(archive)) != md5:
            raise ValueError(f"{archive} has md5 {found}, wanted {md5}: delete it, or put the whole archive there")
        return _unpack(data_set, archive, target)
    if not draft.exists() or _md5(draft) != md5:
        _download(draft, urls, md5, by_hand=archive)
    try:
        _unpack(data_set, draft, target)
    except ValueError:
        draft.unlink()
        raise


def _download(draft: Path, urls: Sequence[str], md5: str, *, by_hand: Path) -> None:
    """Complete `draft` from the first mirror that has the archive."""
    answers = []
    for url in urls:
        for left in reversed(range(_TRIES)):
            try:
                return _receive(url, draft, md5)
            except _MirrorError as error:
                if not left or not isinstance(error, _RetryError):
                    answers.append(f"\n  {url}: {error}")
                    break
            time.sleep(_PAUSE)
    raise ValueError(
        f"no mirror sent {by_hand.name}:{''.join(answers)}\n"
        f"download {by_hand.name} (md5 {md5}) by hand and put it at {by_hand}, or try again later"
    )


def _receive(url: str, draft: Path, md5: str) -> None:
    """Append the missing bytes to `draft`, or begin it anew if the mirror cannot resume; then check its md5.

    Raises:
        _MirrorError: The mirror does not have the archive, or does not send all of it.
    """
    have = draft.stat().st_size if draft.exists() else 0
    with _open(url, have) as answer, _progress() as progress:
        resumes = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        have = have if resumes else 0
        length = answer.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{0,15}", length) or int(length or 0) > _MOST:
            raise _MirrorError(f"a file of {length} bytes, wanted an archive of up to {_MOST:,}")
        total = have + int(length) if length else None
        start = f", from byte {have:,}" if resumes else ""
        progress.console.print(f"downloading {url} to {draft}{start}", soft_wrap=True)
        task = progress.add_task("", total=total, completed=have)
        with draft.open("ab" if resumes else "wb") as file:
            for chunk in _chunks(answer):
                file.write(chunk)
                have += len(chunk)
                if have > _MOST:
                    draft.unlink()
                    raise _MirrorError(f"more than {_MOST:,} bytes, wanted an archive")
                progress.update(task, completed=have)
    if total is not None and have < total:  # http.client takes an early end for the end
        raise _RetryError(f"the connection ended at byte {have:,} of {total:,}")
    if (found := _md5(draft)) != md5:
        draft.unlink()
        error = _RetryError if resumes else _MirrorError  # the bytes of another run or mirror may be the wrong ones
        raise error(f"a file with md5 {found}, wanted {md5}")


def _open(url: str, start: int) -> HTTPResponse:
    headers = {"User-Agent": "fcnseg"}  # some servers refuse Python's own
    try:
        request = Request(url, headers=headers | ({"Range": f"bytes={start}-"} if start else {}))
        answer = _answer(request)
    except HTTPError as error:
        error.close()
        if error.code == 416 and start:  # the file ends before `start`: our bytes are not from this file
            return _open(url, 0)
        raise _MirrorError(str(error)) from error
    except (OSError, HTTPException, ValueError) as error:
        raise _MirrorError(str(error)) from error
    if not isinstance(answer, HTTPResponse) or answer.headers.get_content_type() == "text/html":
        answer.close()
        raise _MirrorError("a web page or a local file, wanted an archive")
    return answer


def _answer(request: Request) -> Any:
    """The answer of `urlopen` in limited time: its own timeout restarts with each packet, even one byte of a header."""
    with ThreadPool(1) as pool:  # unlike an executor's, its thread does not keep the process alive
        try:
            return pool.apply_async(urlopen, (request,), {"timeout": _TIMEOUT}).get(2 * _TIMEOUT)
        except multiprocessing.TimeoutError as error:
            raise TimeoutError(f"no answer within {2 * _TIMEOUT:.0f} s") from error


def _chunks(answer: HTTPResponse) -> Iterator[bytes]:
    """The bytes of an answer, as long as `_LEAST` of them come in `_TIMEOUT` seconds."""
    since, came = time.monotonic(), 0
    try:
        while chunk := answer.read1(_CHUNK):  # read() would lose the bytes before a break
            yield chunk
            came += len(chunk)
            if came >= _LEAST:
                since, came = time.monotonic(), 0
            elif time.monotonic() > since + _TIMEOUT:
                raise _RetryError(f"{came:,} bytes in {_TIMEOUT:.0f} s")
    except (OSError, HTTPException) as error:
        raise _RetryError(f"the connection broke: {error}") from error


def _progress() -> Progress:
    """A progress bar on stderr; a log file gets the lines that are printed above it, but no bar."""
    console = Console(stderr=True, highlight=False, markup=False)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _unpack(data_set: Published, archive: Path, target: Path) -> None:
    """Unpack the folder of the data set in `archive` into the empty folder `target`."""
    unpacked = target / ".unpacked"
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(unpacked, filter=_inside)
    except tarfile.TarError as error:
        raise ValueError(f"refused to unpack {archive}: {error}; get {data_set.title}'s own archive") from error
    if (folder := find_folder(unpacked, data_set.places, data_set.holds)) is None:
        raise ValueError(f"{archive} holds no {data_set.places[0]}: correct the URL and md5")
    for path in folder.iterdir():
        path.rename(target / path.name)
    shutil.rmtree(unpacked)


def _inside(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
    if PurePosixPath(member.name).is_absolute():  # the filter "data" would only strip the slash
        raise tarfile.AbsolutePathError(member)
    return tarfile.data_filter(member, path)
