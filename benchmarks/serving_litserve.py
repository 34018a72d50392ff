"""LitServe around the same `Translator`, for comparison: JSON over HTTP, with its dynamic batching.

    python benchmarks/serving_litserve.py BUNDLE THREADS WORKERS BATCH_TIMEOUT

Each of the workers is a process with a model of so many threads.

{"source": …} at /predict gives {"text": …, "tokens": …}. Writes {"event": "serving", "port": …} when it has the model.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import litserve

from t2tdeploy.bundle import load_bundle
from t2tdeploy.translator import Translator

MAX_BATCH = 64


class Api(litserve.LitAPI):  # type: ignore[misc]
    """Batches are translated as `Translator.translate` does: the longest first, cut where memory would not do."""

    def __init__(self, bundle: Path, threads: int, port: int, batch_timeout: float) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=batch_timeout)
        self._bundle, self._threads, self._port = bundle, threads, port

    def setup(self, device: str) -> None:
        self._translator = Translator(load_bundle(self._bundle), threads=self._threads, max_batch_size=MAX_BATCH)
        self._translator.warm_up()
        os.write(1, (json.dumps({"event": "serving", "port": self._port}) + "\n").encode())

    def decode_request(self, request: dict[str, str]) -> str:
        return request["source"]

    def predict(self, sources: list[str]) -> list[dict[str, Any]]:
        return [{"text": one.text, "tokens": one.tokens} for one, *_ in self._translator.translate(sources)]

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    bundle, threads, workers, batch_timeout = sys.argv[1:]
    port = free_port()
    api = Api(Path(bundle), int(threads), port, float(batch_timeout))
    server = litserve.LitServer(
        api, accelerator="cpu", devices=1, workers_per_device=int(workers), timeout=False, fast_queue=True
    )
    server.run(host="127.0.0.1", port=port, num_api_servers=1, generate_client_file=False, log_level="error")


if __name__ == "__main__":
    main()
