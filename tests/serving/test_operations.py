"""What operators ask of a server, seen by clients on real connections."""

import asyncio
import logging
import re
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from t2tdeploy.bundle import Bundle
from t2tdeploy.errors import InputError, ServerError
from t2tdeploy.serving.access_log import ACCESS_LOGGER
from t2tdeploy.serving.channel import Security
from t2tdeploy.serving.client import AsyncClient, Client, ClientOptions
from t2tdeploy.serving.health import health_of
from t2tdeploy.serving.operations import Operations
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.serving.v1 import translation_pb2 as pb
from t2tdeploy.serving.v1.translation_pb2_grpc import TranslationServiceStub
from tests.serving.certificates import Authority
from tests.serving.running import ServerProcess, running
from tests.serving.toy_bundle import ENDLESS_ALPHA, write_toy_bundle

TOKEN, ADMIN = "user-0123456789abcdef", "admin-0123456789abcdef"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"web:{TOKEN}\nops:admin:{ADMIN}\n")
    path.chmod(0o600)
    return path


def channel_to(port: int | None, **arguments: int) -> grpc.Channel:
    options = [(f"grpc.{name}", value) for name, value in arguments.items()]
    return grpc.insecure_channel(f"127.0.0.1:{port}", options=options)


def client(port: int | None, **security: object) -> Client:
    secured = Security(**security)  # type: ignore[arg-type]
    return Client(f"127.0.0.1:{port}", ClientOptions(retries=0, timeout=20, security=secured))


def translated(port: int | None, **security: object) -> str:
    with client(port, **security) as asking:
        return asking.translate(["a"])[0][0].text


def refusal(port: int | None, **security: object) -> ServerError:
    with pytest.raises(ServerError) as caught:
        translated(port, **security)
    return caught.value


def test_tls(bundle: Bundle, authority: Authority) -> None:
    pair, other = authority.sign("server"), authority.sign("renewed")
    with running(bundle, tls_certificate=pair.certificate, tls_key=pair.key) as server:
        trusting = Security(tls_ca=authority.certificate)
        assert translated(server.port, tls_ca=authority.certificate) == "a"
        assert health_of(f"localhost:{server.port}", timeout=10, security=trusting) == "SERVING"
        assert "if it speaks TLS, give --tls-ca" in (refusal(server.port).help or "")
        assert "trust the authority of its certificate" in (refusal(server.port, tls=True).help or "")

        async def ask() -> str:
            async with AsyncClient(f"localhost:{server.port}", ClientOptions(security=trusting)) as asking:
                return (await asking.translate(["b"]))[0][0].text

        assert asyncio.run(ask()) == "b"
        before = shown_certificate(server.port)
        other.key.replace(pair.key)
        other.certificate.replace(pair.certificate)
        assert shown_certificate(server.port) != before
        assert translated(server.port, tls_ca=authority.certificate) == "a"


def shown_certificate(port: int | None) -> str:
    import ssl

    return ssl.get_server_certificate(("localhost", port or 0))


def test_mutual_tls(bundle: Bundle, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=ACCESS_LOGGER)
    pair, own = authority.sign("server"), authority.sign("a-client")
    stranger = Authority(tmp_path).sign("stranger")
    files = {"tls_certificate": pair.certificate, "tls_key": pair.key, "tls_client_ca": authority.certificate}
    with running(bundle, **files) as server:
        trusting = {"tls_ca": authority.certificate}
        assert translated(server.port, **trusting, tls_certificate=own.certificate, tls_key=own.key) == "a"
        assert refusal(server.port, **trusting).status == "UNAVAILABLE"
        assert refusal(server.port, **trusting, tls_certificate=stranger.certificate, tls_key=stranger.key)
    assert "client=a-client" in caplog.text


def test_faulty_files_are_told_before_a_port_is_bound(authority: Authority, tmp_path: Path) -> None:
    pair, other = authority.sign("one"), authority.sign("two")
    with pytest.raises(InputError, match="is not the key of"):
        Operations(ServerOptions(tls_certificate=pair.certificate, tls_key=other.key))
    with pytest.raises(InputError, match="cannot be read"):
        Operations(ServerOptions(token_file=tmp_path / "nowhere"))


