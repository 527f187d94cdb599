"""A file from the network, whole and checked, or a clear error within seconds.

Everything that can stall (name resolution, connecting, the TLS handshake, headers, each part of the
body) happens in a daemon thread, because name resolution knows no time limit of its own. The caller
waits for that thread with deadlines, and leaves it behind when one passes.
"""

import ssl
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import closing
from http.client import HTTPMessage
from itertools import chain
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import NamedTemporaryFile
from typing import IO, TypeAlias, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

Checked = TypeVar("Checked")
# the announced length of the body, if any, and a part of it; an empty part is the end
Part: TypeAlias = tuple[int | None, bytes]


class DownloadError(Exception):
    """A file could not be had from the network; one line that names the host and the reason."""


def fetch(
    url: str,
    destination: Path,
    check: Callable[[Path], Checked],
    *,
    schemes: Collection[str] = ("https",),
    start_timeout: float = 3.0,
    read_timeout: float = 10.0,
    total_timeout: float = 120.0,
    size_limit: int = 32 * 2**20,
) -> Checked:
    """Download ``url`` to ``destination``, which appears whole and checked or not at all.

    Args:
        url: The address. TLS certificates are verified; a proxy is taken from the environment.
        destination: The file to make or replace. Nothing the server says has a part in its name.
        check: Called with the path of the complete temporary file, which lies beside
            ``destination`` and has its suffix. What it raises is passed on, and nothing is kept.
        schemes: The URL schemes that the address and every redirect may have.
        start_timeout: Seconds until the first part of the body has to be here.
        read_timeout: Seconds that the server may then pause.
        total_timeout: Seconds for everything.
        size_limit: Bytes that the body may have, whatever length it announces.

    Returns:
        What ``check`` returned.

    Raises:
        DownloadError: For a refused scheme, redirect, certificate or size, for an HTTP error, a
            passed deadline, an incomplete body, or a destination that cannot be written.
    """
    with closing(
        _parts(url, schemes, start_timeout, read_timeout, total_timeout, size_limit)
    ) as parts:
        first = next(parts)  # before anything is written
        temporary: Path | None = None
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(
                dir=destination.parent, suffix=destination.suffix, delete=False
            ) as file:
                temporary = Path(file.name)
                _write(chain([first], parts), file, url, size_limit)
            checked = check(temporary)
            temporary.replace(destination)
        except OSError as error:
            raise DownloadError(f"{destination}: cannot be written: {error.strerror}") from error
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
    return checked


def _write(parts: Iterator[Part], file: IO[bytes], url: str, size_limit: int) -> None:
    """Write the body to ``file`` behind a progress bar, and see that it is complete."""
    received, last = 0, b""
    console = Console(stderr=True)
    columns = (TextColumn("Downloading {task.description}"), BarColumn(), DownloadColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(url.rpartition("/")[2])
        for length, part in parts:
            received += len(part)
            if max(received, length or 0) > size_limit:
                raise DownloadError(f"{_host(url)}: sends more than {size_limit:,} bytes")
            file.write(part)
            last = part or last
            progress.update(task, completed=received, total=length)
    # without a length, a missing newline is the only sign of a row cut in two
    if received != length if length is not None else not last.endswith(b"\n"):
        raise DownloadError(f"{_host(url)}: stopped too early, after {received:,} bytes")


def _host(url: str) -> str:
    return urlsplit(url).netloc or url


def _parts(
    url: str,
    schemes: Collection[str],
    start_timeout: float,
    read_timeout: float,
    total_timeout: float,
    size_limit: int,
) -> Generator[Part, None, None]:
    """Yield the parts of the body as they come in, the empty end included."""
    received: SimpleQueue[Part | Exception] = SimpleQueue()
    abandoned = threading.Event()
    threading.Thread(
        target=_receive,
        args=(url, schemes, read_timeout, size_limit, received, abandoned),
        daemon=True,
    ).start()
    host = _host(url)
    start = time.monotonic()
    deadline = start + start_timeout
    try:
        while True:
            try:
                part = received.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                waited = time.monotonic() - start
                raise DownloadError(f"{host}: no answer, gave up after {waited:.0f} s") from None
            if isinstance(part, Exception):
                reason = part.reason if isinstance(part, URLError) else part
                reason = getattr(reason, "strerror", None) or str(reason) or type(part).__name__
                raise DownloadError(f"{host}: {' '.join(reason.split())}") from part
            yield part
            if not part[1]:
                return
            deadline = min(time.monotonic() + read_timeout, start + total_timeout)
    finally:
        abandoned.set()


def _receive(
    url: str,
    schemes: Collection[str],
    read_timeout: float,
    size_limit: int,
    received: SimpleQueue[Part | Exception],
    abandoned: threading.Event,
) -> None:
    """Put the parts of the body into ``received``, or the exception that prevents it."""
    try:
        if urlsplit(url).scheme not in schemes:
            raise URLError(f"is not {' or '.join(schemes)}")
        verifying = HTTPSHandler(context=ssl.create_default_context())
        opener = build_opener(verifying, _SameSchemes(schemes))
        request = Request(url, headers={"User-Agent": "gpa-lightning"})  # noqa: S310  checked above
        # of the two timeouts, this one only sees to it that an abandoned thread ends
        with opener.open(request, timeout=read_timeout + 1) as response:
            announced = response.headers["Content-Length"]
            length = None if announced is None else int(announced)
            size, part = 0, b"..."
            while part and size <= size_limit and not abandoned.is_set():
                part = response.read1(2**16)
                size += len(part)
                received.put((length, part))
    except HTTPError as error:
        error.close()
        received.put(URLError(f"HTTP status {error.code} {error.reason}"))
    except Exception as error:  # whatever it is, the waiting side has to hear of it
        received.put(error)


class _SameSchemes(HTTPRedirectHandler):
    """Follow a redirect only where the address itself could have led."""

    def __init__(self, schemes: Collection[str]) -> None:
        self.schemes = schemes

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if urlsplit(newurl).scheme not in self.schemes:
            fp.close()
            raise URLError(f"redirects to {newurl}, which is not {' or '.join(self.schemes)}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
