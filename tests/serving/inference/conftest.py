"""A server in a process of its own, and what its bundle answers without one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import tritonclient.grpc as triton

from t2tdeploy.bundle import Bundle
from t2tdeploy.translator import Translator
from tests.serving.running import ServerProcess
from tests.serving.toy_bundle import write_toy_bundle


@dataclass(frozen=True)
class Served:
    """A server's addresses, and its bundle's translator."""

    grpc: str
    http: str
    translator: Translator


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy")


@pytest.fixture(scope="session")
def served(bundle: Bundle) -> Iterator[Served]:
    limits = {"max_sentences_per_request": 16, "max_request_bytes": 200_000}
    with ServerProcess(bundle.directory, http_port=0, **limits) as server:
        event = server.event("serving")
        addresses = [f"127.0.0.1:{event[port]}" for port in ("port", "http_port")]
        yield Served(*addresses, Translator(bundle, threads=1))


@pytest.fixture(scope="session")
def client(served: Served) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(served.grpc) as client:
        yield client


def tensor(name: str, values: list, dtype=object, kind=triton.InferInput):
    """An input for tritonclient."""
    array = np.array(values, dtype)
    found = kind(name, array.shape, "BYTES" if dtype is object else "INT64")
    return found.set_data_from_numpy(array)
