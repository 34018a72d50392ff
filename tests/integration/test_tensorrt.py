"""The variant for TensorRT by the real command: made from the run of the bundle, refused where it cannot run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from t2tdeploy import tensorrt_engines
from t2tdeploy.bundle import load_bundle
from t2tdeploy.runtime import available_targets
from tests.integration.conftest import Command, Fails, Road

ANYTHING = ("--min-agreement", "0", "--max-bleu-loss", "100")


@pytest.fixture
def _not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No TensorRT, in this process."""
    monkeypatch.setattr(tensorrt_engines, "LIBRARIES", ("tensorrt_of_nowhere",))


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    (tmp_path / "in.en").write_text("May 3, 2024\nat noon\n")
    return tmp_path / "in.en"


@pytest.mark.usefixtures("_not_installed")
def test_the_variant_is_made_and_the_bundle_still_serves_cpus(
    road: Road, sources: Path, tmp_path: Path, run: Command, fails: Fails
):
    words = ["optimize", "--bundle", road.bundle, "--output", tmp_path / "out", "--variant", "tensorrt"]
    outcome = run(*words, "--options", "precision=float32,max_batch_size=32", *ANYTHING)
    assert outcome.status == 0, outcome.stderr
    assert "tensorrt was compared on a CPU: no engine of TensorRT has confirmed it" in outcome.stdout
    assert "no engine was built, because neither tensorrt nor tensorrt_rtx is installed" in outcome.stdout
    assert "pip install 't2tdeploy[tensorrt]'" in outcome.stdout
    bundle = load_bundle(tmp_path / "out")
    variant = bundle.variant("tensorrt")
    assert variant.profile is not None
    assert variant.profile["max_length"] == ((1, 16, 32),)
    assert variant.measured is not None
    assert (variant.measured["agreement"]["identical"], variant.measured["speed"]) == (1.0, None)
    found = [run("translate", "--bundle", one, "--input", sources).stdout for one in (road.bundle, tmp_path / "out")]
    assert found[0] == found[1] != ""
    if "tensorrt" not in available_targets():
        for command in (["translate", "--input", sources], ["serve"], ["benchmark", "--input", sources]):
            asked = [*command, "--bundle", tmp_path / "out", "--variant", "tensorrt"]
            fails(1, asked, "variant 'tensorrt' is made for tensorrt", "tensorrt>=10,<11", "--variant: cpu-float32")


def test_the_run_is_found_or_asked_for(road: Road, tmp_path: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch):
    bundle, gone = tmp_path / "bundle", tmp_path / "gone"
    shutil.copytree(road.bundle, bundle)
    words = ["optimize", "--bundle", bundle, "--output", tmp_path / "out", "--variant", "tensorrt"]

    def provenance(**changes: str | None) -> None:
        found = load_bundle(road.bundle)
        kept = {**found.manifest.provenance, **changes}
        manifest = found.manifest.model_copy(update={"provenance": {k: v for k, v in kept.items() if v is not None}})
        found.manifest = manifest
        monkeypatch.setattr("t2tdeploy.bundle.load_bundle", lambda _: found)

    provenance(run_dir=str(gone))
    fails(2, words, f"tensorrt is exported from the run of the bundle: {gone} is not a run directory", "--output-dir")
    provenance(run_dir=None)
    fails(2, words, "does not say which that is", "--output-dir")
    provenance(checkpoint="step-00000010", run_dir=str(road.run))
    fails(2, words, "the run is not the one that the bundle was exported from, or has been trained on")
    fails(2, [*words, "--output-dir", road.data], "is not a run directory")


def test_mistakes_have_their_sentences(road: Road, tmp_path: Path, run: Command, fails: Fails):
    words = ["optimize", "--bundle", road.bundle, "--output", tmp_path / "out", "--variant"]
    fails(2, [*words, "tensorrtt"], "unknown variant 'tensorrtt'", "did you mean 'tensorrt'?")
    fails(2, [*words, "cpu-int8", "--options", "precision=float32"], "--options are those of --variant tensorrt")
    fails(2, [*words, "tensorrt", "--options", "presicion=float32"], "no such field (did you mean 'precision'?)")
    shown = run("optimize", "--help").stdout
    assert "cuda-fp16 or tensorrt; may be given several times" in " ".join(shown.split())
    assert "--variant tensorrt --output-dir runs/dates" in shown


@pytest.mark.usefixtures("_not_installed")
def test_programs_are_told_of_the_build(road: Road, sources: Path, tmp_path: Path, run: Command):
    words = ["optimize", "--bundle", road.bundle, "--output", tmp_path / "out", "--variant", "tensorrt", "--json"]
    outcome = run(*words, "--dev-source", sources, *ANYTHING[:2])
    measured = json.loads(outcome.stdout.splitlines()[0])
    assert (measured["event"], measured["run_on"], measured["build"]["refused"]) == ("measured", "cpu", False)
    assert "installed" in measured["build"]["failure"]
