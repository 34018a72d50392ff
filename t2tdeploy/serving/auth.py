"""Who may do what: bearer tokens from a file, compared in constant time, and roles. Knows no protocol.

A token file has a token a line, each with an optional name and role. Blank lines and those that begin with # are
skipped:

    # name:role:token, name:token or token
    web:9d5b6c8f0e1a4b7c
    ops:admin:1c7e2d9a6b3f8054

The file is read again when it changes. A new content that cannot be read leaves the old tokens in force and is logged,
so that a file caught half-written locks nobody out; write it atomically, and revoke a token by removing its line. What
the system does not let be read is tried again at every look.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from t2tdeploy.errors import InputError, UnknownNameError
from t2tdeploy.files import help_to_find
from t2tdeploy.serving.watched_files import WatchedFiles

logger = logging.getLogger("t2tdeploy.serving")

MIN_TOKEN_LENGTH = 16
_SECONDS_BETWEEN_LOOKS = 1.0
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # b64token of RFC 6750: no colon
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")

OPEN_METHODS = frozenset({"Check", "Watch", "ServerLive", "ServerReady", "Page"})
"""Answered to everybody: probes and load balancers have no token, nor has a browser before the page asks for one. They
tell whether the server serves, nothing else."""

ADMIN_METHODS = frozenset({"LoadModel", "UnloadModel", "RepositoryModelLoad", "RepositoryModelUnload"})
"""They change what everybody gets."""


class Role(StrEnum):
    """What a client may do: `use` asks models, `admin` also loads and unloads them."""

    USE = "use"
    ADMIN = "admin"


class UnauthenticatedError(Exception):
    """Credentials are missing or wrong."""


class PermissionDeniedError(Exception):
    """The credentials are right, but their role is not enough."""


@dataclass(frozen=True)
class Client:
    """Who asks.

    Args:
        name: of the token; empty: unknown.
    """

    name: str
    role: Role


@dataclass(frozen=True)
class Token:
    """A token and whose it is. Of the token itself only the SHA-256 is kept."""

    client: Client
    digest: bytes

    @classmethod
    def of(cls, text: str, client: Client) -> Token:
        """The token `text` of `client`."""
        return cls(client, _digest(text))


def find(token: str, tokens: Sequence[Token]) -> Client | None:
    """Whose token this is. Takes as long whatever is asked: every token is compared, and hashes in constant time."""
    asked, found = _digest(token), None
    for known in tokens:
        if hmac.compare_digest(asked, known.digest):
            found = known.client
    return found


class Authenticator:
    """Decides whether a call may be made.

    Args:
        tokens: the tokens that are valid now; None: nobody is asked for one, and everybody may do everything.
    """

    def __init__(self, tokens: Callable[[], Sequence[Token]] | None) -> None:
        self._tokens = tokens

    def admit(self, method: str, authorization: str | None) -> Client:
        """The client of a call.

        Args:
            method: its name without the service, e.g. "Translate".
            authorization: "Bearer …", or None.

        Raises:
            UnauthenticatedError: a token is needed, and it is missing or wrong.
            PermissionDeniedError: the token's role is not enough.
        """
        if self._tokens is None:
            return Client("", Role.ADMIN)
        if method in OPEN_METHODS:
            return Client("", Role.USE)
        client = self._client(self._tokens(), authorization)
        if method in ADMIN_METHODS and client.role is not Role.ADMIN:
            raise PermissionDeniedError(
                f"{method} needs a token with the role admin, '{client.name}' has {client.role}"
            )
        return client

    def _client(self, tokens: Sequence[Token], authorization: str | None) -> Client:
        if authorization is None:
            raise UnauthenticatedError("a token is needed: send the metadata 'authorization: Bearer TOKEN'")
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise UnauthenticatedError("the metadata 'authorization' is not of the form 'Bearer TOKEN'")
        client = find(token.strip(), tokens)
        if client is None:
            raise UnauthenticatedError("the token is not valid")
        return client


class TokenFile:
    """The tokens of a file, as it is now.

    Args:
        clock: seconds; the file is looked at once a second at most.

    Raises:
        InputError: it cannot be read, or a line is not as it must be.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._watched = WatchedFiles([path], "the tokens are")
        self._read()
        self._looked = clock()

    def __call__(self) -> Sequence[Token]:
        now = self._clock()
        if now - self._looked >= _SECONDS_BETWEEN_LOOKS:
            self._looked = now
            if self._watched.renew(self._read):
                logger.info("%d tokens are read from %s", len(self._tokens), self._path)
        return self._tokens

    def _read(self) -> None:
        self._tokens = read_tokens(self._path)


def read_tokens(path: Path) -> tuple[Token, ...]:
    """The tokens of a file.

    Raises:
        InputError: it cannot be read, holds none, or a line is not as it must be; the line is named, not quoted.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        mode = path.stat().st_mode
    except OSError as error:
        raise InputError(
            f"the token file {path} cannot be read: {error.strerror}", path=path, help=help_to_find(path)
        ) from error
    except UnicodeDecodeError:
        raise InputError(f"the token file {path} cannot be read: not UTF-8", path=path) from None
    if mode & stat.S_IROTH:
        logger.warning("the token file %s can be read by every user of this machine: chmod o-r %s", path, path)
    found: dict[bytes, Token] = {}
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        try:
            token = _parse(line, number)
            if token.digest in found:
                raise ValueError("the same token again")
        except (ValueError, UnknownNameError) as error:
            help = "a line is name:role:token, name:token or token; openssl rand -hex 32 makes a token"
            raise InputError(f"{path}, line {number}: {error}", path=path, line=number, help=help) from None
        found[token.digest] = token
    if not found:
        raise InputError(f"the token file {path} holds no token", path=path, help="openssl rand -hex 32 makes one")
    return tuple(found.values())


def _parse(line: str, number: int) -> Token:
    *labels, token = line.split(":")
    if len(labels) > 2:
        raise ValueError("more than two colons")
    name = labels[0] if labels else f"token-{number}"
    role = labels[1] if len(labels) == 2 else Role.USE
    if not _NAME.fullmatch(name):
        raise ValueError("the name is not 1 to 64 letters, digits, or . _ @ -")
    if role not in list(Role):
        raise UnknownNameError("role", role, list(Role))
    if not _TOKEN.fullmatch(token):
        raise ValueError("the token has other characters than letters, digits and - . _ ~ + / =")
    if len(token) < MIN_TOKEN_LENGTH:
        raise ValueError(f"the token has {len(token)} characters, it needs at least {MIN_TOKEN_LENGTH}")
    return Token.of(token, Client(name, Role(role)))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
