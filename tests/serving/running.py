"""Real servers for tests: in a thread of this process, or as a process of its own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from t2tdeploy.bundle import MANIFEST, Bundle
from t2tdeploy.progress import SilentReporter
from t2tdeploy.serving.bundle_source import BundleFolders, BundleSource, RepositoryFolder
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.serving.server import Server


@contextmanager
def running(bundle: Bundle | BundleSource, **options: Any) -> Iterator[Server]:
    """A server on a free port, in a thread; stopped at the end."""
    with starting(bundle, **options) as (server, ready):
        ready()
        yield server


@contextmanager
def starting(bundle: Bundle | BundleSource, **options: Any) -> Iterator[tuple[Server, Any]]:
    """A server whose port is bound, perhaps not serving yet, and a function that waits until it does."""
    source = BundleFolders([bundle.directory]) if isinstance(bundle, Bundle) else bundle
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def call(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)

    async def make() -> Server:
        return Server(source, ServerOptions.create({"port": 0, "threads": 1, **options}), SilentReporter())

    server = call(make())
    start = asyncio.run_coroutine_threadsafe(server.start(), loop)
    try:
        while server.port is None and not start.done():
            threading.Event().wait(0.005)
        yield server, lambda: start.result(30)
    finally:
        start.exception(30)
        call(server.stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def waiting_sentences(server: Server) -> int:
    """Sentences or examples in the queues of all models."""
    return sum(model.scheduler.state().waiting_sentences for model in server.repository.models())


@contextmanager
def answering(service: str, method: str, answer: Callable[..., Any], request: Any, response: Any) -> Iterator[int]:
    """A server of one method, which the test answers itself; its port.

    Args:
        answer: request, context -> response.
        request, response: the messages' classes.
    """
    server = grpc.server(ThreadPoolExecutor(4))
    handler = grpc.unary_unary_rpc_method_handler(answer, request.FromString, response.SerializeToString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(0)


class ServerProcess:
    """`serve` of a bundle or repository in a process of its own; its events come as lines of JSON."""

    def __init__(self, bundle: Path, **options: Any) -> None:
        settings = json.dumps({"port": 0, "threads": 1, **options})
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.serving.running", str(bundle), settings], stdout=subprocess.PIPE, text=True
        )

    def event(self, name: str) -> dict[str, Any]:
        """The next event of this name; waits for it."""
        assert self.process.stdout
        events = map(json.loads, self.process.stdout)
        return next(event for event in events if event["event"] == name)

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()


def source_of(path: Path) -> BundleSource:
    return BundleFolders([path]) if (path / MANIFEST).is_file() else RepositoryFolder(path)


class _JsonReporter(SilentReporter):
    def event(self, name: str, **data: Any) -> None:
        print(json.dumps({"event": name, **data}), flush=True)


if __name__ == "__main__":
    from t2tdeploy.serving.server import serve

    serve(source_of(Path(sys.argv[1])), ServerOptions.create(json.loads(sys.argv[2])), _JsonReporter())
