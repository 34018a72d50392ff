"""TLS, tokens and request ids on the HTTP port of a real server."""

import json
import logging
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from t2tdeploy.bundle import Bundle
from t2tdeploy.serving.access_log import ACCESS_LOGGER
from t2tdeploy.serving.channel import Security
from t2tdeploy.serving.health import health_of
from tests.serving.certificates import Authority
from tests.serving.running import running
from tests.serving.toy_bundle import write_toy_bundle

TOKEN = "user-0123456789abcdef"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy")


def test_the_http_port_keeps_the_same_gate(bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=ACCESS_LOGGER)
    authority = Authority(tmp_path)
    pair = authority.sign("server")
    (tmp_path / "tokens").write_text(f"web:{TOKEN}\n")
    files = {"tls_certificate": pair.certificate, "tls_key": pair.key, "token_file": tmp_path / "tokens"}
    trusting = ssl.create_default_context(cafile=authority.certificate)
    with running(bundle, http_port=0, **files) as server:

        def ask(path: str, body: object = None, **headers: str) -> tuple[int, dict[str, str], str]:
            content = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(f"https://localhost:{server.http_port}{path}", content, headers)
            try:
                with urllib.request.urlopen(request, timeout=10, context=trusting) as answer:
                    return answer.status, dict(answer.headers), answer.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, dict(error.headers), error.read().decode()

        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert ask("/v2/health/live")[0] == 200
        status, headers, said = ask("/v1/translate", {"sources": ["a"]})
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
        assert "a token is needed" in said
        status, headers, said = ask(
            "/v1/translate", {"sources": ["private words"]}, **bearer, **{"x-request-id": "id-9"}
        )
        assert (status, headers["x-request-id"]) == (200, "id-9")
        assert "private words" in said
        assert ask("/v2/repository/models/toy/unload", {}, **bearer)[0] == 403
        assert ask("/nowhere", **bearer)[0] == 404
        assert server.answers["UNAUTHENTICATED"] == 1
    lines = [record.getMessage() for record in caplog.records if record.name == ACCESS_LOGGER]
    assert len(lines) == 4
    assert "request_id=id-9 protocol=http method=http/v1/translate status=OK" in lines[1]
    assert "client=web model=toy version=1 sentences=1" in lines[1]
    assert "private" not in caplog.text


def test_a_certificate_that_https_shows_first_reaches_grpc_too(bundle: Bundle, tmp_path: Path) -> None:
    """Probes of HTTPS come more often than clients of gRPC."""
    before, after = Authority(tmp_path, "before"), Authority(tmp_path, "after")
    pair, other = before.sign("old"), after.sign("new")
    with running(bundle, http_port=0, tls_certificate=pair.certificate, tls_key=pair.key) as server:

        def probe(authority: Authority) -> None:
            """Raises if the server shows a certificate of another authority."""
            trusting = ssl.create_default_context(cafile=authority.certificate)
            url = f"https://localhost:{server.http_port}/v2/health/live"
            urllib.request.urlopen(url, timeout=10, context=trusting).close()

        def health(authority: Authority) -> str:
            return health_of(f"localhost:{server.port}", timeout=10, security=Security(tls_ca=authority.certificate))

        probe(before)
        assert health(before) == "SERVING"
        other.certificate.replace(pair.certificate)
        other.key.replace(pair.key)
        probe(after)
        assert health(after) == "SERVING"
