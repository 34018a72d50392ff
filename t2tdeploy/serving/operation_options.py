"""Options of a server for those who operate it: TLS, credentials, limits, metrics, logs, stopping."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from t2tdeploy.serving.access_log import LogFormat
from t2tdeploy.serving.tls import TlsFiles
from t2tdeploy.settings import Settings

_FOR_EVER_MS = 2**31 - 1
"""INT_MAX, in gRPC's arguments."""
_MOST_PENDING = 2**16


class OperationOptions(Settings):
    """The part of `ServerOptions` that no model cares about."""

    tls_certificate: Path | None = Field(
        None, description="PEM file with the server's certificate and those in between; read again when it changes"
    )
    tls_key: Path | None = Field(None, description="PEM file with the certificate's key")
    tls_client_ca: Path | None = Field(
        None, description="PEM file with authorities of clients; then every client needs a certificate (mutual TLS)"
    )
    token_file: Path | None = Field(
        None, description="tokens of clients, one a line, with name and role; read again when it changes"
    )
    max_tokens_per_request: int | None = Field(
        None, ge=1, description="source tokens of one request; none: max_queue_tokens"
    )
    max_requests_per_client: int | None = Field(
        None, ge=1, description="requests of one client (its token, certificate or address) at once; none: no bound"
    )
    max_concurrent_streams: int = Field(1024, ge=1, le=2**31 - 1, description="requests of one connection at once")
    max_connection_idle_seconds: float | None = Field(
        3600.0,
        gt=0,
        description="a connection without requests is closed after so long; none, or more than 24 days: never",
    )
    max_connection_age_seconds: float | None = Field(
        None,
        gt=0,
        description="clients connect anew after so long, and so find new servers; none, or more than 24 days: never",
    )
    max_connection_age_grace_seconds: float = Field(
        60.0, ge=0, description="how long requests of a connection that is too old may take to finish"
    )
    keepalive_seconds: float = Field(
        120.0, gt=0, description="a connection that is silent for so long is asked whether it still lives"
    )
    keepalive_timeout_seconds: float = Field(20.0, gt=0, description="without an answer for so long it is closed")
    min_ping_seconds: float = Field(
        20.0, ge=0, description="a client that pings more often than this is sent away (ENHANCE_YOUR_CALM)"
    )
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="port of Prometheus metrics, on the same host; none: there are none"
    )
    access_log: bool = Field(True, description="a line for every request in the log, without anybody's text")
    log_format: LogFormat = Field("text", description="lines of the log: text, or json with an object a line")
    otlp_endpoint: str | None = Field(
        None,
        pattern=r"^https?://.+",
        description="where OpenTelemetry spans go, e.g. http://collector:4317; none: there are none",
    )
    lame_duck_seconds: float = Field(
        0.0, ge=0, description="after SIGTERM: how long requests are still taken while health and readiness say no"
    )

    @model_validator(mode="after")
    def _tls_files_go_together(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            given, missing = ("tls_key", "tls_certificate") if self.tls_key else ("tls_certificate", "tls_key")
            raise ValueError(f"{given} needs {missing}")
        if self.tls_client_ca and not self.tls_certificate:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        return self

    @property
    def tls_files(self) -> TlsFiles | None:
        """The files of TLS; None: the server speaks plain text."""
        if self.tls_certificate is None or self.tls_key is None:
            return None
        return TlsFiles(self.tls_certificate, self.tls_key, self.tls_client_ca)

    def channel_arguments(self) -> list[tuple[str, Any]]:
        """The limits that gRPC itself keeps, see https://grpc.github.io/grpc/core/group__grpc__arg__keys.html.

        A duration of more than 24 days is for ever there.
        """
        arguments = [
            ("grpc.max_concurrent_streams", self.max_concurrent_streams),
            # Otherwise clients that keep this limit are sent away beyond it (UNAVAILABLE), too: gRPC goes below it
            # while it has not caught up. And calls that nobody took up yet are thrown away (CANCELLED): some beyond
            # 1000, all beyond 3000. The queue's bound has words for that, and a status that clients know.
            ("grpc.http.overload_protection", 0),
            ("grpc.server.max_pending_requests", _MOST_PENDING),
            ("grpc.server.max_pending_requests_hard_limit", _MOST_PENDING),
            ("grpc.max_connection_age_grace_ms", _milliseconds(self.max_connection_age_grace_seconds)),
            ("grpc.keepalive_time_ms", _milliseconds(self.keepalive_seconds)),
            ("grpc.keepalive_timeout_ms", _milliseconds(self.keepalive_timeout_seconds)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", _milliseconds(self.min_ping_seconds)),
        ]
        if self.max_connection_idle_seconds is not None:
            arguments.append(("grpc.max_connection_idle_ms", _milliseconds(self.max_connection_idle_seconds)))
        if self.max_connection_age_seconds is not None:
            arguments.append(("grpc.max_connection_age_ms", _milliseconds(self.max_connection_age_seconds)))
        return arguments


def _milliseconds(seconds: float) -> int:
    """At most what gRPC reads as for ever; more, and it refuses to start."""
    return round(min(seconds * 1000, _FOR_EVER_MS))
