import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from t2tdeploy.machine import peak_resident_bytes, release_freed_memory, resident_bytes

MEGABYTE = 2**20
needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's heap is given back")


def test_a_process_knows_its_memory() -> None:
    before = resident_bytes()
    block = np.ones(64 * MEGABYTE, dtype=np.uint8)
    assert resident_bytes() >= before + 60 * MEGABYTE
    assert peak_resident_bytes() >= resident_bytes() - MEGABYTE
    del block


@needs_glibc
def test_freed_memory_below_what_is_in_use_goes_back() -> None:
    blocks = [bytes([number % 256]) * 8192 for number in range(1, 10_001)]
    kept = blocks[::100]
    del blocks
    before = resident_bytes()
    assert release_freed_memory()
    assert resident_bytes() < before - 50 * MEGABYTE
    assert [block[0] for block in kept] == [number % 256 for number in range(1, 10_001, 100)]


@needs_glibc
def test_a_session_keeps_its_weights_only_once(tmp_path: Path) -> None:
    """Not beside them the parsed file, nor the weights as they were before they were packed."""
    layers, width = 64, 512
    weights = [np.full((width, width), 0.001 * number, np.float32) for number in range(layers)]
    names = ["x", *(f"y{number}" for number in range(layers))]
    graph = helper.make_graph(
        [helper.make_node("MatMul", [names[number], f"w{number}"], [names[number + 1]]) for number in range(layers)],
        "layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", width])],
        [helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, ["rows", width])],
        [numpy_helper.from_array(weight, f"w{number}") for number, weight in enumerate(weights)],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    code = (
        "import sys; from pathlib import Path; import numpy as np; from t2tdeploy.machine import resident_bytes;"
        "from t2tdeploy.runtime import Session, import_onnxruntime; import_onnxruntime(); before = resident_bytes();"
        "session = Session(Path(sys.argv[1]), threads=1); print(resident_bytes() - before)"
    )
    said = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout
    assert int(said) < 1.3 * sum(weight.nbytes for weight in weights)
