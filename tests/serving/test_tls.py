"""The files of TLS: what is refused and how, and renewal, seen by real handshakes of the standard library."""

import errno
import os
import ssl
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from t2tdeploy.errors import InputError
from t2tdeploy.serving.tls import ServerTls, TlsFiles
from tests.serving.certificates import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> str:
    """Connects the two through memory; the common name that the client sees."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname="localhost"),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    certificate = ends[1].getpeercert() or {}
    return str(dict(pair for part in certificate["subject"] for pair in part)["commonName"])


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.certificate)


def asked_by_grpc(tls: ServerTls, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    """What gRPC calls at every handshake after its first; None: the certificate is as before."""
    given: list[Callable[[], object]] = []
    with monkeypatch.context() as patch:
        patch.setattr(grpc, "dynamic_ssl_server_credentials", lambda _, fetch, **__: given.append(fetch))
        tls.grpc_credentials()
    return given[0]


def test_a_handshake_shows_the_certificate(authority: Authority) -> None:
    pair = authority.sign("shown")
    tls = ServerTls(TlsFiles(pair.certificate, pair.key))
    assert handshake(tls.ssl_context(), trusting(authority)) == "shown"


def test_a_new_certificate_is_shown_at_the_next_handshake(authority: Authority, tmp_path: Path) -> None:
    pair, other = authority.sign("before"), authority.sign("after")
    tls = ServerTls(TlsFiles(pair.certificate, pair.key))
    context = tls.ssl_context()
    assert handshake(context, trusting(authority)) == "before"
    other.certificate.replace(pair.certificate)
    # Its key is not there yet: the old pair stays in force.
    assert handshake(context, trusting(authority)) == "before"
    other.key.replace(pair.key)
    assert handshake(context, trusting(authority)) == "after"
    assert not tls.refresh()


@pytest.mark.parametrize("first", ["https", "grpc"])
def test_every_port_gets_a_new_certificate_whichever_sees_it_first(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    pair, other = authority.sign("before"), authority.sign("after")
    tls = ServerTls(TlsFiles(pair.certificate, pair.key))
    context, fetch, later = tls.ssl_context(), asked_by_grpc(tls, monkeypatch), asked_by_grpc(tls, monkeypatch)
    assert fetch() is None
    other.certificate.replace(pair.certificate)
    other.key.replace(pair.key)
    given = fetch() if first == "grpc" else None
    assert handshake(context, trusting(authority)) == "after"
    given = given or fetch()
    assert given is not None
    assert fetch() is None
    assert later() is given, "a second port of gRPC"
    assert later() is None


def test_files_that_vanish_leave_the_old_certificate(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    pair = authority.sign("kept")
    tls = ServerTls(TlsFiles(pair.certificate, pair.key))
    context = tls.ssl_context()
    pair.key.unlink()
    assert not tls.refresh()
    assert not tls.refresh()
    assert handshake(context, trusting(authority)) == "kept"
    assert len([one for one in caplog.records if "not renewed" in one.getMessage()]) == 1


@pytest.mark.parametrize("reader", ["pem", "pair"])
def test_files_that_cannot_be_read_for_a_moment_are_tried_again(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, reader: str
) -> None:
    pair, other = authority.sign("old"), authority.sign("new")
    tls = ServerTls(TlsFiles(pair.certificate, pair.key))
    context = tls.ssl_context()
    other.certificate.replace(pair.certificate)
    other.key.replace(pair.key)

    def fail(*_: object, **__: object) -> bytes:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        if reader == "pem":
            patch.setattr(Path, "read_bytes", fail)
        else:
            patch.setattr(ssl.SSLContext, "load_cert_chain", fail)
        assert not tls.refresh()
        assert not tls.refresh()
        assert handshake(context, trusting(authority)) == "old"
    assert len([one for one in caplog.records if "cannot be read: Too many open files" in one.getMessage()]) == 1
    assert handshake(context, trusting(authority)) == "new"


def test_a_client_without_a_certificate_is_refused(authority: Authority) -> None:
    pair, client = authority.sign("server"), authority.sign("client")
    context = ServerTls(TlsFiles(pair.certificate, pair.key, authority.certificate)).ssl_context()
    asking = trusting(authority)
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        handshake(context, asking)
    asking.load_cert_chain(client.certificate, client.key)
    assert handshake(context, asking) == "server"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("missing", "cannot be read: No such file"),
        ("no pem", "is not a PEM file"),
        ("swapped", "cannot be read as a certificate and its key"),
        ("other key", "is not the key of"),
        ("encrypted", "is encrypted"),
        ("no authority", "holds no certificate of an authority"),
    ],
)
def test_files_that_do_not_go_together_are_named(authority: Authority, tmp_path: Path, fault: str, words: str) -> None:
    pair = authority.sign("one", password=b"secret" if fault == "encrypted" else None)
    certificate, key, client_ca = pair.certificate, pair.key, None
    match fault:
        case "missing":
            key = tmp_path / "nowhere.key"
        case "no pem":
            certificate = tmp_path / "text.pem"
            certificate.write_text("no certificate")
        case "swapped":
            certificate, key = key, certificate
        case "other key":
            key = authority.sign("two").key
        case "no authority":
            client_ca = key
    with pytest.raises(InputError, match=words):
        ServerTls(TlsFiles(certificate, key, client_ca))
