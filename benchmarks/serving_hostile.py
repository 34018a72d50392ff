"""What clients may do to a server, on purpose or not: malformed requests, limits overstepped, connections lost.

Every answer has to be a status of the error table within its deadline, and afterwards the server serves as before.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import psutil
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from serving_fuzz import INFERENCE, Method, cases, http_methods, inference_methods, own_methods
from serving_gates import CAPACITY_CALLERS, MEGABYTE, Gates, is_well, put
from serving_process import ServerProcess

from t2tdeploy.load_testing.plan import ClosedLoop, request_messages
from t2tdeploy.serving.messages import SERVICE
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.serving.v1 import translation_pb2 as pb

HERE = Path(__file__).parent
TABLE = {
    "OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "UNAUTHENTICATED", "PERMISSION_DENIED",
}  # fmt: skip
"""The error table without INTERNAL, for malformed input is not the server's fault, and without DEADLINE_EXCEEDED,
which is what a client sees of a request that hangs."""
HTTP_TABLE = {f"HTTP {status}" for status in (200, 400, 401, 403, 404, 405, 413, 415, 429, 503)}
TOGETHER = 16
VICTIM_SENTENCES = 64
FUZZ_DEADLINE = 60.0
GROWTH_MIB = 64


def fuzz(gates: Gates, count: int, seed: int = 0) -> dict[str, Any]:
    """`count` requests, most of them malformed, to each of the ways to ask for translations: the unary calls of our own
    service and of Open Inference, and HTTP."""
    http = {"http_port": 0} if "http_port" in ServerOptions.model_fields else {}
    with gates.server(**http) as server:
        services = services_of(server.address)
        model = model_of(server.address)
        surfaces = {SERVICE: own_methods()}
        if INFERENCE in services:
            surfaces[INFERENCE] = inference_methods(model)
        before = server.resident_bytes()
        found: dict[str, Any] = {}
        for name, methods in surfaces.items():
            gates.say(f"fuzz: {count} requests to {name}")
            found[name] = asyncio.run(send_cases(server.address, methods, count, seed))
        if http:
            gates.say(f"fuzz: {count} requests over HTTP")
            address = f"http://127.0.0.1:{server.serving['http_port']}"
            found["http"] = asyncio.run(send_http_cases(address, http_methods(model), count, seed))
        after, well = server.resident_bytes(), is_well(server, gates)
        status, stopped = server.stop()
        tracebacks = server.log.count("Traceback")
    table = TABLE | HTTP_TABLE
    strange = {status: words for of in found.values() for status, words in of["words"].items() if status not in table}
    return {
        "services": found, "not_of_the_table": strange, "well_after": well, "tracebacks_in_log": tracebacks,
        "memory_mib": [round(before / MEGABYTE), round(after / MEGABYTE)], "unfinished": stopped["unfinished"],
        "passed": not strange and status == 0 and tracebacks == 0 and well["health"] == "SERVING"
        and well["answered"] == 5 and stopped["unfinished"] == 0,
    }  # fmt: skip


async def send_cases(address: str, methods: list[Method], count: int, seed: int) -> dict[str, Any]:
    """Sends them, some at a time; counts the answers by status, with an example of the words of each."""
    draw = cases(methods, seed)
    statuses: Counter[str] = Counter()
    words: dict[str, str] = {}
    left = count
    async with grpc.aio.insecure_channel(address) as channel:

        async def work() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                path, content = draw()
                status, said = await ask(channel, path, content, FUZZ_DEADLINE)
                statuses[status] += 1
                words.setdefault(status, f"{path}: {said}")

        await asyncio.gather(*(work() for _ in range(TOGETHER)))
    return {"requests": count, "statuses": dict(statuses.most_common()), "words": words}


async def send_http_cases(address: str, methods: list[Method], count: int, seed: int) -> dict[str, Any]:
    """The same over HTTP."""
    draw = cases(methods, seed)
    statuses: Counter[str] = Counter()
    words: dict[str, str] = {}
    left = count
    timeout = aiohttp.ClientTimeout(total=FUZZ_DEADLINE)
    async with aiohttp.ClientSession(timeout=timeout) as session:

        async def work() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                path, content = draw()
                async with session.post(address + path, data=content) as answer:
                    said = (await answer.read())[:200].decode(errors="replace")
                status = f"HTTP {answer.status}"
                statuses[status] += 1
                words.setdefault(status, f"{path}: {said}")

        await asyncio.gather(*(work() for _ in range(TOGETHER)))
    return {"requests": count, "statuses": dict(statuses.most_common()), "words": words}


async def ask(channel: grpc.aio.Channel, path: str, content: bytes, deadline: float) -> tuple[str, str]:
    """Status and words of one call, bytes in, bytes out."""
    call: Any = channel.unary_unary(path)
    try:
        await call(content, timeout=deadline)
    except grpc.aio.AioRpcError as error:
        return error.code().name, (error.details() or "")[:200]
    return "OK", ""


def services_of(address: str) -> set[str]:
    """What the server says it has."""
    with grpc.insecure_channel(address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = stub.ServerReflectionInfo(iter([request]), timeout=10)
        return {one.name for answer in answers for one in answer.list_services_response.service}


def model_of(address: str) -> str:
    """The name of its first model."""
    with grpc.insecure_channel(address) as channel:
        content = channel.unary_unary(f"/{SERVICE}/ListModels")(b"", timeout=10)
    return str(pb.ListModelsResponse.FromString(content).models[0].name)


def oversteps() -> dict[str, tuple[bytes, set[str]]]:
    """Requests beyond the limits, and the statuses that are right for them."""
    invalid = {"INVALID_ARGUMENT"}
    request = pb.TranslateRequest
    return {
        "no bytes at all": (b"", invalid),
        "no sources": (request(model="").SerializeToString(), invalid),
        "10 000 sentences": (request(sources=["A dog runs."] * 10_000).SerializeToString(), invalid),
        "a sentence of 1 MB": (request(sources=["word " * 200_000]).SerializeToString(), invalid),
        "a sentence of 1 MB without a space": (request(sources=["x" * 1_000_000]).SerializeToString(), invalid),
        "a message of 5 MB": (request(sources=["word " * 1_000_000]).SerializeToString(), invalid),
        "a message of 40 MB": (request(sources=["word " * 8_000_000]).SerializeToString(), {"RESOURCE_EXHAUSTED"}),
        "an unknown option": (b"\x12\x01a\x1a\x03\xf8\x3f\x01", invalid),
        "an unknown field": (b"\x12\x01a\xf8\x3f\x01", {"OK", *invalid}),
        "a source that is a number": (b"\x10\x05", invalid),
        "not UTF-8": (b"\x12\x02\xc3\x28", invalid),
        "a length that lies": (b"\x12\xff\xff\xff\xff\x0fabc", invalid),
        "an unknown model": (request(model="none", sources=["a"]).SerializeToString(), {"NOT_FOUND"}),
        "a beam of 2^31 - 1": (
            request(sources=["a"], options=pb.DecodeOptions(beam_size=2**31 - 1)).SerializeToString(), invalid,
        ),
        "alpha = infinity": (
            request(sources=["a"], options=pb.DecodeOptions(alpha=float("inf"))).SerializeToString(), invalid,
        ),
    }  # fmt: skip


def limits(gates: Gates, idle: int = 200) -> dict[str, Any]:
    """Every overstepped limit is answered with its status; connections that do nothing cost nobody anything."""
    with gates.server() as server:
        before = server.resident_bytes()
        found = asyncio.run(overstep(server.address))
        idling = asyncio.run(idle_connections(server, gates, idle))
        after, well = server.resident_bytes(), is_well(server, gates)
        status, _ = server.stop()
        tracebacks = server.log.count("Traceback")
    wrong = {name: one for name, one in found.items() if not one["right"]}
    return {
        "requests": found, "wrong": sorted(wrong), "idle_connections": idling, "well_after": well,
        "memory_mib": [round(before / MEGABYTE), round(after / MEGABYTE)], "tracebacks_in_log": tracebacks,
        "passed": not wrong and idling["answered_beside"] == 5 and well["answered"] == 5 and status == 0
        and tracebacks == 0 and after < before + GROWTH_MIB * MEGABYTE,
    }  # fmt: skip


async def overstep(address: str) -> dict[str, dict[str, Any]]:
    """Sends each; status, words and seconds."""
    found = {}
    async with grpc.aio.insecure_channel(address) as channel:
        for name, (content, right) in oversteps().items():
            begun = time.perf_counter()
            status, words = await ask(channel, f"/{SERVICE}/Translate", content, 10.0)
            seconds = round(time.perf_counter() - begun, 3)
            found[name] = {"status": status, "words": words[:100], "seconds": seconds, "right": status in right}
    return found


async def idle_connections(server: ServerProcess, gates: Gates, count: int) -> dict[str, Any]:
    """Bare TCP connections that never say anything, and HTTP/2 ones that ping more often than is polite."""
    before = server.resident_bytes()
    silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(count)]
    options = [("grpc.keepalive_time_ms", 1000), ("grpc.keepalive_permit_without_calls", 1),
               ("grpc.http2.max_pings_without_data", 0), ("grpc.use_local_subchannel_pool", 1)]  # fmt: skip
    pinging = [grpc.aio.insecure_channel(server.address, options=options) for _ in range(4)]
    for channel in pinging:
        await asyncio.wait_for(channel.channel_ready(), 10)
    await asyncio.sleep(min(5.0, gates.seconds))
    beside = await asyncio.to_thread(is_well, server, gates)
    again = [await ask(channel, f"/{SERVICE}/ListModels", b"", 10.0) for channel in pinging]
    held = server.resident_bytes()
    for _, writer in silent:
        writer.close()
    for channel in pinging:
        await channel.close()
    return {
        "silent": count,
        "answered_beside": beside["answered"],
        "pinging_answers": dict(Counter(status for status, _ in again)),
        "kib_of_a_connection": round((held - before) / 1024 / count, 1),
    }


def kills(gates: Gates, count: int, seed: int = 0) -> dict[str, Any]:
    """Client processes get SIGKILL in the middle of their requests: the server drops their work and keeps nothing."""
    messages = request_messages(gates.sources, VICTIM_SENTENCES)[:20]
    file = gates.folder / "victims.txt"
    file.write_text("\n".join(message.hex() for message in messages))
    with gates.server() as server:
        # Full batches, two at once, so that what they need is not taken for a leak.
        put(server, gates, ClosedLoop(CAPACITY_CALLERS), duration=None, requests=10 * CAPACITY_CALLERS)
        before = server.resident_bytes()
        command = [sys.executable, HERE / "serving_victims.py", server.address, file, count, seed]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the victims failed: {done.stderr[-2000:]}")
        killed = json.loads(done.stdout.splitlines()[-1])
        left = wait_for_no_connections(server)
        well, after = is_well(server, gates), server.resident_bytes()
        status, stopped = server.stop()
        tracebacks = server.log.count("Traceback")
    return {
        **killed, "connections_left": left, "well_after": well, "answers": stopped["answers"],
        "unfinished": stopped["unfinished"], "tracebacks_in_log": tracebacks,
        "memory_mib": [round(before / MEGABYTE), round(after / MEGABYTE)],
        "passed": killed["killed_mid_request"] == count and left == 0 and well["answered"] == 5
        and well["health"] == "SERVING" and stopped["unfinished"] == 0 and status == 0 and tracebacks == 0
        and after < before + GROWTH_MIB * MEGABYTE,
    }  # fmt: skip


def wait_for_no_connections(server: ServerProcess, seconds: float = 20.0) -> int:
    """Open connections of the server, once there are none, or after so long."""
    process, deadline = psutil.Process(server.process.pid), time.monotonic() + seconds
    while True:
        left = sum(one.status == psutil.CONN_ESTABLISHED for one in process.net_connections("tcp"))
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)
