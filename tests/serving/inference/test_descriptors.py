"""Our stubs and tritonclient's share a process, whichever comes first and however protobuf is built."""

import subprocess
import sys

import pytest
from tritonclient.grpc import model_config_pb2, service_pb2

from t2tdeploy.serving.inference.descriptors import ReflectedPool
from t2tdeploy.serving.inference.v2 import inference_pb2 as pb

EXCHANGE = """
import warnings; warnings.simplefilter("ignore")
{imports}
from google.protobuf.internal import api_implementation
assert api_implementation.Type() == {implementation!r}
ours = pb.ModelInferRequest(model_name="m", parameters={{"p": pb.InferParameter(uint64_param=3)}})
ours.inputs.add(name="i", datatype="BYTES", shape=[2]).contents.bytes_contents.extend([b"a", b""])
theirs = service_pb2.ModelInferRequest.FromString(ours.SerializeToString())
assert theirs.parameters["p"].uint64_param == 3 and list(theirs.inputs[0].contents.bytes_contents) == [b"a", b""]
assert pb.ModelInferRequest.FromString(theirs.SerializeToString()) == ours
assert pb.ModelInferRequest.InferInputTensor(name="i").name == "i" and pb.DataType.Name(pb.TYPE_BF16) == "TYPE_BF16"
"""
IMPORTS = [
    "from t2tdeploy.serving.inference.v2 import inference_pb2 as pb, inference_pb2_grpc",
    "from tritonclient.grpc import service_pb2, service_pb2_grpc",
]


@pytest.mark.parametrize("implementation", ["upb", "python"])
@pytest.mark.parametrize("imports", [IMPORTS, IMPORTS[::-1]], ids=["ours-first", "theirs-first"])
def test_both_can_be_imported_and_understand_each_other(implementation: str, imports: list[str]) -> None:
    program = EXCHANGE.format(imports="\n".join(imports), implementation=implementation)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def shape_of(descriptor) -> dict:
    """Number, type and label of every field, by its name."""
    return {
        field.name: (
            field.number,
            field.type,
            field.is_repeated,
            field.containing_oneof and field.containing_oneof.name,
        )
        for field in descriptor.fields
    }


def test_every_field_has_the_number_and_type_that_tritonclient_knows() -> None:
    theirs = {
        name: found
        for file in (service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR)
        for name, found in file.message_types_by_name.items()
    }
    newer = {"properties", "PropertiesEntry"}  # of ModelMetadataResponse, than the tritonclient that is tested with
    compared = 0
    waiting = [(one, theirs[name]) for name, one in pb.DESCRIPTOR.message_types_by_name.items()]
    while waiting:
        ours, other = waiting.pop()
        known = shape_of(other)
        for name, found in shape_of(ours).items():
            if name not in newer:
                assert found == known[name], f"{ours.name}.{name}"
                compared += 1
        waiting += [(one, other.nested_types_by_name[one.name]) for one in ours.nested_types if one.name not in newer]
    assert compared > 100


def test_every_method_is_one_that_tritonclient_calls() -> None:
    ours = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert ours.full_name == theirs.full_name
    for name, method in ours.methods_by_name.items():
        other = theirs.methods_by_name[name]
        assert (method.input_type.full_name, method.output_type.full_name) == (
            other.input_type.full_name,
            other.output_type.full_name,
        )
        assert (method.client_streaming, method.server_streaming) == (other.client_streaming, other.server_streaming)


def test_reflection_finds_ours_and_those_of_the_default_pool() -> None:
    pool = ReflectedPool()
    assert pool.FindFileContainingSymbol("inference.GRPCInferenceService").name == pb.DESCRIPTOR.name
    assert pool.FindFileByName(pb.DESCRIPTOR.name).package == "inference"
    default = service_pb2.DESCRIPTOR.name
    assert pool.FindFileByName(default).name == default
    with pytest.raises(KeyError):
        pool.FindFileByName("nothing.proto")
