import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from t2tdeploy.bundle import load_bundle, write_bundle
from t2tdeploy.errors import CorruptFileError, OperationalError, UnreadableError
from t2tdeploy.runtime import (
    GraphSession,
    Interrupt,
    SearchStoppedError,
    Session,
    available_cpus,
    available_targets,
    session_options,
)
from t2tdeploy.search_session import SearchSession
from tests.limits import no_more_files
from tests.serving.toy_bundle import toy_files, toy_manifest, write_toy_bundle
from tests.unprivileged import as_nobody, folder_for_all

SOURCE = np.array([[5, 6, 1], [7, 1, 0]], dtype=np.int64)
OPTIONS = {"beam_size": 4, "alpha": 0.5, "num_hypotheses": 2}


def host(tmp_path: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path


@pytest.fixture
def _many_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)


@pytest.mark.usefixtures("_many_cpus")
@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, 64),
        ({"sys/fs/cgroup/cpu.max": "max 100000"}, 64),
        ({"sys/fs/cgroup/cpu.max": "400000 100000"}, 4),
        ({"sys/fs/cgroup/cpu.max": "250000 100000"}, 2),
        ({"sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
        ({"proc/self/cgroup": "0::/pod/app", "sys/fs/cgroup/pod/cpu.max": "300000 100000"}, 3),
        (
            {
                "proc/self/cgroup": "0::/pod/app",
                "sys/fs/cgroup/pod/cpu.max": "300000 100000",
                "sys/fs/cgroup/pod/app/cpu.max": "200000 100000",
            },
            2,
        ),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 64),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "600000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 6),
        (
            {
                "proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/docker/abc\n",
                "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": "150000\n",
                "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us": "50000\n",
            },
            3,
        ),
    ],
)
def test_the_quota_of_the_control_group_bounds_the_cpus(tmp_path: Path, files: dict[str, str], cpus: int) -> None:
    assert available_cpus(host(tmp_path, files)) == cpus


def test_the_affinity_bounds_the_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert available_cpus(host(tmp_path, {"sys/fs/cgroup/cpu.max": "800000 100000"})) == 2


def test_arrays_go_in_and_come_out(tmp_path: Path) -> None:
    session = SearchSession(write_toy_bundle(tmp_path / "bundle"), threads=1)
    result = session.search(SOURCE, np.array([10, 1]), **OPTIONS)
    assert result.target_ids.tolist() == [[[5, 6, 1]] * 2, [[7, 1, 0]] * 2]
    assert result.lengths.tolist() == [[3, 3], [2, 2]]
    assert result.finished.tolist() == [True, False]
    np.testing.assert_allclose(result.scores, [[-5, -15], [-0.5, -1.5]])


def test_another_thread_can_stop_a_search(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    session = SearchSession(write_toy_bundle(tmp_path / "bundle", steps=1_000_000), threads=1)
    interrupt = Interrupt()
    timer = threading.Timer(0.2, interrupt.stop)
    timer.start()
    with pytest.raises(SearchStoppedError):
        session.search(SOURCE, np.array([1000, 1000]), **OPTIONS, interrupt=interrupt)
    assert capfd.readouterr().err == ""  # onnxruntime would write that it was an error


def test_what_onnxruntime_refuses_is_said_in_its_words(tmp_path: Path) -> None:
    files = {**toy_files(), "model.onnx": b"no graph"}
    bundle = write_bundle(tmp_path / "broken", toy_manifest(), files)
    with pytest.raises(CorruptFileError, match=r"model\.onnx is damaged: onnxruntime"):
        SearchSession(bundle, threads=1)
    session = SearchSession(write_toy_bundle(tmp_path / "bundle"), threads=1)
    with pytest.raises(OperationalError, match="onnxruntime failed"):
        session.search(SOURCE[0], np.array([10]), **OPTIONS)


def test_a_graph_that_cannot_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    """What onnxruntime says of it is the system's number alone."""
    graph = write_toy_bundle(tmp_path / "bundle").path()
    GraphSession(graph, threads=1)  # onnxruntime opens files of its own the first time
    with no_more_files(), pytest.raises(UnreadableError, match=r"model\.onnx cannot be read: Too many open files"):
        GraphSession(graph, threads=1)
    (tmp_path / "loop.onnx").symlink_to("loop.onnx")
    with pytest.raises(UnreadableError, match=r"loop\.onnx cannot be read: Too many levels of symbolic links"):
        GraphSession(tmp_path / "loop.onnx", threads=1)
    with folder_for_all() as folder:
        (folder / "closed.onnx").write_bytes(graph.read_bytes())
        (folder / "closed.onnx").chmod(0)
        with as_nobody(), pytest.raises(UnreadableError, match=r"closed\.onnx cannot be read: Permission denied"):
            GraphSession(folder / "closed.onnx", threads=1)


def test_weights_that_cannot_be_read_are_not_called_damaged() -> None:
    weights = numpy_helper.from_array(np.ones((2, 2), np.float32), "weights")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (2, 2)) for name in ("x", "y")]
    nodes = [helper.make_node("MatMul", ["x", "weights"], ["y"])]
    graph = helper.make_graph(nodes, "product", values[:1], values[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    with folder_for_all() as folder:
        onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)
        Session(folder / "model.onnx", threads=1)
        (folder / "weights").chmod(0)
        with as_nobody(), pytest.raises(UnreadableError, match=r"model\.onnx cannot be read: Permission denied"):
            Session(folder / "model.onnx", threads=1)


def test_reading_a_bundle_needs_no_onnxruntime(tmp_path: Path) -> None:
    bundle = write_toy_bundle(tmp_path / "bundle")
    code = (
        "import sys, pathlib; import t2tdeploy.runtime, t2tdeploy.translator; from t2tdeploy.bundle import load_bundle;"
        "load_bundle(pathlib.Path(sys.argv[1]));"
        "assert not {'onnxruntime', 'torch', 'grpc'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(bundle.directory)], check=True)
    load_bundle(bundle.directory)


def test_a_target_that_onnxruntime_does_not_reach_is_refused(tmp_path: Path) -> None:
    if "cuda" in available_targets():
        pytest.skip("this onnxruntime was built for CUDA")
    bundle = write_toy_bundle(tmp_path / "toy")
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(OperationalError, match="onnxruntime cannot use CUDAExecutionProvider, only CPU"),
    ):
        GraphSession(bundle.path(), target="cuda")


def spinning(options: object) -> str | None:
    """How many microseconds threads spin; None: they sleep."""
    entry = options.get_session_config_entry  # type: ignore[attr-defined]
    if entry("session.intra_op.allow_spinning") == "0":
        return None
    assert entry("session.force_spinning_stop") == "1"
    return str(entry("session.intra_op.spin_duration_us"))


def test_threads_spin_for_as_long_as_is_said() -> None:
    assert [spinning(session_options(2, spin_us)) for spin_us in (0, 20, 1000)] == [None, "20", "1000"]


@pytest.mark.parametrize(("version", "spins"), [("1.19.2", None), ("1.25.1", None), ("1.26.0", "20"), ("2.0.0", "20")])
def test_threads_sleep_where_onnxruntime_knows_no_bound(
    monkeypatch: pytest.MonkeyPatch, version: str, spins: str | None
) -> None:
    monkeypatch.setattr("onnxruntime.__version__", version)
    assert spinning(session_options(2, 20)) == spins
