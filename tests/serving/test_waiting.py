"""A request ends with the results of its rows in order, or with the first error."""

from __future__ import annotations

import asyncio

from t2tdeploy.serving.waiting import WaitingRequest, WaitingRow


def test_results_come_in_order_once_all_are_there() -> None:
    async def ask() -> list[str]:
        request = WaitingRequest[str](3, asyncio.get_running_loop().create_future())
        rows = [WaitingRow(name, request, place) for place, name in enumerate("abc")]
        for row in (rows[2], rows[0], rows[1]):
            assert not row.unwanted
            row.request.answer(row.place, row.row.upper())
        assert all(row.unwanted for row in rows)
        return await request.ended

    assert asyncio.run(ask()) == ["A", "B", "C"]


def test_results_of_a_request_that_has_ended_are_dropped() -> None:
    async def ask() -> None:
        loop = asyncio.get_running_loop()
        cancelled, failed = (WaitingRequest[str](1, loop.create_future()) for _ in range(2))
        cancelled.ended.cancel()
        failed.ended.set_exception(ValueError("no"))
        for request in (cancelled, failed):
            assert WaitingRow("a", request, 0).unwanted
            request.answer(0, "A")
        assert cancelled.ended.cancelled()
        assert isinstance(failed.ended.exception(), ValueError)

    asyncio.run(ask())


def test_a_request_starts_with_its_first_row() -> None:
    async def ask() -> float | None:
        request = WaitingRequest[str](2, asyncio.get_running_loop().create_future())
        assert request.started is None
        request.start(3.0)
        request.start(4.0)
        return request.started

    assert asyncio.run(ask()) == 3.0
