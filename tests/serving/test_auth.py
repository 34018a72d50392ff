import errno
import hmac
import logging
import os
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2tdeploy.errors import InputError
from t2tdeploy.serving.auth import (
    ADMIN_METHODS,
    OPEN_METHODS,
    Authenticator,
    Client,
    PermissionDeniedError,
    Role,
    Token,
    TokenFile,
    UnauthenticatedError,
    find,
    read_tokens,
)

LONG = "0123456789abcdef"
tokens = st.text(string.ascii_letters + string.digits + "-._~+/", min_size=16, max_size=40)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_a_line_is_a_token_with_an_optional_name_and_role(tmp_path: Path) -> None:
    text = f"# comment\n\n{LONG}1\n  web:{LONG}2  \nops:admin:{LONG}3==\n"
    found = read_tokens(write(tmp_path / "tokens", text))
    assert [one.client for one in found] == [
        Client("token-3", Role.USE),
        Client("web", Role.USE),
        Client("ops", Role.ADMIN),
    ]
    assert find(f"{LONG}3==", found) == Client("ops", Role.ADMIN)


@given(st.lists(tokens, min_size=1, max_size=8, unique=True), tokens)
def test_exactly_the_tokens_of_the_file_are_known(known: list[str], other: str) -> None:
    stored = [Token.of(text, Client(f"client-{number}", Role.USE)) for number, text in enumerate(known)]
    for number, text in enumerate(known):
        found = find(text, stored)
        assert found is not None
        assert found.name == f"client-{number}"
    if other not in known:
        assert find(other, stored) is None
    assert find("", stored) is None


