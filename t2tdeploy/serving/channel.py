"""How a client reaches a server: plain or by TLS, with or without a token."""

from __future__ import annotations

import ipaddress
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import grpc

from t2tdeploy.errors import InputError, UserError
from t2tdeploy.files import help_to_find
from t2tdeploy.serving.tls import load_authorities, load_pair, read_pem

_DEFAULT_PORT = 50051  # of ServerOptions, which a client has no need to import
_SCHEMES = ("dns", "ipv4", "ipv6", "unix", "unix-abstract", "vsock", "xds")  # whose names gRPC resolves
_LONGEST_SECONDS = 1e9  # gRPC counts nanoseconds in 64 bits, and what is beyond them as over

Arguments = list[tuple[str, Any]]
Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Security:
    """Of the way to a server.

    Args:
        tls: encrypt, and trust the well-known authorities; what follows implies it.
        tls_ca: PEM file of the authorities that are trusted instead.
        tls_certificate, tls_key: PEM files of the client's own certificate, for servers that ask for one.
        token: sent with every call.
        plain_token: send the token even where it can be read on the way.

    Raises:
        InputError: the token is empty or has characters that cannot be sent.
    """

    tls: bool = False
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    token: str | None = field(default=None, repr=False)
    plain_token: bool = False

    def __post_init__(self) -> None:
        if self.token is not None:
            require_token(self.token, "Security.token")

    @property
    def encrypted(self) -> bool:
        """Whether the way is by TLS."""
        return self.tls or any((self.tls_ca, self.tls_certificate, self.tls_key))

    def credentials(self) -> grpc.ChannelCredentials | None:
        """For `grpc.secure_channel`; None: the way is plain.

        Raises:
            InputError: a file cannot be read, or they do not go together.
        """
        if not self.encrypted:
            return None
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise UserError("a certificate needs its key and a key its certificate", help="give both, or none")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the files; gRPC would not say what is wrong
        root = pair = None
        if self.tls_ca:
            root = read_pem(self.tls_ca)
            load_authorities(context, self.tls_ca)
        if self.tls_certificate and self.tls_key:
            pair = read_pem(self.tls_key), read_pem(self.tls_certificate)
            load_pair(context, self.tls_certificate, self.tls_key)
        return grpc.ssl_channel_credentials(root, *(pair or ()))

    def metadata(self, target: str) -> Metadata:
        """What every call carries.

        Raises:
            UserError: the token would be sent where anybody on the way can read it.
        """
        if self.token is None:
            return ()
        if not (self.encrypted or self.plain_token or is_local(target)):
            raise UserError(
                f"the token would go to {target} unencrypted",
                help="use TLS (--tls, or --tls-ca FILE); if the network is trusted, --insecure-token sends it anyway",
            )
        return (("authorization", f"Bearer {self.token}"),)


PLAIN = Security()


def open_channel(target: str, security: Security, arguments: Arguments | None = None) -> grpc.Channel:
    """A channel for plain code.

    Raises:
        UserError: see `Security` and `require_target`.
    """
    require_target(target)
    credentials, metadata = security.credentials(), security.metadata(target)
    if credentials is None:
        channel = grpc.insecure_channel(target, options=arguments)
    else:
        channel = grpc.secure_channel(target, credentials, options=arguments)
    return grpc.intercept_channel(channel, _Carrier(metadata)) if metadata else channel


def open_async_channel(target: str, security: Security, arguments: Arguments | None = None) -> grpc.aio.Channel:
    """The same for asyncio."""
    require_target(target)
    credentials, metadata = security.credentials(), security.metadata(target)
    carriers = [_UnaryCarrier(metadata), _StreamCarrier(metadata)] if metadata else []
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=arguments, interceptors=carriers)
    return grpc.aio.secure_channel(target, credentials, options=arguments, interceptors=carriers)


def require_target(target: str) -> None:
    """Checks an address before it is called: gRPC would look for a host of any name, and take 443 for a missing port.

    Raises:
        UserError: it is neither host:port nor the name of a kind that gRPC resolves.
    """
    scheme, slashes, rest = target.partition("://")
    if slashes and scheme not in _SCHEMES:
        place = rest.split("/")[0]
        encrypted = ", and --tls for TLS" if scheme in ("https", "grpcs") else ""
        raise _bad_target(target, f"write {place or 'host:port'}, without {scheme}://{encrypted}")
    kind, colon, name = target.partition(":")
    if colon and kind in _SCHEMES and kind != "dns":
        return
    place = re.sub(r"^//[^/]*/", "", name) if kind == "dns" else target
    try:
        if place.count(":") > 1 and ipaddress.IPv6Address(place):
            place = f"[{place}]"
    except ValueError:
        pass
    parts = re.fullmatch(r"(?P<host>\[[^]]*\]|[^:]*)(?::(?P<port>[^:]*))?", place)
    if parts is None or not parts["host"]:
        raise _bad_target(target, f"write host:port, e.g. localhost:{_DEFAULT_PORT}")
    if parts["port"] is None:
        proxy = ", 443 that of most proxies with TLS"
        raise _bad_target(
            target,
            f"give the port, {place}:{_DEFAULT_PORT}: it is the default of t2tdeploy serve{proxy}",
            "has no port",
        )
    if not re.fullmatch(r"[0-9]{1,5}", parts["port"]) or not 0 < int(parts["port"]) < 65536:
        raise _bad_target(target, f"a port is a number from 1 to 65535, e.g. {parts['host']}:{_DEFAULT_PORT}")


