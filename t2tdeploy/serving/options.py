"""What can be set about a server."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from t2tdeploy.decoding import MAX_BEAM_SIZE, BeamSize, ExtraLength
from t2tdeploy.runtime import SPIN_US, available_cpus
from t2tdeploy.serving.aliases import Alias
from t2tdeploy.serving.batcher import BatchLimits
from t2tdeploy.serving.operation_options import OperationOptions
from t2tdeploy.serving.version_policy import VersionPolicy

UI_PORT = 8080
DEFAULT_WORKERS = 2


class ServerOptions(OperationOptions):
    """Options of `t2tdeploy serve`."""

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on; 0.0.0.0 for every interface")
    port: int = Field(50051, ge=0, le=65535, description="port to listen on; 0 takes a free one and reports it")
    http_port: int | None = Field(
        None, ge=0, le=65535, description="port that answers HTTP, on the same host; 0 takes a free one; none: no HTTP"
    )
    ui: bool = Field(
        False, description="whether HTTP serves the page to try the models; http_port is 8080 then, if not set"
    )
    ui_examples: str | None = Field(
        None, min_length=1, description="file with sentences to click on the page, one a line; none: some in English"
    )
    versions: str = Field(
        "latest", description="which versions of a model are served: latest, latest:N, all, or numbers like 1+3"
    )
    aliases: tuple[str, ...] = Field(
        (),
        description="further names of models: name=model for its newest version, name=model:2 for that one, "
        "which then serves whatever `versions` says",
    )
    poll_seconds: float = Field(
        0.0, ge=0, description="how often the bundles on disk are looked at for new contents; 0: never"
    )
    variant: str | None = Field(
        None, min_length=1, description="form of the bundle's graph that runs; none: the bundle's default_variant"
    )
    workers: int | None = Field(
        None,
        ge=1,
        description="batches that run at once, of all models on CPUs, and of all on a GPU; none: 2 of a model that "
        "translates on more than one CPU, unless `threads` is set, else 1",
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="threads of a batch; none: all CPUs for one that runs alone, else a share of them",
    )
    spin_us: int = Field(
        SPIN_US,
        ge=0,
        le=1_000_000,
        description="microseconds that a thread of the model stays awake without work within a batch; 0: it sleeps",
    )
    max_batch_size: int = Field(
        32,
        ge=1,
        description="sentences of a batch",
    )
    max_batch_tokens: int = Field(
        32_768,
        ge=1,
        description="tokens that the search of a batch may remember: sources and longest translations times beams",
    )
    max_queue_delay_ms: float = Field(
        0.0, ge=0, description="how long a free worker waits for a fuller batch; 0: it takes what is there at once"
    )
    max_queue_sentences: int = Field(2048, ge=1, description="sentences that may wait; more are refused for now")
    max_queue_tokens: int = Field(131_072, ge=1, description="source tokens that may wait; more are refused for now")
    priority_seconds: float = Field(
        5.0, ge=0, description="head start that one level of priority gives a sentence in the queue"
    )
    max_sentences_per_request: int = Field(256, ge=1, description="sentences of one request")
    max_beam_size: BeamSize = Field(
        MAX_BEAM_SIZE, description="beam_size that a request may ask for; at least the bundle's default"
    )
    max_extra_length: ExtraLength = Field(
        256, description="extra_length that a request may ask for; at least the bundle's default"
    )
    max_request_bytes: int = Field(4 * 1024 * 1024, ge=1024, le=2**28, description="size of one request")
    shutdown_grace_seconds: float = Field(
        30.0,
        ge=0,
        description="how long accepted requests may take to finish after a signal, and those of a model that leaves",
    )

    @model_validator(mode="after")
    def _request_fits_the_queue(self) -> Self:
        if self.max_sentences_per_request > self.max_queue_sentences:
            raise ValueError("max_sentences_per_request is more than max_queue_sentences: such requests never fit")
        if (self.max_tokens_per_request or 0) > self.max_queue_tokens:
            raise ValueError("max_tokens_per_request is more than max_queue_tokens: such requests never fit")
        return self

    @model_validator(mode="after")
    def _examples_have_a_page(self) -> Self:
        if self.ui_examples is not None and not self.ui:
            raise ValueError("ui_examples without ui: there is no page to show them on")
        return self

    @field_validator("versions")
    @classmethod
    def _versions_can_be_read(cls, text: str) -> str:
        VersionPolicy.parse(text)
        return text

    @field_validator("aliases")
    @classmethod
    def _aliases_can_be_read(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        names = [Alias.parse(text).name for text in texts]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"'{name}' is given twice")
        return texts

    @property
    def bound_http_port(self) -> int | None:
        """Where HTTP is answered; None: nowhere."""
        return UI_PORT if self.http_port is None and self.ui else self.http_port

    @property
    def batches_at_once(self) -> int:
        """Of all models on CPUs."""
        return self.workers or (DEFAULT_WORKERS if self.threads is None and available_cpus() > 1 else 1)

    @property
    def version_policy(self) -> VersionPolicy:
        """`versions`, read."""
        return VersionPolicy.parse(self.versions)

    def aliases_by_name(self) -> dict[str, Alias]:
        """`aliases`, read."""
        return {alias.name: alias for alias in map(Alias.parse, self.aliases)}

    @property
    def tokens_per_request(self) -> int:
        """How many source tokens a request may have."""
        return self.max_tokens_per_request or self.max_queue_tokens

    def batch_limits(self) -> BatchLimits:
        """The part that the batcher needs, in seconds."""
        return BatchLimits(
            max_batch_size=self.max_batch_size,
            max_batch_tokens=self.max_batch_tokens,
            max_queue_delay=self.max_queue_delay_ms / 1000,
            max_queue_sentences=self.max_queue_sentences,
            max_queue_tokens=self.max_queue_tokens,
            priority_seconds=self.priority_seconds,
        )
