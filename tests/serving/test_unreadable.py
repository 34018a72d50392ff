"""Bytes that are no message are refused by name, whichever implementation of protobuf reads them."""

import subprocess
import sys

import pytest

READ = """
from google.protobuf.internal import api_implementation
from t2tdeploy.errors import RequestError
from t2tdeploy.serving.classification_messages import parse_classify_request
from t2tdeploy.serving.document_messages import parse_document_request
from t2tdeploy.serving.inference.messages import parse
from t2tdeploy.serving.inference.v2 import inference_pb2
from t2tdeploy.serving.messages import parse_request
assert api_implementation.Type() == {implementation!r}
infer = lambda content: parse(inference_pb2.ModelInferRequest, content)
for read in (parse_request, parse_document_request, parse_classify_request, infer):
    for content in (b"\\x0a\\x01\\xff", b"\\x0a\\xff\\xff\\xff\\xff\\x0fabc", b"\\xff" * 20, b"\\x0a\\x05ab"):
        try:
            read(content)
        except RequestError as error:
            assert error.field in ("model", "request"), error
        else:
            raise AssertionError((read, content))
"""


@pytest.mark.parametrize("implementation", ["upb", "python"])
def test_every_message_says_what_is_wrong_with_its_bytes(implementation: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", READ.format(implementation=implementation)],
        env={"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
