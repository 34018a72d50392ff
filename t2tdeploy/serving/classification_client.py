"""Clients of models that classify or regress: `ClassificationClient` for plain code, `AsyncClassificationClient` for
asyncio. Both answer as `Classifier` does.

A long list of examples becomes several requests, some of them under way at once; a request that meets a full or
restarting server is tried again, and one that is too large for it asked in halves, as by `Client`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

from t2tdeploy.classifier import Classification, RawExample
from t2tdeploy.errors import RequestError
from t2tdeploy.progress import Reporter, SilentReporter, Task
from t2tdeploy.serving.attempts import DEFAULT_OPTIONS, ClientOptions
from t2tdeploy.serving.classification_messages import read_classify_response, write_classify_request
from t2tdeploy.serving.connection import AsyncConnection, Connection
from t2tdeploy.serving.in_flight import ask_all, ask_all_async
from t2tdeploy.serving.row_requests import Request
from t2tdeploy.serving.v1 import classification_pb2 as pb
from t2tdeploy.serving.v1.classification_pb2_grpc import ClassificationServiceStub


class ClassificationClient(Connection):
    """A client for plain code; may be shared by threads. Close it, or use it in a `with`.

    Args:
        target: "host:port" of the server, or any other name that gRPC resolves: "dns:///name:port".
        options: `sentences_per_request` is of examples.
    """

    def __init__(self, target: str, options: ClientOptions = DEFAULT_OPTIONS) -> None:
        super().__init__(target, options)
        self._stub = ClassificationServiceStub(self._channel)

    def classify(
        self,
        examples: Sequence[RawExample],
        *,
        top_k: int = 1,
        truncate: bool = False,
        reporter: Reporter | None = None,
    ) -> list[Classification]:
        """The answer to every example, in their order; see `Classifier.classify`.

        Args:
            reporter: is told how many examples are done.

        Raises:
            RequestError: an example or option is not valid; the place is named, e.g. examples[3].width.
            ServerError: the server did not answer, or with another status than OK.
        """
        requests = _requests(examples, top_k, truncate, self._options)
        with _progress(reporter, examples) as task:
            return ask_all(
                requests,
                lambda message, seconds: self._stub.Classify.future(message, timeout=seconds),
                read_classify_response,
                target=self._target,
                options=self._options,
                task=task,
            )


class AsyncClassificationClient(AsyncConnection):
    """A client for asyncio. Make and use it on one event loop; close it, or use it in an `async with`.

    Args:
        target: "host:port" of the server, or any other name that gRPC resolves: "dns:///name:port".
        options: `sentences_per_request` is of examples.
    """

    def __init__(self, target: str, options: ClientOptions = DEFAULT_OPTIONS) -> None:
        super().__init__(target, options)
        self._stub = ClassificationServiceStub(self._channel)

    async def classify(
        self,
        examples: Sequence[RawExample],
        *,
        top_k: int = 1,
        truncate: bool = False,
        reporter: Reporter | None = None,
    ) -> list[Classification]:
        """As `ClassificationClient.classify`; cancelling it cancels the requests."""
        requests = _requests(examples, top_k, truncate, self._options)
        with _progress(reporter, examples) as task:
            return await ask_all_async(
                requests,
                lambda message, seconds: self._stub.Classify(message, timeout=seconds),
                read_classify_response,
                target=self._target,
                options=self._options,
                task=task,
            )


def _progress(reporter: Reporter | None, examples: Sequence[RawExample]) -> AbstractContextManager[Task]:
    return (reporter or SilentReporter()).task("classifying", total=len(examples), unit="examples")


def _requests(
    examples: Sequence[RawExample], top_k: int, truncate: bool, client: ClientOptions
) -> list[Request[pb.ClassifyRequest]]:
    """The requests for `examples`; all are made before the first is sent."""
    if isinstance(examples, str | bytes | Mapping):
        raise RequestError("examples", "one example, where a list of them is expected", help="put it into a list")
    size = client.sentences_per_request
    requests: list[Request[pb.ClassifyRequest]] = []
    for first in range(0, len(examples), size):
        message = write_classify_request(
            examples[first : first + size],
            first=first,
            top_k=top_k,
            truncate=truncate,
            model=client.model,
            model_version=client.model_version,
            priority=client.priority or 0,
        )
        requests += Request(first, message, "examples", ("texts", "images", "examples")).cut(size)
    return requests
