import json
import logging
import re
from typing import Any

import pytest

from t2tdeploy.serving.access_log import ACCESS_LOGGER, log_access, make_formatter
from t2tdeploy.serving.call_record import CallRecord


def record(**fields: Any) -> CallRecord:
    values = {"request_id": "abc", "service": "package.Service", "method": "Translate", "protocol": "grpc", **fields}
    made = CallRecord(**values)
    made.end(fields.get("status", "OK"))
    return made


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, logger=ACCESS_LOGGER)

    def written(*records: CallRecord, format: Any = "json") -> list[str]:
        caplog.clear()
        for one in records:
            log_access(one)
        return [make_formatter(format).format(one) for one in caplog.records]

    return written


def test_a_call_is_one_json_object(lines) -> None:
    (line,) = lines(record(model="ende", version="2", sentences=3, queue=0.0015, compute=0.25, peer="10.0.0.1"))
    assert "\n" not in line
    said = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", said.pop("time"))
    assert said.pop("total_ms") >= 0
    assert said == {
        "level": "INFO",
        "logger": "t2tdeploy.access",
        "request_id": "abc",
        "protocol": "grpc",
        "method": "package.Service/Translate",
        "status": "OK",
        "peer": "10.0.0.1",
        "model": "ende",
        "version": "2",
        "sentences": 3,
        "queue_ms": 1.5,
        "compute_ms": 250.0,
    }


def test_text_lines_say_the_same(lines) -> None:
    (line,) = lines(record(client="web", status="NOT_FOUND"), format="text")
    assert "t2tdeploy.access: request_id=abc protocol=grpc method=package.Service/Translate status=NOT_FOUND" in line
    assert "client=web" in line


def test_probes_are_logged_only_when_they_fail(lines) -> None:
    assert not lines(record(method="Check"), record(method="Watch", status="CANCELLED"))
    assert len(lines(record(method="Check", status="INTERNAL"))) == 1


def test_other_records_have_their_message_and_the_cause(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("t2tdeploy.serving").exception("internal error %s", "1a2b")
    line = make_formatter("json").format(caplog.records[-1])
    assert "\n" not in line
    said = json.loads(line)
    assert (said["level"], said["message"]) == ("ERROR", "internal error 1a2b")
    assert said["exception"].endswith("ValueError: two\nlines")
