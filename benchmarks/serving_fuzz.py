"""Requests that nobody should send: random bytes, damaged messages, others of the wrong type. A seed decides which."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from t2tdeploy.serving.messages import SERVICE
from t2tdeploy.serving.v1 import translation_pb2 as pb

INFERENCE = "inference.GRPCInferenceService"
INTERESTING = (0, 1, 127, 128, 255, 0x80, 0xFE)
LARGE = 2000  # bytes that a mutation adds at most


@dataclass(frozen=True)
class Method:
    """A method and valid requests for it."""

    path: str
    seeds: tuple[bytes, ...]


def own_methods() -> list[Method]:
    """Those of our service, with short sources: what is not refused is cheap."""
    requests = [
        pb.TranslateRequest(sources=["A dog."]),
        pb.TranslateRequest(sources=["A dog.", "", "Zwei Hündinnen"], options=pb.DecodeOptions(beam_size=2, alpha=0.5)),
        pb.TranslateRequest(
            sources=["a"],
            options=pb.DecodeOptions(
                beam_size=1, num_hypotheses=1, extra_length=1, max_length=3, suppress=["▁a"], top_k=2, temperature=1.0
            ),
        ),
        pb.TranslateRequest(sources=["a b"], target_prefixes=["Ein"], options=pb.DecodeOptions(return_tokens=True)),
    ]
    listing = Method(f"/{SERVICE}/ListModels", (b"", b"\x0a\x01a"))
    return [Method(f"/{SERVICE}/Translate", tuple(one.SerializeToString() for one in requests)), listing]


def inference_methods(model: str) -> list[Method]:
    """Those of the Open Inference Protocol, from the messages of tritonclient; empty if that is not installed."""
    try:
        from tritonclient.grpc import service_pb2 as kserve
    except ImportError:
        return []
    text = kserve.ModelInferRequest(model_name=model)
    text.inputs.add(name="sources", datatype="BYTES", shape=[1, 1]).contents.bytes_contents.append(b"A dog.")
    raw = kserve.ModelInferRequest(model_name=model, raw_input_contents=[b"\x06\x00\x00\x00A dog."])
    raw.inputs.add(name="sources", datatype="BYTES", shape=[1, 1])
    ids = kserve.ModelInferRequest(model_name=model, raw_input_contents=[(5).to_bytes(8, "little") * 3])
    ids.inputs.add(name="source_ids", datatype="INT64", shape=[1, 3])
    lying = kserve.ModelInferRequest(model_name=model, raw_input_contents=[b"\x01\x00\x00\x00a"])
    lying.inputs.add(name="sources", datatype="BYTES", shape=[2**40, 2**40])
    wrong = kserve.ModelInferRequest(model_name=model)
    wrong.inputs.add(name="sources", datatype="FP32", shape=[1, 1]).contents.fp32_contents.append(1.5)
    named = {
        "ServerLive": kserve.ServerLiveRequest(),
        "ServerReady": kserve.ServerReadyRequest(),
        "ServerMetadata": kserve.ServerMetadataRequest(),
        "ModelReady": kserve.ModelReadyRequest(name=model),
        "ModelMetadata": kserve.ModelMetadataRequest(name=model),
        "ModelConfig": kserve.ModelConfigRequest(name=model),
        "ModelStatistics": kserve.ModelStatisticsRequest(name=model),
        "RepositoryIndex": kserve.RepositoryIndexRequest(),
    }
    infer = tuple(one.SerializeToString() for one in (text, raw, ids, lying, wrong))
    others = [Method(f"/{INFERENCE}/{name}", (one.SerializeToString(),)) for name, one in named.items()]
    return [Method(f"/{INFERENCE}/ModelInfer", infer), *others]


def http_methods(model: str) -> list[Method]:
    """Open Inference over HTTP: bodies of JSON."""
    bodies: list[dict[str, Any]] = [
        {"inputs": [{"name": "sources", "shape": [1, 1], "datatype": "BYTES", "data": ["A dog."]}]},
        {"inputs": [{"name": "source_ids", "shape": [1, 2], "datatype": "INT64", "data": [[5, 1]]}], "id": "7"},
        {"inputs": [{"name": "sources", "shape": [2**40, 9], "datatype": "BYTES", "data": ["a"]}]},
        {"inputs": [{"name": "sources", "shape": [1, 1], "datatype": "FP32", "data": [1.5]}]},
        {"inputs": {"name": 1}, "outputs": None, "parameters": {"beam_size": 10**30}},
    ]
    infer = Method(f"/v2/models/{model}/infer", tuple(json.dumps(body).encode() for body in bodies))
    return [infer, Method("/v2/models/none/infer", infer.seeds), Method("/v2/repository/index", (b"{}",))]


def cases(methods: Sequence[Method], seed: int) -> Callable[[], tuple[str, bytes]]:
    """Draws one request after the other: the path, and the bytes."""
    draw = random.Random(seed)
    seeds = [one for method in methods for one in method.seeds]

    def one() -> tuple[str, bytes]:
        method = methods[0] if draw.random() < 0.6 else draw.choice(methods)
        kind = draw.random()
        if kind < 0.25:
            return method.path, draw.randbytes(draw.randrange(200))
        if kind < 0.35:
            return method.path, draw.choice(seeds)  # of another method: another type
        content = bytearray(draw.choice(method.seeds))
        for _ in range(draw.randint(1, 4)):
            mutate(content, draw)
        return method.path, bytes(content)

    return one


def mutate(content: bytearray, draw: random.Random) -> None:
    """One damage: a bit, a byte, a piece cut out, repeated or put in."""
    place = draw.randrange(len(content) + 1)
    match draw.randrange(6):
        case 0 if place < len(content):
            content[place] ^= 1 << draw.randrange(8)
        case 1 if place < len(content):
            content[place] = draw.choice(INTERESTING)
        case 2:
            del content[place : place + draw.randint(1, 8)]
        case 3:
            content[place:place] = content[place : place + draw.randint(1, 20)] * draw.randint(1, 5)
        case 4:
            content[place:place] = draw.randbytes(draw.randint(1, 16))
        case _:
            content[place:place] = bytes([draw.choice(INTERESTING)]) * draw.randint(1, LARGE)
