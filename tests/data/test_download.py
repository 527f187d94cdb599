"""Downloads over https from real servers on this machine, good ones and bad ones."""

import logging
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gpa_lightning import GPADataModule
from gpa_lightning.data import sources
from gpa_lightning.data.download import DownloadError, fetch
from gpa_lightning.data.sources import ADDRESSES, FEATURES, DataError, load_table

Answer = Callable[[BaseHTTPRequestHandler], None]
HOSTS = ("people.cs.umass.edu", "raw.githubusercontent.com")
BODY = b"a,b\n1,2\n" * 1000
HOUR = 3600.0  # only ends a test that hangs
patient = partial(fetch, timeout=HOUR, deadline=HOUR)


class Handler(BaseHTTPRequestHandler):
    """Answers as the test says; as a proxy for https, it is itself the server behind it."""

    def do_GET(self) -> None:
        self.server.seen.append(f"{self.headers['Host']}{self.path}")
        self.server.answer(self)

    def do_CONNECT(self) -> None:
        self.server.seen.append(f"CONNECT {self.path}")
        self.send_response(200)
        self.end_headers()
        try:
            self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        except OSError:  # the client does not like the certificate
            return
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", buffering=0)
        self.close_connection = False  # so that the request inside is handled next

    def finish(self) -> None:
        super().finish()
        self.connection.close()

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    answer: Answer
    tls: ssl.SSLContext

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.seen: list[str] = []
        self.gone = threading.Event()

    def handle_error(self, *_: object) -> None:
        pass  # clients here go away in the middle, on purpose


@pytest.fixture
def server(nowhere: Path) -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.gone.set()
        server.shutdown()
        thread.join()


def body(content: bytes, length: int | None = -1, status: int = 200) -> Answer:
    """Answer with some content and its length, or another length, or none."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        if length is not None:
            request.send_header("Content-Length", str(len(content) if length == -1 else length))
        request.end_headers()
        request.wfile.write(content)

    return answer


def redirect(location: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", location)
        request.end_headers()

    return answer


def in_chunks(*chunks: bytes, ended: bool = True) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.protocol_version = "HTTP/1.1"
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        for chunk in chunks:
            request.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        if ended:
            request.wfile.write(b"0\r\n\r\n")
        request.close_connection = True

    return answer


def dripping(*parts: bytes, every: float) -> Answer:
    """Answer with raw bytes, one part after the other, the last one for ever."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        for part in parts:
            request.wfile.write(part)
        while not request.server.gone.wait(every):
            request.wfile.write(parts[-1])

    return answer


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a certificate with its key, of the published addresses but signed by itself."""
    path = tmp_path_factory.mktemp("certificate") / "both.pem"
    public = path.with_name("certificate.pem")
    names = ",".join(f"DNS:{host}" for host in HOSTS)
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    extensions = f"-addext subjectAltName={names} -addext keyUsage=digitalSignature,keyCertSign"
    try:
        subprocess.run(
            [
                *command.split(),
                *extensions.split(),
                "-subj",
                "/CN=test",
                "-keyout",
                path,
                "-out",
                public,
            ],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("needs openssl to make a certificate")
    path.write_bytes(path.read_bytes() + public.read_bytes())
    return path


@pytest.fixture
def proxy(server: Server, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Return a server that everything over https goes to, and whose certificate is trusted."""
    server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.tls.load_cert_chain(certificate)
    monkeypatch.setattr(sources, "fetch", patient)
    monkeypatch.setenv("https_proxy", server.url)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.with_name("certificate.pem")))
    return server


def get(destination: Path, **options: Any) -> bytes:
    url = f"https://{HOSTS[0]}/folder/..%2f..%2fetc/passwd"
    return patient(url, destination, Path.read_bytes, **options)


def files(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_file()]


