import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from t2tdeploy.errors import RequestError, UnknownNameError
from t2tdeploy.serving.auth import Authenticator, Client, Role, Token
from t2tdeploy.serving.call_record import CallRecord, current_record
from t2tdeploy.serving.client_slots import ClientSlots
from t2tdeploy.serving.gate import Gate
from t2tdeploy.serving.http_gate import http_gate
from t2tdeploy.serving.scheduler import OverloadedError, UnavailableError

TOKEN = "0123456789abcdef"
GUARDED = Authenticator(lambda: (Token.of(TOKEN, Client("web", Role.USE)),))
OPEN = Authenticator(None)
BEARER = {"Authorization": f"Bearer {TOKEN}"}
ERRORS = {
    "invalid": RequestError("sources", "there is none"),
    "unknown": UnknownNameError("model", "toi", ["toy"]),
    "full": OverloadedError(1.2),
    "away": UnavailableError("the server is starting"),
    "late": TimeoutError(),
    "fault": ZeroDivisionError("secret"),
}

Test = Callable[[TestClient, list[CallRecord]], Awaitable[None]]


async def fine(request: web.Request) -> web.Response:
    record = current_record()
    assert record is not None
    return web.json_response({"id": record.request_id})


async def raising(request: web.Request) -> web.Response:
    raise ERRORS[request.match_info["name"]]


def run(test: Test, authenticator: Authenticator = OPEN) -> None:
    async def inside() -> None:
        records: list[CallRecord] = []
        gate = Gate(authenticator, ClientSlots(None), [records.append])
        application = web.Application(middlewares=[http_gate(gate, Counter())])
        application.router.add_get("/v2/health/live", fine)
        application.router.add_post("/infer", fine)
        application.router.add_post("/v2/repository/models/{model}/load", fine)
        application.router.add_get("/raise/{name}", raising)
        async with TestClient(TestServer(application)) as client:
            await test(client, records)

    asyncio.run(inside())


def test_credentials() -> None:
    async def test(client: TestClient, records: list[CallRecord]) -> None:
        answers = [
            await client.get("/v2/health/live"),
            await client.post("/infer"),
            await client.post("/infer", headers={"Authorization": "Bearer wrong-wrong-wrong"}),
            await client.post("/infer", headers=BEARER),
            await client.post("/v2/repository/models/toy/load", headers=BEARER),
        ]
        assert [answer.status for answer in answers] == [200, 401, 401, 200, 403]
        assert answers[1].headers["WWW-Authenticate"] == "Bearer"
        assert "a token is needed" in (await answers[1].json())["error"]
        assert [(one.method, one.status, one.client) for one in records] == [
            ("ServerLive", "OK", ""),
            ("infer", "UNAUTHENTICATED", ""),
            ("infer", "UNAUTHENTICATED", ""),
            ("infer", "OK", "web"),
            ("RepositoryModelLoad", "PERMISSION_DENIED", ""),
        ]

    run(test, GUARDED)


@pytest.mark.parametrize(
    ("name", "status", "code", "reason"),
    [
        ("invalid", 400, "INVALID_ARGUMENT", "invalid"),
        ("unknown", 404, "NOT_FOUND", "not_found"),
        ("full", 429, "RESOURCE_EXHAUSTED", "queue_full"),
        ("away", 503, "UNAVAILABLE", "unavailable"),
        ("late", 504, "DEADLINE_EXCEEDED", "deadline"),
        ("fault", 500, "INTERNAL", ""),
    ],
)
def test_what_is_raised_is_answered_by_the_error_table(name: str, status: int, code: str, reason: str) -> None:
    async def test(client: TestClient, records: list[CallRecord]) -> None:
        answer = await client.get(f"/raise/{name}")
        words = (await answer.json())["error"]
        assert answer.status == status
        assert "secret" not in words
        assert answer.headers.get("Retry-After") == ("2" if name == "full" else None)
        assert (records[-1].status, records[-1].reason) == (code, reason)
        assert answer.headers["x-request-id"] == records[-1].request_id
        assert not records[-1].error_id or records[-1].error_id in words

    run(test)


def test_request_ids_and_unknown_places() -> None:
    async def test(client: TestClient, records: list[CallRecord]) -> None:
        answer = await client.post("/infer", headers={"x-request-id": "mine"})
        assert (await answer.json())["id"] == answer.headers["x-request-id"] == "mine"
        assert (await client.get("/nowhere")).status == 404
        assert (await client.get("/infer")).status == 405
        assert [(one.status, one.known) for one in records] == [
            ("OK", True),
            ("NOT_FOUND", False),
            ("UNIMPLEMENTED", False),
        ]

    run(test)
