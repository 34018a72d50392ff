"""What an engine of TensorRT is bound to, and the sizes it takes. Nothing here builds one."""

from __future__ import annotations

from pathlib import Path

import pytest

from t2tdeploy import tensorrt_engines
from t2tdeploy.errors import OperationalError, RequestError
from t2tdeploy.manifest import Variant
from t2tdeploy.tensorrt_engines import (
    InputsProfile,
    Platform,
    Profile,
    Span,
    engine_key,
    engines_directory,
    gpu_name,
    is_installed,
    provider_options,
    this_platform,
)

PROFILE = Profile(batch=Span(1, 4, 16), source_length=Span(1, 12, 40))
HERE = Platform("tensorrt_rtx", "1.7", None)


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT, if only in name."""
    monkeypatch.setattr(tensorrt_engines, "LIBRARIES", ("json",))


def graph_in(folder: Path) -> Path:
    (folder / "graph.onnx").write_bytes(b"a graph")
    return folder / "graph.onnx"


def test_engines_have_the_same_key_only_where_all_they_depend_on_is_the_same():
    other = Profile(batch=Span(1, 4, 17), source_length=Span(1, 12, 40))
    keys = {
        engine_key("a", HERE, PROFILE),
        engine_key("b", HERE, PROFILE),
        engine_key("a", HERE, other),
        engine_key("a", Platform("tensorrt", "1.7", None), PROFILE),
        engine_key("a", Platform("tensorrt_rtx", "1.8", None), PROFILE),
        engine_key("a", Platform("tensorrt_rtx", "1.7", "NVIDIA L4 (8.9)"), PROFILE),
    }
    assert len(keys) == 6
    assert engine_key("a", Platform("tensorrt_rtx", "1.7", None), PROFILE) in keys


def test_the_platform_is_what_is_installed(monkeypatch: pytest.MonkeyPatch):
    assert this_platform().library == "json"
    assert this_platform().version
    monkeypatch.setattr(tensorrt_engines, "LIBRARIES", ("tensorrt_of_nowhere",))
    with pytest.raises(OperationalError, match="neither tensorrt nor tensorrt_rtx is installed"):
        this_platform()


def test_a_folder_of_that_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt_of_nowhere").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    names = ("tensorrt_of_nowhere", "tensorrt_elsewhere", "json")
    assert [is_installed(name) for name in names] == [False, False, True]


def test_no_driver_means_no_gpu():
    assert gpu_name("libcuda-of-nowhere.so") is None


@pytest.mark.parametrize("sizes", [(0, 1, 2), (2, 1, 3), (1, 3, 2)])
def test_sizes_out_of_order_are_refused(sizes: tuple[int, int, int]):
    with pytest.raises(RequestError, match="1 ≤ smallest ≤ usual ≤ largest"):
        Span(*sizes)


def test_onnxruntime_is_given_the_same_profile(tmp_path: Path):
    options = provider_options(graph_in(tmp_path), tmp_path / "engines", PROFILE)
    assert options["trt_profile_min_shapes"] == "source_ids:1x1,max_length:1"
    assert options["trt_profile_opt_shapes"] == "source_ids:4x12,max_length:4"
    assert options["trt_profile_max_shapes"] == "source_ids:16x40,max_length:16"
    assert all(isinstance(value, str) for value in options.values())


def test_onnxruntime_keeps_engines_of_different_profiles_apart(tmp_path: Path):
    graph, other = graph_in(tmp_path), Profile(batch=Span(1, 1, 1), source_length=Span(1, 12, 40))
    places = [
        Path(provider_options(graph, tmp_path / "engines", profile)["trt_ep_context_file_path"])
        for profile in (PROFILE, other, PROFILE)
    ]
    assert places[0] == places[2] != places[1]
    assert all(place.is_dir() and place.parent == tmp_path / "engines" for place in places)


def test_a_manifest_keeps_a_profile() -> None:
    profile = InputsProfile({"source_ids": (Span(1, 4, 16), Span(1, 12, 40)), "pixels": (Span(1, 4, 16), 8, 8)})
    variant = Variant(file="g", target="tensorrt", precision="float16", profile=profile.recorded())
    again = Variant.model_validate_json(variant.model_dump_json())
    assert again.profile is not None
    assert InputsProfile.read(again.profile) == profile
    assert profile.largest_batch == 16


def test_engines_are_kept_where_caches_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T2TDEPLOY_CACHE", "/somewhere")
    assert engines_directory() == Path("/somewhere/engines")
    monkeypatch.delenv("T2TDEPLOY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/else")
    assert engines_directory() == Path("/else/t2tdeploy/engines")