def _bad_target(target: str, help: str, reason: str = "is not host:port") -> UserError:
    kinds = "; unix:PATH, dns:///host:port and ipv4:address:port are taken, too"
    return UserError(f"the server's address '{target}' {reason}", help=help + kinds)


def call_timeout(seconds: float) -> float | None:
    """The timeout of a call that may take so long, perhaps for ever; None: there is none."""
    return None if seconds > _LONGEST_SECONDS else seconds


class _Details(NamedTuple):
    """See grpc.ClientCallDetails."""

    method: Any
    timeout: Any
    metadata: Any
    credentials: Any
    wait_for_ready: Any
    compression: Any


class _Carrier(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Adds metadata to every call."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    def _carry(self, continuation: Any, details: Any, request: Any) -> Any:
        metadata = (*(details.metadata or ()), *self._metadata)
        known = (details.method, details.timeout, metadata, details.credentials)
        return continuation(_Details(*known, details.wait_for_ready, getattr(details, "compression", None)), request)

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """See grpc.UnaryUnaryClientInterceptor."""
        return self._carry(continuation, client_call_details, request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """See grpc.UnaryStreamClientInterceptor."""
        return self._carry(continuation, client_call_details, request)


class _UnaryCarrier(grpc.aio.UnaryUnaryClientInterceptor):
    """Adds metadata to every call of asyncio that has one answer."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """See grpc.aio.UnaryUnaryClientInterceptor."""
        return await continuation(_carrying(client_call_details, self._metadata), request)


class _StreamCarrier(grpc.aio.UnaryStreamClientInterceptor):
    """Adds metadata to every call of asyncio that has a stream of answers."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """See grpc.aio.UnaryStreamClientInterceptor."""
        return await continuation(_carrying(client_call_details, self._metadata), request)


def _carrying(details: Any, metadata: Metadata) -> grpc.aio.ClientCallDetails:
    carried = grpc.aio.Metadata(*(details.metadata or ()), *metadata)
    return grpc.aio.ClientCallDetails(
        details.method, details.timeout, carried, details.credentials, details.wait_for_ready
    )


def read_token(path: Path) -> str:
    """The token in a file of one line: token, or as in a server's token file, name:token or name:role:token.

    Raises:
        InputError: it cannot be read, or does not hold one token.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise InputError(
            f"the token file {path} cannot be read: {reason}", path=path, help=help_to_find(path)
        ) from None
    tokens = [line.rpartition(":")[2] for line in lines if line and not line.startswith("#")]
    if len(tokens) != 1:
        help = "a client's file holds its own token alone; the file with all of them is the server's"
        raise InputError(f"the token file {path} holds {len(tokens)} tokens, not one", path=path, help=help)
    return require_token(tokens[0], f"the token in {path}", path)


def require_token(token: str, name: str, path: Path | None = None) -> str:
    """
    Args:
        path: of the file that it is from.

    Returns:
        `token`.

    Raises:
        InputError: it is empty or has characters that cannot be sent; the error calls it `name`, and does not show it.
    """
    if not token:
        raise InputError(f"{name} is empty", path=path, help="give the token, or none at all")
    if not (token.isascii() and token.isprintable()) or " " in token:
        help = "give the token alone, without white space or a line end"
        raise InputError(f"{name} has characters that no token has", path=path, help=help)
    return token


def is_local(target: str) -> bool:
    """Whether a gRPC target or a host is this machine itself: localhost, a loopback address, or a Unix
    socket. A name that only resolves to this machine is not local."""
    scheme, _, rest = target.partition(":")
    if scheme in ("unix", "unix-abstract"):
        return True
    if scheme in ("dns", "ipv4", "ipv6", "passthrough"):
        target = rest.rpartition("/")[2]
    try:
        return ipaddress.ip_address(target).is_loopback
    except ValueError:
        pass
    try:
        host = urlsplit(f"//{target}").hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