def test_tokens_over_plain_text_are_warned_about(token_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    Operations(ServerOptions(token_file=token_file))
    assert not caplog.records
    Operations(ServerOptions(token_file=token_file, host="0.0.0.0"))
    assert "tokens come unencrypted to 0.0.0.0" in caplog.text


def test_tokens(bundle: Bundle, token_file: Path) -> None:
    with running(bundle, token_file=token_file) as server:
        assert refusal(server.port).status == "UNAUTHENTICATED"
        assert refusal(server.port, token="wrong-0123456789").status == "UNAUTHENTICATED"
        assert translated(server.port, token=TOKEN) == translated(server.port, token=ADMIN) == "a"
        assert health_of(f"localhost:{server.port}", timeout=10) == "SERVING"
        token_file.write_text("web:renewed-0123456789\n")
        deadline = time.monotonic() + 10
        with client(server.port, token="renewed-0123456789") as asking:
            while time.monotonic() < deadline:
                try:
                    assert asking.translate(["a"])
                    break
                except ServerError:
                    time.sleep(0.1)
        assert refusal(server.port, token=TOKEN).status == "UNAUTHENTICATED"


def test_every_request_has_a_line_and_nobodys_text_is_in_it(
    bundle: Bundle, token_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with running(bundle, token_file=token_file) as server, channel_to(server.port) as channel:
        stub = TranslationServiceStub(channel)
        request = pb.TranslateRequest(sources=["private words", "of users"])
        metadata = (("authorization", f"Bearer {TOKEN}"), ("x-request-id", "id-7"))
        _, call = stub.Translate.with_call(request, timeout=10, metadata=metadata)
        assert dict(call.trailing_metadata())["x-request-id"] == "id-7"
        for faulty in (pb.TranslateRequest(model="private"), pb.TranslateRequest(sources=["private" * 99])):
            with pytest.raises(grpc.RpcError):
                stub.Translate(faulty, timeout=10, metadata=metadata)
    lines = [record.getMessage() for record in caplog.records if record.name == ACCESS_LOGGER]
    assert len(lines) == 3
    assert re.fullmatch(
        r"request_id=id-7 protocol=grpc method=t2tdeploy.serving.v1.TranslationService/Translate status=OK"
        r" peer=127.0.0.1 client=web model=toy version=1 sentences=2 source_tokens=23 target_tokens=23"
        r" queue_ms=\S+ compute_ms=\S+ total_ms=\S+",
        lines[0],
    )
    assert [re.findall(r"status=(\w+)", line) for line in lines[1:]] == [["NOT_FOUND"], ["INVALID_ARGUMENT"]]
    assert "private" not in caplog.text
    assert TOKEN not in caplog.text


def test_a_request_may_have_so_many_tokens(bundle: Bundle) -> None:
    with running(bundle, max_tokens_per_request=50) as server, client(server.port) as asking:
        assert asking.translate(["x" * 49])
        with pytest.raises(Exception, match=r"^sources\[0\]: 51 tokens in one request, the server takes 50"):
            asking.translate(["x" * 50])


def test_a_client_may_have_so_many_requests_under_way(bundle: Bundle) -> None:
    with (
        running(bundle, max_requests_per_client=2) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub = TranslationServiceStub(channel)
        request = pb.TranslateRequest(sources=["a"], options=pb.DecodeOptions(alpha=ENDLESS_ALPHA))
        calls = [stub.Translate.future(request, timeout=60) for _ in range(3)]
        (refused,) = [call for call in calls if wait_for(call.done, 0.5)]
        assert refused.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert int(dict(refused.trailing_metadata())["retry-after-ms"]) > 0
        for call in calls:
            call.cancel()
        assert wait_for(lambda: asks(stub), 10)


def asks(stub: TranslationServiceStub) -> bool:
    try:
        return bool(stub.Translate(pb.TranslateRequest(sources=["a"]), timeout=10).translations)
    except grpc.RpcError:
        return False


def wait_for(condition, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (found := bool(condition())) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def test_a_connection_may_have_so_many_requests_at_once(bundle: Bundle) -> None:
    """Further ones wait at the client until one ends: gRPC keeps the limit, nobody is refused."""
    with running(bundle, max_concurrent_streams=2) as server, channel_to(server.port) as channel:
        stub = TranslationServiceStub(channel)
        endless = pb.TranslateRequest(sources=["a"], options=pb.DecodeOptions(alpha=ENDLESS_ALPHA))
        assert asks(stub)  # the client knows the limit once it is connected
        calls = [stub.Translate.future(endless, timeout=60) for _ in range(2)]
        waiting = stub.ListModels.future(pb.ListModelsRequest(), timeout=60)
        assert not wait_for(waiting.done, 0.3)
        calls[0].cancel()
        assert waiting.result(10).models
        calls[1].cancel()


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize("queue", [256, 4096])
def test_a_burst_is_answered_to_the_last_request(bundle: Bundle, queue: int, connections: int) -> None:
    """Those that find no place are told so: gRPC drops none, with a status that is of no table of ours."""
    request = pb.TranslateRequest(sources=["a"])

    async def burst(port: int) -> Counter[str]:
        async def ask(stub: TranslationServiceStub) -> str:
            try:
                await stub.Translate(request, timeout=120)
            except grpc.aio.AioRpcError as error:
                return error.code().name
            return "OK"

        async with AsyncExitStack() as stack:
            arguments = [("grpc.use_local_subchannel_pool", 1)]
            channels = [
                await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}", arguments))
                for _ in range(connections)
            ]
            stubs = [TranslationServiceStub(channel) for channel in channels]
            return Counter(await asyncio.gather(*(ask(stubs[number % connections]) for number in range(4000))))

    with ServerProcess(bundle.directory, max_queue_sentences=queue) as server:
        found = asyncio.run(burst(server.event("serving")["port"]))
    expected = {"OK", "RESOURCE_EXHAUSTED"} if queue < 4000 else {"OK"}
    assert {*found} <= expected
    assert found.total() == 4000


@pytest.mark.parametrize(
    ("limits", "arguments", "words"),
    [
        ({"min_ping_seconds": 60}, {"keepalive_time_ms": 1000, "http2.max_pings_without_data": 0}, "Too many pings"),
        ({"max_connection_age_seconds": 1, "max_connection_age_grace_seconds": 0.5}, {}, "max connection age"),
    ],
)
def test_a_connection_that_pings_too_often_or_is_too_old_is_ended(
    bundle: Bundle, limits: dict[str, float], arguments: dict[str, int], words: str
) -> None:
    with running(bundle, **limits) as server, channel_to(server.port, **arguments) as channel:
        stub = TranslationServiceStub(channel)
        endless = pb.TranslateRequest(sources=["a"], options=pb.DecodeOptions(alpha=ENDLESS_ALPHA))
        with pytest.raises(grpc.RpcError) as caught:
            stub.Translate(endless, timeout=30)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert words in str(caught.value)
        assert wait_for(lambda: asks(stub), 10)  # on a new connection


def test_connections_may_be_given_longer_than_grpc_counts(bundle: Bundle) -> None:
    """Its milliseconds end at 24 days."""
    names = ("idle_seconds", "age_seconds", "age_grace_seconds")
    limits = {f"max_connection_{name}": 30 * 86_400 for name in names}
    others = {"keepalive_seconds": 2_147_484, "keepalive_timeout_seconds": 1e12, "min_ping_seconds": 1e308}
    with running(bundle, **limits, **others) as server, channel_to(server.port) as channel:
        assert asks(TranslationServiceStub(channel))


def test_a_connection_without_requests_is_closed(bundle: Bundle) -> None:
    with running(bundle, max_connection_idle_seconds=0.5) as server, channel_to(server.port) as channel:
        states: list[grpc.ChannelConnectivity] = []
        assert asks(TranslationServiceStub(channel))
        channel.subscribe(states.append)
        assert wait_for(lambda: grpc.ChannelConnectivity.IDLE in states, 10)
        assert asks(TranslationServiceStub(channel))


@pytest.fixture(scope="module")
def slow_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "slow", steps=20)


def test_a_lame_duck_still_answers_and_then_no_accepted_request_is_lost(slow_bundle: Bundle) -> None:
    """Clients that ask without a pause: whoever is not refused is answered, while the server leaves."""
    with ServerProcess(slow_bundle.directory, lame_duck_seconds=1.0) as server:
        port = server.event("serving")["port"]

        async def load() -> tuple[list[str], bool]:
            outcomes: list[str] = []
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = TranslationServiceStub(channel)

                async def ask() -> None:
                    while not outcomes or outcomes[-1] == "OK":
                        try:
                            await stub.Translate(pb.TranslateRequest(sources=["a"] * 3), timeout=20)
                            outcomes.append("OK")
                        except grpc.aio.AioRpcError as error:
                            outcomes.append(error.code().name)

                asking = [asyncio.create_task(ask()) for _ in range(16)]
                while len(outcomes) < 16:
                    await asyncio.sleep(0.01)
                server.process.send_signal(signal.SIGTERM)
                health = health_pb2_grpc.HealthStub(channel)
                while (await health.Check(health_pb2.HealthCheckRequest())).status == 1:
                    await asyncio.sleep(0.01)
                before = len(outcomes)
                while len(outcomes) < before + 16:
                    await asyncio.sleep(0.01)
                as_a_duck = set(outcomes) == {"OK"}
                await asyncio.gather(*asking)
            return outcomes, as_a_duck

        outcomes, as_a_duck = asyncio.run(load())
        stopped = server.event("stopped")
        assert as_a_duck  # NOT_SERVING, and all that asked meanwhile were answered
        # A call that meets the closing port is cancelled by gRPC itself: the server never saw it.
        assert set(outcomes) - {"CANCELLED"} == {"OK", "UNAVAILABLE"}
        assert stopped["answers"].get("CANCELLED", 0) == 0
        assert stopped["answers"]["OK"] == outcomes.count("OK")
        assert stopped["unfinished"] == 0
        assert server.process.wait(10) == 0


def test_a_second_signal_waits_for_nothing(bundle: Bundle) -> None:
    with (
        ServerProcess(bundle.directory, lame_duck_seconds=60) as server,
        channel_to(server.event("serving")["port"]) as channel,
    ):
        endless = pb.TranslateRequest(sources=["a"], options=pb.DecodeOptions(alpha=ENDLESS_ALPHA))
        stub = TranslationServiceStub(channel)
        assert asks(stub)
        call = stub.Translate.future(endless, timeout=60)
        assert not wait_for(call.done, 0.2)
        server.process.send_signal(signal.SIGTERM)
        server.event("stopping")
        server.process.send_signal(signal.SIGINT)
        assert server.event("stopped")["unfinished"] == 1
        assert server.process.wait(20) == 0
        assert call.code() == grpc.StatusCode.UNAVAILABLE
