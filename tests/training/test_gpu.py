"""The engines on a CUDA GPU equal themselves on the CPU, to the rounding of its arithmetic (TF32 in onnxruntime)."""

from __future__ import annotations

import re

import pytest
import torch
from onnx import TensorProto, helper

from t2tdeploy.errors import OperationalError
from t2tdeploy.problems.dataset import ProblemData
from t2tdeploy.training.engine import EngineState, StepMetrics
from t2tdeploy.training.engines import make_engine
from t2tdeploy.training.gradient_engine import GradientEngine
from t2tdeploy.training.graph.environment import choose_provider
from t2tdeploy.training.graph.runner import GraphRunner

from .conftest import DROPOUT, NO_DROPOUT, TINY, batch, new_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU"),
]
each_engine = pytest.mark.parametrize("name", ["ort", "torch"])


def skip_without_provider(device: str) -> None:
    """Skips where onnxruntime does not reach the device."""
    try:
        choose_provider(device)
    except OperationalError as error:
        pytest.skip(str(error))


def engine(name: str, data: ProblemData, device: str, **changes: object) -> GradientEngine:
    if name == "ort":
        skip_without_provider(device)
    hparams = TINY.replace(**changes)
    model = new_model(data, hparams)
    torch.manual_seed(100)
    return make_engine(name, model, hparams, device=torch.device(device))


def steps(made: GradientEngine, data: ProblemData, count: int = 6) -> list[StepMetrics]:
    """Steps whose batches have changing shapes, two batches in each."""
    batches = [[batch(data, *range(i, 2 * i + 1)), batch(data, i + 7)] for i in range(count)]
    return [made.step(of, learning_rate=1e-3) for of in batches]


def same(found: list[StepMetrics], expected: list[StepMetrics], *, rel: float) -> None:
    assert [step.loss for step in found] == pytest.approx([step.loss for step in expected], rel=rel)
    norms = [[step.gradient_norm for step in of] for of in (found, expected)]
    assert norms[0] == pytest.approx(norms[1], rel=10 * rel)


@each_engine
def test_training_on_the_gpu_is_training_on_the_cpu(data: ProblemData, name: str) -> None:
    on_gpu, on_cpu = (engine(name, data, device, **NO_DROPOUT) for device in ("cuda", "cpu"))
    same(steps(on_gpu, data), steps(on_cpu, data), rel=2e-3)
    assert {parameter.device.type for parameter in on_gpu.model.parameters()} == {"cuda"}
    found, expected = (made.evaluate(batch(data, 0, 1, 2)) for made in (on_gpu, on_cpu))
    assert found.loss == pytest.approx(expected.loss, rel=2e-3)
    assert found.labels == expected.labels


def test_the_engines_agree_on_the_gpu(data: ProblemData) -> None:
    same(*(steps(engine(name, data, "cuda", **NO_DROPOUT), data) for name in ("ort", "torch")), rel=2e-3)


@each_engine
def test_a_state_goes_from_device_to_device(data: ProblemData, name: str) -> None:
    first = engine(name, data, "cuda", **NO_DROPOUT)
    steps(first, data)
    kept = first.state()
    copied = EngineState(*({key: tensor.cpu().clone() for key, tensor in part.items()} for part in kept))
    expected = steps(first, data)
    for device in ("cuda", "cpu"):
        resumed = engine(name, data, device, **NO_DROPOUT)
        resumed.load(copied)
        same(steps(resumed, data), expected, rel=2e-3)


@each_engine
def test_dropout_masks_are_drawn_anew_and_continue_from_the_state(data: ProblemData, name: str) -> None:
    made = engine(name, data, "cuda", **DROPOUT)
    rows = [batch(data, 0, 1, 2)]
    losses = [made.step(rows, learning_rate=0.0).loss for _ in range(4)]
    assert len(set(losses)) == 4
    state = made.state()
    copied = EngineState(*({key: tensor.cpu().clone() for key, tensor in part.items()} for part in state))
    expected = made.step(rows, learning_rate=0.0).loss
    made.step(rows, learning_rate=0.0)
    made.load(copied)
    assert made.step(rows, learning_rate=0.0).loss == pytest.approx(expected, rel=1e-5)


@each_engine
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_16_bits_stay_near_float32(data: ProblemData, name: str, precision: str) -> None:
    low, full = (engine(name, data, "cuda", precision=kind, **NO_DROPOUT) for kind in (precision, "float32"))
    same(steps(low, data), steps(full, data), rel=3e-2)


def test_a_graph_reads_what_torch_had_written_before_and_not_after() -> None:
    """Although neither waits for the other on the CPU."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1024])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1024])
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "twice", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    skip_without_provider("cuda")
    device = torch.device("cuda")
    runner = GraphRunner(model, device=device, threads=1)
    given, found, large = (torch.zeros(size, device=device) for size in ((1024,), (1024,), (4096, 4096)))
    runner.bind_inputs({"x": given})
    runner.bind_outputs({"y": found})
    seen = []
    for number in range(1, 21):
        for _ in range(20):
            large = large @ large  # takes longer than to launch all that follows
        given.fill_(number)
        runner.run()
        seen.append(found.clone())
        given.fill_(-1)
    assert [values.unique().tolist() for values in seen] == [[2.0 * number] for number in range(1, 21)]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_onnxruntime_computes_every_product_on_the_gpu(
    data: ProblemData, precision: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only shapes, and what waits for nothing, are left to the CPU."""
    import onnxruntime

    session_options = onnxruntime.SessionOptions

    class Talkative(session_options):  # type: ignore[misc, valid-type]
        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, 0 if name == "log_severity_level" else value)

    monkeypatch.setattr(onnxruntime, "SessionOptions", Talkative)
    engine("ort", data, "cuda", precision=precision, **NO_DROPOUT)
    on_cpu, provider = set(), None
    for line in capfd.readouterr().err.splitlines():
        if placed := re.search(r"placed on \[(\w+)\]", line):
            provider = placed[1]
        elif provider == "CPUExecutionProvider" and (node := re.search(r"\]\s+(\w+) \(", line)):
            on_cpu.add(node[1])
    assert provider is not None
    heavy = {
        "MatMul",
        "Gemm",
        "FusedMatMul",
        "Softmax",
        "LogSoftmax",
        "LayerNormalization",
        "ScatterND",
        "Exp",
        "Where",
    }
    assert not on_cpu & heavy


def test_compiled_steps_are_eager_ones(data: ProblemData) -> None:
    compiled, eager = (engine("torch", data, "cuda", compile=wanted, **NO_DROPOUT) for wanted in (True, False))
    same(steps(compiled, data), steps(eager, data), rel=2e-3)
