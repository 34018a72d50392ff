"""Downloads from a real server on this machine: resume, retries, mirrors, checksums."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from t2tdeploy.errors import CorruptFileError, DownloadError, InputError
from t2tdeploy.problems.sources import Source, fetch

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What the server does to the next requests, and what it was asked."""

    url: str = ""
    content: bytes = CONTENT
    answers: list[str] = field(default_factory=list)  # "500", "404", "cut", "ignore range"; then "ok" for ever
    ranges: list[str | None] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.ranges.append(self.headers.get("Range"))
            answer = state.answers.pop(0) if state.answers else "ok"
            if answer.isdigit():
                self.send_error(int(answer))
                return
            start = 0
            if self.headers.get("Range") and answer != "ignore range":
                start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
                if start >= len(state.content):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
            else:
                self.send_response(200)
            body = state.content[start:]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if answer == "cut" else body)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http_server:
        thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.url = f"http://127.0.0.1:{http_server.server_port}/corpus.gz"
        yield state
        http_server.shutdown()
        thread.join()


def get(server: Server, folder, sha256: str | None = SHA256, *mirrors: str, **options):
    return fetch(Source("corpus.gz", (*mirrors, server.url), sha256), folder, backoff_s=0.001, **options)


def test_downloads_once(server, tmp_path):
    path = get(server, tmp_path / "new" / "folder")
    assert path.read_bytes() == CONTENT
    assert get(server, path.parent) == path
    assert len(server.ranges) == 1
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("sha256", [SHA256, None])
def test_a_broken_connection_is_resumed(server, tmp_path, sha256):
    server.answers = ["cut", "cut"]
    assert get(server, tmp_path, sha256).read_bytes() == CONTENT
    half, quarter = len(CONTENT) // 2, len(CONTENT) // 4
    assert server.ranges == [None, f"bytes={half}-", f"bytes={half + quarter}-"]


def test_a_later_call_resumes_what_an_earlier_one_left(server, tmp_path):
    server.answers = ["cut"]
    with pytest.raises(DownloadError, match="broke off"):
        get(server, tmp_path, attempts=1)
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges[1] == f"bytes={len(CONTENT) // 2}-"


def test_without_a_checksum_a_later_call_starts_anew(server, tmp_path):
    server.answers = ["cut"]
    with pytest.raises(DownloadError):
        get(server, tmp_path, None, attempts=1)
    assert get(server, tmp_path, None).read_bytes() == CONTENT
    assert server.ranges == [None, None]


def test_without_a_checksum_the_first_download_is_recorded_and_holds(server, tmp_path):
    path = get(server, tmp_path, None)
    record = tmp_path / "corpus.gz.sha256"
    assert record.read_text() == f"{SHA256}  corpus.gz\n"
    assert get(server, tmp_path, None) == path
    path.write_bytes(b"changed")
    with pytest.raises(InputError, match=SHA256):
        get(server, tmp_path, None)
    path.unlink()
    server.content = b"changed"
    with pytest.raises(DownloadError, match=SHA256) as caught:
        get(server, tmp_path, None, attempts=1)
    assert str(record) in caught.value.help
    record.unlink()
    assert get(server, tmp_path, None).read_bytes() == b"changed"


def test_a_file_put_there_by_hand_without_a_record_is_taken_as_it_is(server, tmp_path):
    (tmp_path / "corpus.gz").write_bytes(b"mine")
    assert get(server, tmp_path, None).read_bytes() == b"mine"
    assert not (tmp_path / "corpus.gz.sha256").exists()


def test_a_record_that_is_none_is_named(server, tmp_path):
    (tmp_path / "corpus.gz.sha256").write_text("not a checksum\n")
    with pytest.raises(CorruptFileError, match=r"corpus.gz.sha256"):
        get(server, tmp_path, None)


def test_where_only_an_md5_is_known_it_holds(server, tmp_path):
    source = Source("corpus.gz", (server.url,), None, hashlib.md5(CONTENT).hexdigest())
    path = fetch(source, tmp_path)
    assert path.read_bytes() == CONTENT
    (tmp_path / "corpus.gz.sha256").unlink()
    path.write_bytes(b"changed")
    with pytest.raises(InputError, match="MD5"):
        fetch(source, tmp_path)
    path.unlink()
    server.content = b"changed"
    with pytest.raises(DownloadError, match="MD5"):
        fetch(source, tmp_path, attempts=1)


def test_a_server_without_ranges_starts_anew(server, tmp_path):
    server.answers = ["cut", "ignore range"]
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_given_up(server, tmp_path):
    (tmp_path / ".corpus.gz.partial").write_bytes(CONTENT + b"more")
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_server_errors_are_tried_again(server, tmp_path):
    server.answers = ["500", "503"]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert len(server.ranges) == 3


def test_a_missing_file_is_not_asked_for_again(server, tmp_path):
    server.answers = ["404"]
    with pytest.raises(DownloadError, match="404") as caught:
        get(server, tmp_path)
    assert len(server.ranges) == 1
    assert "corpus.gz" in caught.value.help
    assert str(tmp_path) in caught.value.help


def test_the_next_mirror_is_tried(server, tmp_path):
    dead = "http://127.0.0.1:1/corpus.gz"
    assert get(server, tmp_path, SHA256, dead, attempts=1).read_bytes() == CONTENT


def test_when_all_mirrors_fail_every_reason_is_told(server, tmp_path):
    server.answers = ["404"]
    dead = "http://127.0.0.1:1/corpus.gz"
    with pytest.raises(DownloadError) as caught:
        get(server, tmp_path, SHA256, dead, attempts=2)
    assert dead in caught.value.message
    assert server.url in caught.value.message


def test_a_wrong_checksum_never_gets_its_name(server, tmp_path):
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(DownloadError, match=SHA256):
        get(server, tmp_path, attempts=2)
    assert list(tmp_path.iterdir()) == []
    assert len(server.ranges) == 1  # it was whole: asking this server again would not help


def test_a_resumed_part_of_another_file_is_found_out_and_fetched_anew(server, tmp_path):
    (tmp_path / ".corpus.gz.partial").write_bytes(b"something else")
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_local_file_is_used_without_any_request(server, tmp_path):
    (tmp_path / "corpus.gz").write_bytes(CONTENT)
    assert get(server, tmp_path) == tmp_path / "corpus.gz"
    assert server.ranges == []


def test_a_damaged_local_file_is_refused_with_both_checksums(server, tmp_path):
    (tmp_path / "corpus.gz").write_bytes(b"damaged")
    with pytest.raises(InputError) as caught:
        get(server, tmp_path)
    assert SHA256 in caught.value.message
    assert hashlib.sha256(b"damaged").hexdigest() in caught.value.message
    assert caught.value.help
    assert (tmp_path / "corpus.gz").read_bytes() == b"damaged"


def test_a_decompressed_local_file_will_do(server, tmp_path):
    (tmp_path / "corpus").write_bytes(b"text")
    assert get(server, tmp_path) == tmp_path / "corpus"
    assert server.ranges == []


def test_a_folder_that_cannot_be_is_an_input_error(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot write"):
        get(server, tmp_path / "file")
