"""What grpc.health.v1 tells, to real clients and to one that does not read."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from t2tdeploy.bundle import Bundle
from t2tdeploy.serving.health_service import HealthService
from tests.serving.running import ServerProcess
from tests.serving.silent_watcher import silent_watcher
from tests.serving.toy_bundle import write_toy_bundle

Health = health_pb2.HealthCheckResponse


def request(name: str = "") -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=name)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy")


def with_service(work: Callable[[HealthService, health_pb2_grpc.HealthStub, int], Awaitable[None]]) -> None:
    @asynccontextmanager
    async def served() -> AsyncIterator[tuple[HealthService, health_pb2_grpc.HealthStub, int]]:
        server, service = grpc.aio.server(), HealthService()
        health_pb2_grpc.add_HealthServicer_to_server(service, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield service, health_pb2_grpc.HealthStub(channel), port
        finally:
            await server.stop(0)

    async def run() -> None:
        async with asyncio.timeout(60), served() as parts:
            await work(*parts)

    asyncio.run(run())


def test_check_tells_the_status_of_names_that_are_known() -> None:
    async def work(service: HealthService, stub: health_pb2_grpc.HealthStub, _: int) -> None:
        service.set({"": True, "ende": False})
        assert (await stub.Check(request())).status == Health.SERVING
        assert (await stub.Check(request("ende"))).status == Health.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(request("deen"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    with_service(work)


def test_watch_tells_every_change_that_is_one_from_unknown_on() -> None:
    async def work(service: HealthService, stub: health_pb2_grpc.HealthStub, _: int) -> None:
        watch = stub.Watch(request("ende"))
        assert (await watch.read()).status == Health.SERVICE_UNKNOWN
        service.set({"deen": True})
        for state, status in ((True, Health.SERVING), (False, Health.NOT_SERVING), (True, Health.SERVING)):
            service.set({"ende": state})
            assert (await watch.read()).status == status
            service.set({"ende": state})

    with_service(work)


def test_a_watcher_that_does_not_read_hears_the_last_of_what_it_missed() -> None:
    class Slow:
        def __init__(self) -> None:
            self.told: list[int] = []
            self.reads = asyncio.Semaphore(0)
            self.writing = asyncio.Semaphore(0)

        async def write(self, response: Health) -> None:
            self.told.append(response.status)
            self.writing.release()
            await self.reads.acquire()

    async def run() -> None:
        service, slow = HealthService(), Slow()
        service.set({"": True})
        watch = asyncio.create_task(service.Watch(request(), slow))
        await slow.writing.acquire()
        for state in (False, True, False):
            service.set({"": state})
        slow.reads.release()
        await slow.writing.acquire()
        assert slow.told == [Health.SERVING, Health.NOT_SERVING]
        watch.cancel()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_watcher_that_does_not_read_keeps_no_other_from_hearing() -> None:
    async def work(service: HealthService, stub: health_pb2_grpc.HealthStub, port: int) -> None:
        service.set({"": True})
        silent = await asyncio.to_thread(silent_watcher, port)
        watch = stub.Watch(request())
        assert (await watch.read()).status == Health.SERVING
        service.set({"": False})
        assert (await watch.read()).status == Health.NOT_SERVING
        silent.close()

    with_service(work)


def test_a_watcher_that_does_not_read_keeps_no_server_from_stopping(bundle: Bundle) -> None:
    with ServerProcess(bundle.directory) as server:
        port = server.event("serving")["port"]
        with silent_watcher(port), grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(request(), timeout=60)
            assert next(watch).status == Health.SERVING
            server.process.send_signal(signal.SIGTERM)
            assert next(watch).status == Health.NOT_SERVING
            assert server.process.wait(60) == 0
