"""From a bundle to its variants and their speed, by the real commands."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from t2tdeploy.bundle import load_bundle
from t2tdeploy.errors import InputError
from tests.integration.commands import ENVIRONMENT, arguments, succeed
from tests.integration.conftest import Command, Fails, Road

ANYTHING = ("--min-agreement", "0", "--max-bleu-loss", "100")


@pytest.fixture(scope="module")
def both(road: Road, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with all variants."""
    path = tmp_path_factory.mktemp("both") / "bundle"
    names = ("--variant", "cpu-int8", "--variant", "cuda-fp16", "--default", "cpu-int8")
    outcome = succeed("optimize", "--bundle", road.bundle, "--output", path, *names, *ANYTHING)
    passed = [line.split()[0] for line in outcome.stdout.splitlines() if line.endswith("  passes")]
    assert passed == ["cpu-int8", "cuda-fp16"]
    assert "compared on dev split of translate_dates_ende, sentences: 40" in outcome.stdout
    assert "no CUDA device has confirmed it" in outcome.stdout
    return path


@pytest.fixture
def without_data(road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle whose data are gone."""

    def gone(*_: object) -> None:
        raise InputError("the data are gone")

    monkeypatch.setattr("t2tdeploy.problems.dataset.open_problem", gone)
    return Path(shutil.copytree(road.bundle, tmp_path / "bundle"))


def lines(path: Path, *sentences: str) -> Path:
    path.write_text("".join(f"{sentence}\n" for sentence in sentences))
    return path


def test_the_manifest_says_what_was_measured(both: Path):
    manifest = load_bundle(both).manifest
    assert manifest.default_variant == "cpu-int8"
    measured = manifest.variants["cpu-int8"].measured
    assert measured is not None
    assert measured["calibrated_on"] == "train split of translate_dates_ende"
    assert measured["quality"]["bleu_signature"].startswith("nrefs:1")
    assert measured["speed"]["speedup"] > 0


def test_programs_get_the_measurement_before_the_verdict(road: Road, tmp_path: Path, run: Command):
    words = ["optimize", "--bundle", road.bundle, "--output", tmp_path / "out", "--variant", "cpu-int8", "--json"]
    files = ["--dev-source", lines(tmp_path / "a", "May 3, 2024"), "--dev-target", lines(tmp_path / "b", "x")]
    outcome = run(*words, *files, "--min-agreement", "1", "--max-bleu-loss", "0")
    measured = json.loads(outcome.stdout.splitlines()[0])
    assert (measured["event"], measured["variant"], measured["agreement"]["sentences"]) == ("measured", "cpu-int8", 1)
    assert (outcome.status == 0) == (measured["failures"] == []) == (tmp_path / "out").exists()


def test_the_default_alone_can_be_changed(both: Path, tmp_path: Path, run: Command):
    copy = shutil.copytree(both, tmp_path / "copy")
    assert run("optimize", "--bundle", copy, "--output", copy, "--overwrite", "--default", "cpu-float32").status == 0
    assert load_bundle(copy).manifest.default_variant == "cpu-float32"
    assert load_bundle(copy).manifest.variants == load_bundle(both).manifest.variants


def test_sentences_come_from_files_where_there_are_no_data(
    without_data: Path, tmp_path: Path, run: Command, fails: Fails
):
    words = ["optimize", "--bundle", without_data, "--output", tmp_path / "out", "--variant", "cpu-int8"]
    fails(2, words, "no sentences to compare the variants on: the data are gone", "--calibration")
    one = lines(tmp_path / "one.en", "May 3, 2024")
    fails(2, [*words, "--dev-source", one], "no sentences to calibrate with", "--calibration")
    fails(2, [*words, "--calibration", one], "no sentences to compare the variants on")
    many = lines(tmp_path / "many.en", "May 3, 2024", "June 4, 2025", "at noon", "", "five dollars")
    assert run(*words, "--calibration", many, "--min-agreement", "0").status == 0
    measured = load_bundle(tmp_path / "out").manifest.variants["cpu-int8"].measured
    assert measured is not None
    assert (measured["calibrated_on"], measured["compared_on"]) == ("many.en, odd lines", "many.en, even lines")
    assert measured["agreement"]["sentences"] == 2
    assert measured["quality"] is None


def test_a_shortlist_is_made_of_the_train_split(road: Road, tmp_path: Path, run: Command):
    words = ["optimize", "--output", tmp_path / "out", "--variant", "cpu-int8-shortlist", *ANYTHING]
    outcome = run(*words, "--bundle", road.bundle)
    assert outcome.status == 0, outcome.stderr
    assert aligned_on(tmp_path / "out") == "train split of translate_dates_ende"


def test_or_of_files(without_data: Path, tmp_path: Path, run: Command, fails: Fails):
    words = ["optimize", "--output", tmp_path / "out", "--variant", "cpu-int8-shortlist", *ANYTHING[:2]]
    words += ["--bundle", without_data, "--calibration", lines(tmp_path / "many.en", "noon", "May 3, 2024")]
    fails(2, words, "no sentences with their translations", "--parallel-source")
    source, target = lines(tmp_path / "a.en", "noon", "five"), lines(tmp_path / "a.de", "mittags", "fünf")
    outcome = run(*words, "--parallel-source", source, "--parallel-target", target, "--shortlist-width", "30")
    assert outcome.status == 0, outcome.stderr
    assert aligned_on(tmp_path / "out") == "a.en"


def aligned_on(bundle: Path) -> str:
    measured = load_bundle(bundle).manifest.variants["cpu-int8-shortlist"].measured
    assert measured is not None
    return str(measured["aligned_on"])


def test_mistakes_have_their_sentences(road: Road, both: Path, tmp_path: Path, fails: Fails):
    words = ["optimize", "--bundle", road.bundle, "--output", tmp_path / "out"]
    fails(2, words, "nothing to do: give --variant (cpu-int8, cpu-int8-shortlist, cuda-fp16, tensorrt) or --default")
    fails(2, [*words, "--variant", "cpu-int9"], "unknown variant 'cpu-int9'", "did you mean 'cpu-int8'?")
    fails(2, [*words, "--variant", "cpu-int8", "--dev-target", "x"], "--dev-target is given without --dev-source")
    for given, missing in (("source", "target"), ("target", "source")):
        pair = [f"--parallel-{given}", lines(tmp_path / "a", "x")]
        message = f"--parallel-{given} is given without --parallel-{missing}"
        fails(2, [*words, "--variant", "cpu-int8-shortlist", *pair], message)
    pair = ["--dev-source", lines(tmp_path / "a", "x"), "--dev-target", lines(tmp_path / "b", "x", "y")]
    fails(2, [*words, "--variant", "cpu-int8", *pair], "not the same number of lines", "a has 1", "b 2")
    bound = [*words, "--variant", "cpu-int8", *pair[:2], "--max-bleu-loss", "0.05"]
    fails(2, bound, "--max-bleu-loss: a has no translations to measure BLEU by", "add --dev-target")
    fails(2, ["serve", "--bundle", both, "--variant", "cpu-int9"], "unknown variant 'cpu-int9'")
    fails(1, ["serve", "--bundle", both, "--variant", "cuda-fp16"], "is made for cuda", "cpu-float32, cpu-int8")
    fails(1, ["benchmark", "--bundle", both, "--variant", "cuda-fp16"], "is made for cuda")
    fails(2, ["benchmark", "--bundle", both, "--batch-sizes", "1,,2"], "'1,,2' is no list of numbers")
    fails(2, ["benchmark", "--bundle", both, "--plot", "speed.gif"], ".pdf, .png, .svg")


def test_benchmark_measures_what_this_machine_runs(
    both: Path, without_data: Path, tmp_path: Path, run: Command, fails: Fails
):
    fails(2, ["benchmark", "--bundle", without_data], "no sentences to translate: the data are gone", "--input")
    given = ["--input", lines(tmp_path / "in.en", "May 3, 2024", "", "at noon"), "--seconds", "0.01"]
    chart = tmp_path / "speed.svg"
    words = ["benchmark", "--bundle", both, *given, "--threads", "1", "--batch-sizes", "1,2", "--plot", chart]
    outcome = run(*words)
    assert outcome.status == 0, outcome.stderr
    assert "cuda-fp16 is left out: it is made for cuda" in outcome.stderr
    rows = [line.split() for line in outcome.stdout.splitlines()]
    assert [row[:3] for row in rows[1:5]] == [
        [name, "1", size] for size in ("1", "2") for name in ("cpu-float32", "cpu-int8")
    ]
    assert "sentences: 2" in outcome.stdout
    assert "<svg" in chart.read_text()
    result = run(*words, "--variant", "cpu-int8", "--json").result
    assert {one["variant"] for one in result["speeds"]} == {"cpu-int8"}
    assert result["footprints"][0]["peak_bytes"] > 0


def test_ctrl_c_ends_all_processes(road: Road, tmp_path: Path):
    source = lines(tmp_path / "in.en", "May 3, 2024")
    process = subprocess.Popen(
        arguments("benchmark", "--bundle", road.bundle, "--input", source, "--seconds", "100", "--threads", "1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("loading  1/1")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, output, errors.strip()) == (130, "", "error: interrupted")
        assert eventually(lambda: not any_left(process.pid))
    finally:
        process.kill()


def any_left(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()