@pytest.mark.parametrize("answer", [body(BODY), body(BODY, None), in_chunks(BODY[:99], BODY[99:])])
def test_body_arrives_whole(
    answer: Answer, proxy: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    proxy.answer = answer
    assert get(tmp_path / "GPA.csv") == BODY
    assert (tmp_path / "GPA.csv").read_bytes() == BODY
    assert files(tmp_path) == ["GPA.csv"]
    assert capfd.readouterr() == ("", "")


def test_redirects_are_followed(proxy: Server, tmp_path: Path) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        (body(BODY) if request.path == "/there" else redirect("/there"))(request)

    proxy.answer = answer
    assert get(tmp_path / "GPA.csv") == BODY


BAD = {
    "an error": (body(b"no", status=404), "HTTP Error 404: Not Found"),
    "an early end": (body(BODY, len(BODY) + 1), "stopped too early, after 8,000 bytes"),
    "an early end without length": (body(BODY[:-1], None), "stopped too early, after 7,999 bytes"),
    "an early end of chunks": (in_chunks(BODY, ended=False), "IncompleteRead"),
    "nothing": (body(b"", None), "stopped too early, after 0 bytes"),
    "no HTTP": (dripping(b"\0" * 70_000, every=HOUR), "more than 65536 bytes when reading status"),
    "a huge announcement": (body(BODY, 10**12), "sends more than 10,000 bytes"),
    "a huge body": (body(BODY * 2, None), "sends more than 10,000 bytes"),
    "a loop": (redirect("/again"), "would lead to an infinite loop"),
    "a redirect to a file": (redirect("file:///etc/passwd"), "file:///etc/passwd' is not allowed"),
    "a redirect to http": (redirect("http://127.0.0.1:9/"), "http://127.0.0.1:9/ is not https"),
}


@pytest.mark.parametrize(("answer", "message"), BAD.values(), ids=BAD)
def test_bad_answer_is_explained_and_leaves_nothing(
    answer: Answer, message: str, proxy: Server, tmp_path: Path
) -> None:
    proxy.answer = answer
    destination = tmp_path / "GPA.csv"
    destination.write_bytes(b"earlier")
    with pytest.raises(DownloadError) as caught:
        get(destination, size_limit=10_000)
    assert str(caught.value).startswith(f"{HOSTS[0]}: ")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert destination.read_bytes() == b"earlier"
    assert files(tmp_path) == ["GPA.csv"]


OK = b"HTTP/1.0 200 OK\r\n"
STALLS = {
    "before the answer": (dripping(b"", every=HOUR), {"timeout": 0.1}, "timed out"),
    "in the headers": (dripping(OK, b"", every=HOUR), {"timeout": 0.1}, "timed out"),
    "in the body": (dripping(OK, b"\r\n1,2\n", b"", every=HOUR), {"timeout": 0.1}, "timed out"),
    "never": (dripping(OK, b"\r\n", b"1,2\n", every=0.01), {"deadline": 0.1}, "not complete after"),
}


@pytest.mark.parametrize(("answer", "limit", "message"), STALLS.values(), ids=STALLS)
def test_server_that_stalls_is_given_up(
    answer: Answer, limit: dict[str, float], message: str, proxy: Server, tmp_path: Path
) -> None:
    proxy.answer = answer
    with pytest.raises(DownloadError, match=f"^{HOSTS[0]}: .*{message}"):
        get(tmp_path / "GPA.csv", **limit)
    assert not files(tmp_path)


def test_what_the_check_raises_is_passed_on_and_nothing_is_kept(
    proxy: Server, tmp_path: Path
) -> None:
    def check(file: Path) -> None:
        assert file.read_bytes() == BODY
        assert file.suffix == ".csv"
        raise ValueError("not mine")

    proxy.answer = body(BODY)
    with pytest.raises(ValueError, match="not mine"):
        patient(ADDRESSES[0], tmp_path / "GPA.csv", check)
    assert not files(tmp_path)


def test_destination_that_cannot_be_written_is_explained(proxy: Server, tmp_path: Path) -> None:
    proxy.answer = body(BODY)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for destination in (tmp_path / "file" / "GPA.csv", tmp_path / "folder"):
        with pytest.raises(DownloadError, match=f"^{destination}: cannot be written: "):
            get(destination)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "file:///etc/passwd", "ftp://a/", "a"])
def test_only_https_is_asked(url: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"is not https|unknown url type"):
        fetch(url, tmp_path / "GPA.csv", Path.read_bytes)
    assert not [*tmp_path.iterdir()]


