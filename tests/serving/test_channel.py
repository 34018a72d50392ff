from pathlib import Path

import pytest

from t2tdeploy.errors import InputError, UserError
from t2tdeploy.serving.channel import Security, is_local, read_token
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
