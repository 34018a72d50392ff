"""The export command: what becomes of a run or a bundle, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from t2tdeploy.bundle import Bundle, load_bundle
from t2tdeploy.export import package
from t2tdeploy.export.text_bundle import PROBES, TextSession, verify_text
from t2tdeploy.models.model import Model
from t2tdeploy.problems.dataset import open_problem
from t2tdeploy.sentences import pad_rows
from t2tdeploy.translator import TranslateOptions, Translator
from tests.export.triton_backend import TritonModel
from tests.integration.conftest import PROBLEM, Command, Fails, Road

STRANGE = ["Two young, White males are outside near many bushes.", "Café 日本 😀", *PROBES]


@pytest.fixture(scope="module")
def sources(road: Road) -> list[str]:
    return [*open_problem(PROBLEM, road.data).split("test").texts("inputs")[:12], *STRANGE]


@pytest.fixture(scope="module")
def translator(road: Road) -> Translator:
    return Translator(load_bundle(road.bundle), threads=1)


@pytest.fixture
def exported_before(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves half a minute: the run's bundle is that of the road, which the same call wrote."""

    def export_bundle(model: Model, directory: Path, **_: object) -> Bundle:
        return load_bundle(shutil.copytree(road.bundle, directory))

    monkeypatch.setattr(package, "export_bundle", export_bundle)


@pytest.mark.usefixtures("exported_before")
def test_a_run_becomes_one_file_from_text_to_text(
    run: Command, road: Road, translator: Translator, sources: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "dates.onnx"
    words = ["export", "--output-dir", road.run, "--format", "text", "--output", file, "--parity-sentences", "2"]
    outcome = run(*words, "--json")
    assert outcome.status == 0, outcome.stderr
    assert json.loads(outcome.stdout.splitlines()[-1])["text_graph"] == str(file)
    session = TextSession(file, threads=1)
    verify_text(session, translator, sources)
    asked = TranslateOptions(beam_size=5, alpha=0.2, num_hypotheses=4, extra_length=3, truncate=True)
    for ours, theirs in zip(session.translate(sources, asked), translator.translate(sources, asked), strict=True):
        assert [(one.text, one.tokens, one.finished) for one in ours] == [
            (one.text, one.tokens, one.finished) for one in theirs
        ]
        assert [one.score for one in ours] == pytest.approx([one.score for one in theirs], abs=1e-4)
    assert run(*words).status == 2  # taken


@pytest.mark.usefixtures("exported_before")
def test_a_run_becomes_a_bundle_with_a_text_graph_or_models_of_triton(run: Command, road: Road, tmp_path: Path) -> None:
    words = ["export", "--output-dir", road.run, "--parity-sentences", "2", "--text-graph"]
    assert run(*words, "--bundle", tmp_path / "bundle").status == 0
    assert load_bundle(tmp_path / "bundle").manifest.text_graph
    assert run(*words, "--format", "triton", "--output", tmp_path / "models").status == 0
    assert {path.name for path in (tmp_path / "models").iterdir()} == {PROBLEM, f"{PROBLEM}_text"}


def test_a_bundle_takes_a_text_graph_where_it_is(
    run: Command, road: Road, translator: Translator, sources: list[str], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(road.bundle, tmp_path / "bundle"))
    outcome = run("export", "--from-bundle", folder, "--text-graph")
    assert outcome.status == 0, outcome.stderr
    assert "text.onnx" in outcome.stdout
    bundle = load_bundle(folder)
    assert Translator(bundle, threads=1).translate(sources[:12]) == translator.translate(sources[:12])
    verify_text(TextSession(folder / "text.onnx", threads=1), translator, sources)


def test_a_bundle_becomes_models_of_triton(
    run: Command, road: Road, translator: Translator, sources: list[str], tmp_path: Path
) -> None:
    words = ["export", "--from-bundle", road.bundle, "--format", "triton", "--output", tmp_path / "models"]
    outcome = run(*words, "--text-graph", "--name", "dates", "--options", "max_batch_size=16")
    assert outcome.status == 0, outcome.stderr
    assert outcome.stdout.split()[-2:] == ["dates,", "dates_text"]
    ids, text = (TritonModel(tmp_path / "models" / name) for name in ("dates", "dates_text"))
    for model in (ids, text):
        model.warm_up()
    asked = sources[:12]
    rows = [pad_rows([sentence.ids]) for sentence in translator.encode(asked)]
    by_ids = [response["target_ids"][0, 0].tolist() for response in ids.run([{"source_ids": row} for row in rows])]
    by_text = text.run([{"sources": np.array([[source]], object)} for source in asked])
    expected = [hypotheses[0].text for hypotheses in translator.translate(asked)]
    assert [translator.bundle.tokenizer("targets").decode(row) for row in by_ids] == expected
    assert [response["texts"][0, 0] for response in by_text] == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "name either a run (--output-dir) or a bundle (--from-bundle)"),
        ("--output-dir RUN --from-bundle BUNDLE --text-graph", "name either a run"),
        ("--output-dir RUN", "name the folder of the bundle to write: --bundle"),
        ("--output-dir RUN --bundle NEW --output NEW", "--output is for --format triton and text"),
        ("--from-bundle BUNDLE", "add --text-graph, or choose another --format"),
        ("--from-bundle BUNDLE --text-graph --bundle BUNDLE2", "BUNDLE2 is not a bundle, so it is not overwritten"),
        ("--from-bundle BUNDLE --text-graph --checkpoint last", "--checkpoint is for a run"),
        ("--from-bundle BUNDLE --text-graph --name x", "--name is for a run"),
        ("--from-bundle BUNDLE --text-graph --options device=gpu", "--options are those of --format triton"),
        ("--from-bundle NEW --text-graph", "is not a bundle: it has no manifest.json"),
        ("--from-bundle BUNDLE --format onnx --output NEW", "'bundle', 'triton', 'text'"),
        ("--from-bundle BUNDLE --format text", "--format text needs --output"),
        ("--from-bundle BUNDLE --format text --output RUN", "is a folder"),
        ("--from-bundle BUNDLE --format triton --bundle NEW", "triton is written to --output"),
        ("--from-bundle BUNDLE --format triton --output NEW --options max_batch=8", "did you mean 'max_batch_size'?"),
        ("--from-bundle BUNDLE --format triton --output NEW --name a/b", "'a/b' cannot be the name of a model"),
        ("--output-dir RUN --format triton --output FILE", "is a file, not a folder"),
        ("--output-dir RUN --format triton --output NEW --name ..", "'..' cannot be the name of a model"),
        ("--output-dir RUN --text-graph --bundle BUNDLE", "already exists"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(
    fails: Fails, road: Road, tmp_path: Path, words: str, message: str
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.jpg").write_text("mine")
    places = {
        "RUN": road.run,
        "BUNDLE": road.bundle,
        "BUNDLE2": tmp_path / "other",
        "NEW": tmp_path / "new",
        "FILE": tmp_path / "file",
    }
    overwrite = ["--overwrite"] if "BUNDLE2" in words else []
    fails(
        2,
        ["export", *(places.get(word, word) for word in words.split()), *overwrite],
        message.replace("BUNDLE2", "other"),
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "other"]