def test_every_token_is_compared_whatever_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the time of an answer would tell which token of the file was met, or that none was."""
    stored = [Token.of(LONG + str(number), Client(str(number), Role.USE)) for number in range(5)]
    compared: list[bytes] = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(b) or compare(a, b))
    for asked in (LONG + "0", LONG + "4", "no token of the file"):
        compared.clear()
        find(asked, stored)
        assert compared == [one.digest for one in stored]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no token"),
        ("# only a comment\n", "holds no token"),
        ("secret\n", "line 1: the token has 6 characters, it needs at least 16"),
        (f"\nweb:{LONG} {LONG}\n", "line 2: the token has other characters"),
        (f"web:boss:{LONG}", "line 1: unknown role 'boss'; valid choices: admin, use"),
        (f"a:b:c:{LONG}", "line 1: more than two colons"),
        (f"we b:{LONG}", "line 1: the name is not"),
        (f"a:{LONG}\nb:{LONG}", "line 2: the same token again"),
    ],
)
def test_a_faulty_line_is_named_but_its_token_is_not(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read_tokens(write(tmp_path / "tokens", text))
    assert LONG not in str(caught.value)


def test_a_file_that_everybody_can_read_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "tokens", LONG)
    read_tokens(path)
    assert not caplog.records
    path.chmod(0o644)
    read_tokens(path)
    assert "can be read by every user" in caplog.text
    assert f"chmod o-r {path}" in caplog.text


def test_a_changed_file_is_in_force_within_a_second(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    path = write(tmp_path / "tokens", f"web:{LONG}1")
    file = TokenFile(path, clock=lambda: now)
    write(path, f"web:{LONG}2")
    now = 0.5
    assert find(f"{LONG}1", file())
    now = 1.0
    assert find(f"{LONG}2", file())
    assert not find(f"{LONG}1", file())
    write(path, "half a li")  # caught while it is written
    now = 2.0
    assert find(f"{LONG}2", file())
    assert "not renewed" in caplog.text
    path.unlink()
    now = 3.0
    assert find(f"{LONG}2", file())
    write(tmp_path / "new", f"web:{LONG}3").replace(path)
    now = 4.0
    assert find(f"{LONG}3", file())


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.EACCES])
def test_a_file_that_cannot_be_read_for_a_moment_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    """Else a revoked token would stay valid for ever."""
    now = 0.0
    path = write(tmp_path / "tokens", f"web:{LONG}1")
    file = TokenFile(path, clock=lambda: now)
    write(path, f"web:{LONG}2")

    def fail(*_: object, **__: object) -> str:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch, caplog.at_level(logging.INFO, "t2tdeploy.serving"):
        patch.setattr(Path, "read_text", fail)
        for now in (1.0, 2.0, 3.0):  # noqa: B007
            assert find(f"{LONG}1", file())
    assert [one.getMessage() for one in caplog.records] == [
        f"the tokens are not renewed: the token file {path} cannot be read: {os.strerror(number)}"
    ]
    now = 4.0
    assert find(f"{LONG}2", file())
    assert not find(f"{LONG}1", file())


def test_a_content_that_is_no_token_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    path = write(tmp_path / "tokens", f"web:{LONG}1")
    file = TokenFile(path, clock=lambda: now)
    path.write_text("half a li")
    read: list[Path] = []
    read_text = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, **given: read.append(path) or read_text(path, **given))
    for now in (1.0, 2.0, 3.0):  # noqa: B007
        assert find(f"{LONG}1", file())
    assert read == [path]


def test_a_change_that_keeps_size_and_modification_time_is_found(tmp_path: Path) -> None:
    now = 0.0
    path = write(tmp_path / "tokens", f"web:{LONG}1")
    file, before = TokenFile(path, clock=lambda: now), path.stat()
    write(path, f"web:{LONG}2")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    now = 1.0
    assert find(f"{LONG}2", file())


def test_a_link_that_leads_elsewhere_is_a_change(tmp_path: Path) -> None:
    """So Kubernetes replaces a mounted Secret."""
    now = 0.0
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        write(tmp_path / str(number) / "tokens", f"web:{LONG}{number}")
    (tmp_path / "data").symlink_to("1")
    file = TokenFile(tmp_path / "data" / "tokens", clock=lambda: now)
    (tmp_path / "next").symlink_to("2")
    os.replace(tmp_path / "next", tmp_path / "data")  # noqa: PTH105
    now = 1.0
    assert find(f"{LONG}2", file())


STORED = (Token.of(LONG + "u", Client("web", Role.USE)), Token.of(LONG + "a", Client("ops", Role.ADMIN)))
GUARDED = Authenticator(lambda: STORED)


@pytest.mark.parametrize(
    ("authorization", "words"),
    [
        (None, "a token is needed"),
        ("", "not of the form 'Bearer TOKEN'"),
        (f"Basic {LONG}u", "not of the form 'Bearer TOKEN'"),
        ("Bearer", "the token is not valid"),
        ("Bearer ", "the token is not valid"),
        (f"Bearer {LONG}", "the token is not valid"),
        (f"Bearer {LONG}U", "the token is not valid"),
        ("Bearer \udcff", "the token is not valid"),
    ],
)
def test_missing_and_wrong_credentials_are_unauthenticated(authorization: str | None, words: str) -> None:
    with pytest.raises(UnauthenticatedError, match=words):
        GUARDED.admit("Translate", authorization)


def test_roles() -> None:
    for method in ("Translate", "ModelInfer", "ServerReflectionInfo"):
        assert GUARDED.admit(method, f"Bearer {LONG}u").name == "web"
        assert GUARDED.admit(method, f"bearer {LONG}a").name == "ops"
    for method in ADMIN_METHODS:
        assert GUARDED.admit(method, f"Bearer {LONG}a").name == "ops"
        with pytest.raises(PermissionDeniedError, match=f"{method} needs a token with the role admin"):
            GUARDED.admit(method, f"Bearer {LONG}u")


def test_probes_need_no_token_and_without_a_file_nobody_does() -> None:
    for method in OPEN_METHODS:
        assert GUARDED.admit(method, None).role is Role.USE
    for method in ("Translate", *ADMIN_METHODS):
        assert Authenticator(None).admit(method, None).role is Role.ADMIN
