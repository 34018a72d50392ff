"""The obvious gRPC server, for comparison: grpcio's thread pool, our messages, every request a search of its own.

    python benchmarks/serving_naive.py BUNDLE THREADS WORKERS

Writes {"event": "serving", "port": …} when it answers. It translates with the same `Translator` as our server: what is
compared is what stands around it.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from t2tdeploy.bundle import load_bundle
from t2tdeploy.serving.v1 import translation_pb2 as pb
from t2tdeploy.serving.v1.translation_pb2_grpc import (
    TranslationServiceServicer,
    add_TranslationServiceServicer_to_server,
)
from t2tdeploy.translator import Translator


class Servicer(TranslationServiceServicer):
    """Translates with one session, which `WORKERS` threads share."""

    def __init__(self, translator: Translator) -> None:
        self._translator = translator

    def Translate(self, request: pb.TranslateRequest, context: Any) -> pb.TranslateResponse:  # noqa: N802
        found = self._translator.translate(list(request.sources))
        return pb.TranslateResponse(
            translations=[
                pb.Translation(hypotheses=[pb.Hypothesis(text=one.text, score=one.score, tokens=one.tokens)])
                for one, *_ in found
            ]
        )


def main() -> None:
    bundle, threads, workers = sys.argv[1:]
    translator = Translator(load_bundle(Path(bundle)), threads=int(threads))
    translator.warm_up()
    server = grpc.server(ThreadPoolExecutor(int(workers)))
    add_TranslationServiceServicer_to_server(Servicer(translator), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(json.dumps({"event": "serving", "port": port}), flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
