"""What can be set about a Ray Serve application; Ray itself is not needed to read it."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from t2tdeploy.errors import Fault, SettingsError
from t2tdeploy.serving.bundle_source import BundleFolders, BundleSource, RepositoryFolder
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.settings import Settings, parse_overrides

HEEDED = frozenset(
    (
        "versions",
        "aliases",
        "poll_seconds",
        "variant",
        "workers",
        "threads",
        "spin_us",
        "max_batch_size",
        "max_batch_tokens",
        "max_queue_delay_ms",
        "max_queue_sentences",
        "max_queue_tokens",
        "priority_seconds",
        "max_sentences_per_request",
        "max_tokens_per_request",
        "max_beam_size",
        "max_extra_length",
        "max_request_bytes",
        "shutdown_grace_seconds",
    )
)
"""What of `ServerOptions` a replica reads: its repository, its queue and its frontend do."""

_PORT = "a replica has no port; Ray's proxy listens: serve start --grpc-port"
_HTTP = "a replica answers no HTTP; t2tdeploy serve does"
_TLS = "a replica has no connections, so all would stay plain text; let a proxy before Ray's speak TLS"
_CLIENTS = "a replica sees no clients, so nobody would be kept out; let a proxy before Ray's tell and bound them"
_CONNECTIONS = "a replica has no connections; Ray's proxy keeps its own limits"
_LOGS = "a replica writes no such lines; Ray logs requests: logging_config of its Serve configuration"
REFUSED = {
    **dict.fromkeys(("host", "port"), _PORT),
    **dict.fromkeys(("http_port", "ui", "ui_examples"), _HTTP),
    **dict.fromkeys(("tls_certificate", "tls_key", "tls_client_ca"), _TLS),
    **dict.fromkeys(("token_file", "max_requests_per_client"), _CLIENTS),
    **dict.fromkeys(
        (
            "max_concurrent_streams",
            "max_connection_idle_seconds",
            "max_connection_age_seconds",
            "max_connection_age_grace_seconds",
            "keepalive_seconds",
            "keepalive_timeout_seconds",
            "min_ping_seconds",
        ),
        _CONNECTIONS,
    ),
    **dict.fromkeys(("access_log", "log_format"), _LOGS),
    "metrics_port": "a replica tells no metrics of ours; Ray has its own: ray start --metrics-export-port",
    "otlp_endpoint": "a replica traces nothing; Ray does: ray start --tracing-startup-hook",
    "lame_duck_seconds": "Ray takes a replica out of its proxies before it stops it; leave this out",
}
"""The others, each with why, and what to use instead: accepted, they would promise what nobody does."""


class AppOptions(Settings):
    """Arguments of `t2tdeploy.serving.ray_app:app`."""

    bundle: str | None = Field(None, min_length=1, description="folder of a bundle, the same on every node")
    repository: str | None = Field(
        None, min_length=1, description="folder of models and versions instead: NAME/1, NAME/2, … are bundles"
    )
    cpus: int = Field(1, ge=1, description="CPUs that a replica asks Ray for, and threads of its model")
    min_replicas: int = Field(1, ge=1, description="replicas that always run")
    max_replicas: int | None = Field(None, ge=1, description="replicas under load; none: min_replicas, no autoscaling")
    target_ongoing_requests: float = Field(
        16.0, gt=0, description="requests of a replica, waiting ones included, that autoscaling aims at"
    )
    max_ongoing_requests: int = Field(
        256, ge=1, description="requests that Ray hands to a replica at once, for it to make batches of"
    )
    max_queued_requests: int = Field(
        1024, ge=-1, description="requests that wait in each of Ray's proxies; more are refused; -1: any number"
    )
    options: str = Field(
        "", description="options of the server that a replica heeds, as of serve --options: max_batch_size=32"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.bundle is None) == (self.repository is None):
            raise ValueError("bundle or repository: give one of them")
        if self.max_replicas is not None and self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas is less than min_replicas = {self.min_replicas}")
        return self

    def source(self) -> BundleSource:
        """Where a replica finds its bundles.

        Raises:
            InputError, CorruptFileError, UnreadableError: there are none that can be read.
        """
        return RepositoryFolder(Path(self.repository)) if self.repository else BundleFolders([Path(str(self.bundle))])

    def server_options(self) -> ServerOptions:
        """The server's options in a replica.

        Raises:
            SettingsError: `options` are not valid, or a replica does not heed one of them.
        """
        assignments = parse_overrides(self.options)
        faults = [Fault(name, value, REFUSED[name]) for name, _, value in assignments if name in REFUSED]
        if faults:
            raise SettingsError("options of a replica", faults, help=f"a replica heeds: {', '.join(sorted(HEEDED))}")
        return ServerOptions(threads=self.cpus).assign(assignments)
