"""How a client asks, and whether and when it asks again."""

from __future__ import annotations

import math
import random
import re
import time
from dataclasses import dataclass
from typing import cast

import grpc

from t2tdeploy.errors import RequestError, ServerError, T2TDeployError
from t2tdeploy.serving.answering import FEWER_ROWS, RETRY_AFTER
from t2tdeploy.serving.channel import PLAIN, Security, call_timeout

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0  # seconds
_UNREAD = re.compile(r"message larger than max \((\d+) vs\. (\d+)\)")
"""gRPC's own words, from a server that did not read a message to its end."""


@dataclass(frozen=True)
class ClientOptions:
    """How a client asks.

    Args:
        model: name of the model, or an alias; empty: the server's only one.
        model_version: its number or content; empty: the newest.
        priority: -2 to 2; higher goes first. None: 0 for sentences, less for documents, which let others pass.
        timeout: seconds that one request may take, retries included; infinite: as long as it takes.
        retries: times that one request is tried again when the server is full, starting or stopping.
        sentences_per_request: a longer list becomes several requests.
        requests_in_flight: of these, how many are under way at once.
        security: TLS and token.

    Raises:
        RequestError: a number is too small, or none.
    """

    model: str = ""
    model_version: str = ""
    priority: int | None = None
    timeout: float = 60.0
    retries: int = 5
    sentences_per_request: int = 32
    requests_in_flight: int = 4
    security: Security = PLAIN

    def __post_init__(self) -> None:
        least = {"timeout": 0, "retries": 0, "sentences_per_request": 1, "requests_in_flight": 1}
        for name, smallest in least.items():
            if (value := getattr(self, name)) < smallest:
                raise RequestError(name, f"{value} is less than {smallest}")
            if math.isnan(value):
                raise RequestError(name, "nan is no number")


DEFAULT_OPTIONS = ClientOptions()


class Attempts:
    """The tries of one request: how long each may take, and whether another follows.

    Args:
        first: index of its first row in the call.
        only_row: what errors call its row, if it has one.
    """

    def __init__(self, target: str, options: ClientOptions, first: int = 0, only_row: str = "") -> None:
        self._target, self._options, self._first, self._only_row = target, options, first, only_row
        self._deadline = time.monotonic() + options.timeout
        self._tried = 0

    @property
    def timeout(self) -> float | None:
        """Of the next call: the seconds that are left."""
        return call_timeout(self._left)

    @property
    def _left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def pause_after(self, error: grpc.RpcError, *, again: bool = True) -> float:
        """Seconds to wait before the next try.

        Args:
            again: whether there may be one.

        Raises:
            RequestError, ServerError: there is none.
        """
        call = cast(grpc.Call, error)  # every RpcError of a call is one
        pause = self._pause(call)
        if not again or self._tried >= self._options.retries or pause is None or pause >= self._left:
            raise self._as_error(call) from None
        self._tried += 1
        return pause

    def _pause(self, call: grpc.Call) -> float | None:
        hint = dict(call.trailing_metadata() or ()).get(RETRY_AFTER)
        if hint is not None:
            return int(hint) / 1000 * random.uniform(1.0, 1.5)  # so that those refused together do not return together
        # CANCELLED, not by this client: gRPC's own answer to a call that reaches a port which is closing.
        if call.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            return None
        return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**self._tried) * random.uniform(0.5, 1.0)

    def _as_error(self, call: grpc.Call) -> T2TDeployError:
        code, details = call.code(), call.details() or ""
        if asks_for_fewer_rows(call):
            return self._too_large(details)
        if code == grpc.StatusCode.INVALID_ARGUMENT:
            return self._invalid(details)
        help = {
            grpc.StatusCode.UNAVAILABLE: unreachable_help(self._target, self._options.security, details),
            grpc.StatusCode.RESOURCE_EXHAUSTED: "the server is overloaded: send less at once, or add servers",
            grpc.StatusCode.UNAUTHENTICATED: "give the server's token: --token-file FILE, or T2TDEPLOY_TOKEN",
            grpc.StatusCode.PERMISSION_DENIED: "ask who runs the server for a token with the role that is needed",
            grpc.StatusCode.DEADLINE_EXCEEDED: f"no answer within {self._options.timeout:g} s: raise the timeout",
            grpc.StatusCode.UNIMPLEMENTED: f"is {self._target} a t2tdeploy server?",
        }.get(code)
        return ServerError(code.name, details, help=help)

    def _invalid(self, details: str) -> RequestError:
        field, _, message = details.partition(": ")
        field = re.sub(r"\[(\d+)\]", lambda match: f"[{int(match[1]) + self._first}]", field, count=1)
        return RequestError(field, message)

    def _too_large(self, details: str) -> RequestError:
        if unread := _UNREAD.search(details):
            details = f"request: {unread[1]} bytes, the server reads {unread[2]}"
        error = self._invalid(details)
        if not self._only_row or error.field.startswith("options."):
            return error
        return RequestError(self._only_row, error.message.removeprefix(f"{error.field}: "))


def asks_for_fewer_rows(error: grpc.RpcError | grpc.Call) -> bool:
    """Whether a request was refused for its size, so that one of fewer rows may be answered."""
    call = cast(grpc.Call, error)
    if call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return bool(_UNREAD.search(call.details() or ""))
    return FEWER_ROWS in dict(call.trailing_metadata() or ())


def unreachable_help(target: str, security: Security, details: str) -> str:
    """What to do about a server that cannot be reached, or not by the way that was taken."""
    if re.search(r"CERTIFICATE_VERIFY_FAILED|Hostname Verification", details):
        return "trust the authority of its certificate with --tls-ca FILE, and call it by a name in the certificate"
    if "WRONG_VERSION_NUMBER" in details:
        return "it does not speak TLS: leave the options of TLS out"
    if "Failed parsing HTTP/2" in details:
        return (
            f"{target} does not speak gRPC: it may be the server's HTTP port; gRPC's is --port of t2tdeploy serve, "
            "50051 by default"
        )
    words = f"is the server running at {target}? t2tdeploy serve starts one"
    other = "its certificate is not trusted" if security.encrypted else "it speaks TLS"
    return f"{words}; if {other}, give --tls-ca FILE"
