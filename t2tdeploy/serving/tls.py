"""TLS and mutual TLS of the server: certificates from files, read again when the files change.

Every new connection looks at the files first; connections that are open keep what they began with. New files that do
not go together leave the old ones in force and are logged: a certificate may be replaced before its key is, and a
server must not turn deaf in between. What the system does not let be read is tried again at the next connection.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import grpc

from t2tdeploy.errors import InputError
from t2tdeploy.serving.watched_files import WatchedFiles

logger = logging.getLogger("t2tdeploy.serving")


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of a server.

    Args:
        certificate: its own, followed by those of the authorities in between.
        key: of the certificate, not encrypted.
        client_ca: authorities of clients; with it every client needs a certificate (mutual TLS).
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """Those that are given."""
        return [self.certificate, self.key, *([self.client_ca] if self.client_ca else [])]


class ServerTls:
    """The certificate of a server, for gRPC and for HTTP.

    Raises:
        InputError: a file cannot be read, or they do not go together.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._watched = WatchedFiles(files.paths, "the certificate is")
        self._lock = threading.Lock()  # gRPC asks on threads of its own
        self._read()

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For `add_secure_port`. gRPC asks for the certificate at every handshake."""
        given = self._configuration

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            """None: what was given last. Whether the files changed just now says less: HTTP may have seen it before."""
            nonlocal given
            self.refresh()
            with self._lock:
                if given is self._configuration:
                    return None
                given = self._configuration
                return given

        fetch = cast(Callable[[], grpc.ServerCertificateConfiguration], renewed)  # the stubs forget None
        return grpc.dynamic_ssl_server_credentials(
            given, fetch, require_client_authentication=self._files.client_ca is not None
        )

    def ssl_context(self) -> ssl.SSLContext:
        """For servers of the standard library and of aiohttp; renewed at every handshake as well."""
        context, _ = _read(self._files)

        def renew(connection: ssl.SSLObject, name: str, context: ssl.SSLContext) -> None:
            self.refresh()
            connection.context = self._context

        context.sni_callback = renew  # called at every handshake, whether or not the client names the server
        return context

    def refresh(self) -> bool:
        """Reads files that changed.

        Returns:
            Whether this call has put another certificate in force.
        """
        with self._lock:
            renewed = self._watched.renew(self._read)
        if renewed:
            logger.info("the certificate is renewed from %s", self._files.certificate)
        return renewed

    def _read(self) -> None:
        self._context, self._configuration = _read(self._files)


def _read(files: TlsFiles) -> tuple[ssl.SSLContext, grpc.ServerCertificateConfiguration]:
    """What the files hold now, checked by OpenSSL: gRPC would only fail at the first handshake, without a reason."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    contents = {path: read_pem(path) for path in files.paths}
    load_pair(context, files.certificate, files.key)
    if files.client_ca:
        load_authorities(context, files.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context, grpc.ssl_server_certificate_configuration(
        [(contents[files.key], contents[files.certificate])],
        root_certificates=contents[files.client_ca] if files.client_ca else None,
    )


def read_pem(path: Path) -> bytes:
    """
    Raises:
        InputError: the file cannot be read, or is no PEM file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    if b"-----BEGIN " not in content:
        raise InputError(f"{path} is not a PEM file", path=path, help="it begins with -----BEGIN …")
    return content


def load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Loads a certificate and its key.

    Raises:
        InputError: they do not go together, the key is encrypted, or one cannot be read.
    """
    try:
        context.load_cert_chain(certificate, key, password=_refuse_password)
    except ssl.SSLError as error:
        mismatch = error.reason == "KEY_VALUES_MISMATCH"
        unreadable = f"{certificate} and {key} cannot be read as a certificate and its key"
        reason = f"{key} is not the key of {certificate}" if mismatch else unreadable
        help = "give the certificate of the server first, then those in between, and its own key"
        raise InputError(reason, path=certificate, help=help) from None
    except _EncryptedKeyError:
        help = f"decrypt it (openssl pkey -in {key} -out plain.pem) and keep it readable for the server alone"
        raise InputError(f"{key} is encrypted", path=key, help=help) from None
    except OSError as error:
        raise _unreadable(f"{certificate} or {key}", error) from error


def load_authorities(context: ssl.SSLContext, path: Path) -> None:
    """Loads certificates of authorities.

    Raises:
        InputError: the file holds none, or cannot be read.
    """
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise InputError(f"{path} holds no certificate of an authority: {error.reason or error}", path=path) from None
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(what: Path | str, error: OSError) -> InputError:
    return InputError(f"{what} cannot be read: {error.strerror}", path=what)


class _EncryptedKeyError(Exception):
    pass


def _refuse_password() -> str:
    raise _EncryptedKeyError  # without it OpenSSL would ask on the terminal
