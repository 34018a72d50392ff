import re
from pathlib import Path

import pytest

from t2tdeploy.errors import InputError, UserError
from t2tdeploy.serving.auth import read_tokens
from t2tdeploy.serving.channel import Security, is_local, open_async_channel, open_channel, read_token, require_target
from t2tdeploy.serving.options import ServerOptions
from tests.serving.certificates import Authority

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize(
    "target",
    [
        "localhost",
        "localhost:50051",
        "127.0.0.1:1",
        "127.8.9.1",
        "[::1]:50051",
        "::1",
        "unix:/run/s",
        "dns:///localhost:1",
    ],
)
def test_this_machine_is_local(target: str) -> None:
    assert is_local(target)


@pytest.mark.parametrize(
    "target",
    [
        "",
        "0.0.0.0",
        "10.0.0.1:50051",
        "example.org:50051",
        "localhost.example.org:1",
        "dns:///example.org",
        "[::",
        "[::2]:1",
    ],
)
def test_everything_else_is_not(target: str) -> None:
    assert not is_local(target)


def test_a_token_only_goes_where_nobody_can_read_it() -> None:
    sent = (("authorization", f"Bearer {TOKEN}"),)
    assert Security(token=TOKEN).metadata("localhost:1") == sent
    assert Security(token=TOKEN, tls=True).metadata("example.org:1") == sent
    assert Security(token=TOKEN, plain_token=True).metadata("example.org:1") == sent
    assert Security().metadata("example.org:1") == ()
    with pytest.raises(UserError, match=r"the token would go to example\.org:1 unencrypted") as caught:
        Security(token=TOKEN).metadata("example.org:1")
    assert "--tls" in (caught.value.help or "")


@pytest.mark.parametrize("token", [f"{TOKEN}\n", "two words", "tökenökenökenöken", "\t"])
def test_what_cannot_be_sent_is_refused(token: str) -> None:
    """gRPC would fail every call, as if it were the server's fault."""
    with pytest.raises(InputError, match=r"^Security\.token has characters that no token has") as caught:
        Security(token=token)
    assert caught.value.exit_code == 2
    assert token.strip() not in str(caught.value) or not token.strip()


def test_a_token_is_not_shown() -> None:
    assert TOKEN not in repr(Security(token=TOKEN))


def test_an_empty_token_is_not_sent() -> None:
    with pytest.raises(InputError, match=r"^Security\.token is empty"):
        Security(token="")


@pytest.mark.parametrize("text", [f"{TOKEN}\n", f"web:{TOKEN}", f"# ours\nops:admin:{TOKEN}\n\n"])
def test_the_file_of_a_client_holds_its_token(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text)
    assert read_token(tmp_path / "token") == TOKEN


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read: No such file"),
        ("", "holds 0 tokens, not one"),
        (f"a:{TOKEN}\nb:{TOKEN}", "holds 2 tokens, not one"),
        ("name:\n", "is empty"),
        ("two words", "characters that no token has"),
        ("tökenökenökenöken", "characters that no token has"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "token"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        read_token(path)
    assert TOKEN not in str(caught.value)
    assert caught.value.path == path
    assert caught.value.path == path


def test_a_token_file_that_is_not_there_is_told_from_the_one_that_is(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(TOKEN)
    for read in (read_token, read_tokens):
        with pytest.raises(InputError) as caught:
            read(tmp_path / "token")
        assert caught.value.help == "did you mean 'tokens'?"


def test_files_of_tls_are_checked_before_they_are_used(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair, other = authority.sign("one"), authority.sign("two")
    assert Security().credentials() is None
    assert Security(tls_ca=authority.certificate).credentials() is not None
    with pytest.raises(InputError, match="is not the key of"):
        Security(tls_certificate=pair.certificate, tls_key=other.key).credentials()
    with pytest.raises(InputError, match="cannot be read"):
        Security(tls_ca=tmp_path / "nowhere").credentials()
    with pytest.raises(UserError, match="needs its key"):
        Security(tls_certificate=pair.certificate).credentials()


@pytest.mark.parametrize(
    "target",
    [
        "localhost:50051",
        "t2tdeploy.models.svc.cluster.local:50051",
        "127.0.0.1:1",
        "[::1]:65535",
        "unix:/run/s",
        "unix:///run/s",
        "unix-abstract:name",
        "dns:localhost:1",
        "dns:///t2tdeploy:50051",
        "dns://8.8.8.8/example.org:50051",
        "ipv4:10.0.0.1:50051,10.0.0.2:50051",
        "ipv6:[::1]:50051",
        "xds:///service",
    ],
)
def test_addresses_that_are_called(target: str) -> None:
    require_target(target)


@pytest.mark.parametrize(
    ("target", "words", "help"),
    [
        ("http://localhost:50151", "is not host:port", "write localhost:50151, without http://"),
        (
            "https://example.org:443/v1",
            "is not host:port",
            "write example.org:443, without https://, and --tls for TLS",
        ),
        ("localhost", "has no port", "localhost:50051: it is the default of t2tdeploy serve"),
        ("dns:///t2tdeploy", "has no port", "t2tdeploy:50051"),
        ("[::1]", "has no port", "[::1]:50051"),
        ("::1", "has no port", "[::1]:50051"),
        ("localhost:http", "is not host:port", "a port is a number"),
        ("localhost:65536", "is not host:port", "from 1 to 65535"),
        ("localhost:0", "is not host:port", "from 1 to 65535"),
        ("localhost:50051/", "is not host:port", "localhost:50051"),
        (":50051", "is not host:port", "write host:port, e.g. localhost:50051"),
        ("a:b:1", "is not host:port", "write host:port"),
        ("", "is not host:port", "write host:port"),
    ],
)
def test_an_address_that_cannot_be_meant_is_refused_before_it_is_called(target: str, words: str, help: str) -> None:
    for opened in (open_channel, open_async_channel):
        with pytest.raises(UserError, match=f"^the server's address '{re.escape(target)}' {words}") as caught:
            opened(target, Security())
        assert help in (caught.value.help or "")
        assert "unix:PATH" in (caught.value.help or "")


def test_the_port_that_is_proposed_is_the_one_that_is_served() -> None:
    with pytest.raises(UserError) as caught:
        require_target("localhost")
    assert f":{ServerOptions().port}:" in (caught.value.help or "")
