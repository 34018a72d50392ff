from pathlib import Path

import pytest

from t2tdeploy.bundle import Bundle, Variant, write_bundle
from t2tdeploy.errors import OperationalError, UnknownNameError
from t2tdeploy.targets import require_runnable, runnable
from tests.serving.toy_bundle import toy_files, toy_manifest


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Its default is made for a GPU."""
    manifest = toy_manifest()
    cuda = Variant(file="model.onnx", target="cuda", precision="float16", layout="growing")
    variants = {"cuda-fp16": cuda, **manifest.variants}
    changed = manifest.model_copy(update={"variants": variants, "default_variant": "cuda-fp16"})
    return write_bundle(tmp_path / "bundle", changed, toy_files())


def test_a_machine_runs_what_is_made_for_it(bundle: Bundle) -> None:
    assert runnable(bundle) == ["cpu-float32"]
    require_runnable(bundle, "cpu-float32")


@pytest.mark.parametrize("name", ["cuda-fp16", None])
def test_another_variant_is_refused_with_those_that_run(bundle: Bundle, name: str | None) -> None:
    with pytest.raises(OperationalError, match="variant 'cuda-fp16' is made for cuda") as caught:
        require_runnable(bundle, name)
    assert str(caught.value.help).endswith("--variant: cpu-float32")


def test_an_unknown_variant_shows_the_choices(bundle: Bundle) -> None:
    with pytest.raises(UnknownNameError, match="cpu-float32, cuda-fp16"):
        require_runnable(bundle, "cpu-float23")
