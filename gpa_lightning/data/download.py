"""A file from the network, whole and checked, or an error that names the host and the reason."""

import time
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import BaseHandler, Request, build_opener

from rich.console import Console

Checked = TypeVar("Checked")


class DownloadError(Exception):
    """A file that cannot be downloaded: one line that names the host and the reason."""


def fetch(
    url: str,
    destination: Path,
    check: Callable[[Path], Checked],
    timeout: float = 5.0,
    deadline: float = 120.0,
    size_limit: int = 32 * 2**20,
) -> Checked:
    """Download ``url`` to ``destination``, which appears whole and checked or not at all.

    Only https is spoken, in redirects too, with verified certificates, through the proxy that the
    environment names. No limit holds for the time that resolving a name or sending all headers
    takes, and each address of a host is given ``timeout`` to connect.

    Args:
        url: The address.
        destination: The file to make or replace, in a folder that exists.
        check: Called with the path of the complete temporary file, named as ``destination`` is.
            What it raises is passed on, and nothing is kept.
        timeout: Seconds to connect, and that the server may then pause.
        deadline: Seconds for the whole body.
        size_limit: Bytes that the body may have.

    Returns:
        What ``check`` returned.

    Raises:
        DownloadError: If the file cannot be had or not be written.
    """
    try:
        with Console(stderr=True).status(f"Downloading {url}"):
            body = _body(url, timeout, deadline, size_limit)
    except (OSError, HTTPException, ValueError) as error:
        reason = error if isinstance(error, HTTPError) else getattr(error, "reason", error)
        text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        raise DownloadError(f"{urlsplit(url).netloc or url}: {' '.join(text.split())}") from error
    try:
        with TemporaryDirectory(dir=destination.parent) as folder:
            temporary = Path(folder, destination.name)
            temporary.write_bytes(body)
            checked = check(temporary)
            temporary.replace(destination)
            return checked
    except OSError as error:
        raise DownloadError(f"{destination}: cannot be written: {error.strerror}") from error


class _HttpsOnly(BaseHandler):
    def default_open(self, req: Request) -> None:
        if req.type != "https":
            raise URLError(f"{req.full_url} is not https")


def _body(url: str, timeout: float, deadline: float, size_limit: int) -> bytes:
    opener = build_opener(_HttpsOnly)
    opener.addheaders = [("User-Agent", "gpa-lightning")]
    end = time.monotonic() + deadline
    body = bytearray()
    with opener.open(url, timeout=timeout) as response:
        length = response.length
        while part := response.read1(2**16):
            body += part
            if max(len(body), length or 0) > size_limit:
                raise ValueError(f"sends more than {size_limit:,} bytes")
            if time.monotonic() > end:
                raise TimeoutError(f"not complete after {deadline:g} s")
    # without a length, a missing newline is the only sign of a row cut in two
    if len(body) != length if length is not None else not body.endswith(b"\n"):
        raise ValueError(f"stopped too early, after {len(body):,} bytes")
    return bytes(body)
