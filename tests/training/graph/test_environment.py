"""Which build of ONNX Runtime is here; faulty environments are named, with the commands that mend them."""

from __future__ import annotations

import importlib.metadata
from types import SimpleNamespace

import pytest

from t2tdeploy.errors import OperationalError, UnknownNameError
from t2tdeploy.training.graph import environment
from t2tdeploy.training.graph.environment import (
    ONNXRUNTIME_TRAINING,
    PORTABLE,
    choose_gradient_builder,
    choose_provider,
    gradient_builders,
    onnxruntime_build,
)

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def install(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Pretends that these distributions are installed, underscores for hyphens."""
    installed = {name.replace("_", "-"): version for name, version in versions.items()}

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr("importlib.metadata.version", version)


class Session:
    """A session whose CUDA provider starts, or is replaced by the CPU's."""

    starts = True

    def __init__(self, model: bytes, providers: list[str]) -> None:
        self.providers = [*providers, CPU] if self.starts else [CPU]

    def get_providers(self) -> list[str]:
        return self.providers


class FailingSession(Session):
    starts = False


def pretend_module(
    monkeypatch: pytest.MonkeyPatch,
    *,
    gradients: bool = False,
    providers: tuple[str, ...] = (CPU,),
    session: type[Session] = Session,
    printed: str = "",
) -> None:
    state = SimpleNamespace(**({"GradientGraphBuilder": object} if gradients else {}))
    module = SimpleNamespace(
        __version__="1.31.1",
        capi=SimpleNamespace(_pybind_state=state),
        get_available_providers=lambda: list(providers),
        preload_dlls=lambda: print(printed),
        InferenceSession=session,
    )
    monkeypatch.setattr(environment, "import_onnxruntime", lambda: module)


def test_what_is_installed_here_is_found() -> None:
    """Whatever build this environment has; the portable builder's graphs run on all."""
    name, _, version = onnxruntime_build().partition("==")
    assert importlib.metadata.version(name) == version
    assert (ONNXRUNTIME_TRAINING in gradient_builders()) == name.startswith("onnxruntime-training")
    assert choose_gradient_builder(PORTABLE) == PORTABLE
    assert choose_gradient_builder("auto") == gradient_builders()[0]
    assert choose_provider("cpu") == CPU


@pytest.mark.parametrize("other", ["onnxruntime_training_cpu", "onnxruntime_training", "onnxruntime_gpu"])
def test_two_builds_in_one_environment_are_named_with_the_cure(monkeypatch: pytest.MonkeyPatch, other: str) -> None:
    install(monkeypatch, **{"onnxruntime": "1.31.1", other: "1.19.2"})
    second = other.replace("_", "-")
    for ask in (onnxruntime_build, gradient_builders, lambda: choose_provider("cpu")):
        with pytest.raises(OperationalError, match=f"onnxruntime==1.31.1 and {second}==1.19.2") as caught:
            ask()
        assert f"pip uninstall -y onnxruntime {second} && pip install {second}==1.19.2" in str(caught.value.help)


def test_the_trace_of_a_removed_build_is_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, onnxruntime="1.31.1")
    monkeypatch.setattr(environment, "import_onnxruntime", lambda: SimpleNamespace())
    with pytest.raises(OperationalError, match="lost its files") as caught:
        choose_gradient_builder("auto")
    assert "--force-reinstall --no-deps onnxruntime==1.31.1" in str(caught.value.help)


def test_the_builder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, onnxruntime="1.31.1")
    pretend_module(monkeypatch)
    assert choose_gradient_builder("auto") == PORTABLE
    with pytest.raises(OperationalError, match=r"not in this environment, which has onnxruntime==1\.31\.1") as caught:
        choose_gradient_builder(ONNXRUNTIME_TRAINING)
    assert "t2tdeploy[ort-training]" in str(caught.value.help)

    install(monkeypatch, onnxruntime_training_cpu="1.19.2")
    pretend_module(monkeypatch, gradients=True)
    assert choose_gradient_builder("auto") == ONNXRUNTIME_TRAINING
    for name in (PORTABLE, ONNXRUNTIME_TRAINING):
        assert choose_gradient_builder(name) == name


def test_a_builder_that_does_not_exist_is_an_error_with_the_choices() -> None:
    with pytest.raises(UnknownNameError, match="auto, onnxruntime-training, portable"):
        choose_gradient_builder("portabel")


@pytest.mark.parametrize(
    ("build", "cure"),
    [
        ("onnxruntime", "pip uninstall -y onnxruntime && pip install 't2tdeploy[train-gpu]'"),
        ("onnxruntime_training_cpu", "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_build_without_cuda_says_what_it_has(monkeypatch: pytest.MonkeyPatch, build: str, cure: str) -> None:
    install(monkeypatch, **{build: "1.0"})
    pretend_module(monkeypatch)
    with pytest.raises(OperationalError, match=f"cannot run on cuda; it has {CPU}") as caught:
        choose_provider("cuda")
    assert cure in str(caught.value.help)
    assert choose_provider("cpu") == CPU


def test_a_device_nobody_has_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OperationalError, match="cannot run on mps"):
        choose_provider("mps")


def test_cuda_that_starts_is_chosen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    install(monkeypatch, onnxruntime_gpu="1.31.1")
    pretend_module(monkeypatch, providers=(CUDA, CPU), printed="Failed to load libnvrtc.so: it does not matter")
    assert choose_provider("cuda") == CUDA
    assert capsys.readouterr().out == ""


def test_cuda_that_does_not_start_says_which_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, onnxruntime_gpu="1.31.1")
    printed = "Failed to load libcublas.so.13: libcublas.so.13: cannot open shared object file\nPlease follow …"
    pretend_module(monkeypatch, providers=(CUDA, CPU), session=FailingSession, printed=printed)
    with pytest.raises(OperationalError, match=r"does not start: libcublas\.so\.13: cannot open") as caught:
        choose_provider("cuda")
    assert "nvidia-smi" in str(caught.value.help)