# The published table


def published(rows: int = 43_303) -> bytes:
    return (",".join([*FEATURES, "gpa"]) + "\n" + "1,2,3,4,5,6,7,8,9,1\n" * rows).encode()


def headerless(rows: int = 43_303) -> bytes:
    return b"0,1,1,2,3,4,5,6,7,8,9,1\n" * rows


def test_table_is_downloaded_once_and_then_cached(proxy: Server) -> None:
    proxy.answer = body(published())
    first = load_table("auto")
    assert first.provenance.kind == "download"
    assert first.provenance.location == ADDRESSES[0]
    assert first.provenance.rows == 43_303
    proxy.answer = body(b"", status=500)
    for source in ("auto", "download"):
        again = load_table(source)
        assert again.provenance.kind == "cache"
        assert again.provenance.sha256 == first.provenance.sha256
    same = GPADataModule(**again.provenance.arguments)  # what studies find the table by
    assert same.provenance == again.provenance
    assert len([url for url in proxy.seen if "CONNECT" not in url]) == 1
    cached = Path(again.provenance.location)
    cached.write_bytes(cached.read_bytes()[:-99])  # damaged: it is downloaded again
    proxy.answer = body(published())
    assert load_table("download").provenance == first.provenance
    assert [*cached.parent.glob("[!.]*")] == [cached]


def test_what_is_downloaded_lies_at_once_on_the_disk_that_is_to_keep_it(
    proxy: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/no/such/folder")  # it may be another disk
    proxy.answer = body(published())
    assert load_table("download").provenance.kind == "download"


def test_several_that_start_together_download_once(proxy: Server) -> None:
    """As the processes of a machine do under torchrun; a thread has a lock of its own, too."""
    started = threading.Barrier(3)

    def load(_: int) -> str:
        started.wait(HOUR)
        return load_table("download").provenance.kind

    proxy.answer = body(published())
    with ThreadPoolExecutor(3) as threads:
        assert sorted(threads.map(load, range(3))) == ["cache", "cache", "download"]
    assert len([url for url in proxy.seen if "CONNECT" not in url]) == 1


@pytest.mark.parametrize(
    "first",
    [
        body(b"gone", status=404),
        body(b"<html>Welcome to this hotel's network</html>"),
        body(published(43_302)),
        body(published(), len(published()) + 7),
        body(published()[:-3] + b"\n", None),
        body(b"a,b\n" + b"1,2\n" * 43_303),
        redirect("http://people.cs.umass.edu/GPA.csv"),
    ],
    ids=["404", "HTML", "a row less", "truncated", "last row", "other columns", "to http"],
)
def test_second_address_is_taken_if_the_first_is_no_good(first: Answer, proxy: Server) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        (first if request.headers["Host"] == HOSTS[0] else body(headerless()))(request)

    proxy.answer = answer
    found = load_table("download")
    assert found.provenance.location == ADDRESSES[1]
    assert found.features[0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert found.feature_names == FEATURES


def test_certificate_of_a_stranger_is_refused(
    proxy: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    proxy.answer = body(published())
    with pytest.raises(DataError, match="certificate verify failed"):
        load_table("download")
    assert all(url.startswith("CONNECT") for url in proxy.seen)


# No network


def refusing() -> str:
    """Return the address of a proxy that is not there, at a port that nobody is given."""
    return "http://127.0.0.1:9"


def test_without_network_auto_warns_and_takes_the_twin(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("https_proxy", refusing())
    assert load_table("auto").provenance.kind == "synthetic"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message.startswith("TRAINING ON A SYNTHETIC TABLE")
    assert "Connection refused" in record.message
    with pytest.raises(DataError) as caught:
        load_table("download")
    assert all(host in str(caught.value) for host in HOSTS)
    assert not [*nowhere.parent.glob("home/**/*.csv")]


def test_network_that_swallows_everything_is_given_up(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(sources, "fetch", partial(patient, timeout=0.1))
        assert load_table("auto").provenance.kind == "synthetic"
    assert caplog.text.count("timed out") == len(HOSTS)
