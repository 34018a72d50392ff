"""The road of the README by its real commands: data, training, evaluation, export, serving, translation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from t2tdeploy.bundle import load_bundle
from t2tdeploy.problems.dataset import open_problem
from t2tdeploy.serving.client import Client
from t2tdeploy.translator import TranslateOptions, Translator
from tests.integration.commands import fail, running_server, succeed
from tests.integration.conftest import PROBLEM, Road


@pytest.fixture(scope="module")
def sources(road: Road) -> list[str]:
    return open_problem(PROBLEM, road.data).split("test").texts("inputs")[:24]


def test_a_run_leaves_all_that_it_takes_to_repeat_it(road: Road):
    record = json.loads((road.run / "run.json").read_text())
    assert record["problem"] == PROBLEM
    assert record["hparams"]["hidden_size"] == 32
    assert "train" in record["command"]
    assert record["versions"]["torch"]
    assert record["data_hash"] == open_problem(PROBLEM, road.data).hash
    for file in ("metrics.jsonl", "curve.png", "checkpoints/best.json"):
        assert (road.run / file).stat().st_size > 0, file
    assert list(road.run.glob("events.out.tfevents.*"))


def test_evaluate_reports_losses_and_real_bleu(road: Road):
    result = succeed("evaluate", "--output-dir", road.run, "--split", "test", "--sentences", "10", "--json").result
    assert result["sentences"] == 10
    assert result["perplexity"] > 1
    assert 0 <= result["accuracy"] <= 1
    assert 0 <= result["bleu"] <= 100
    assert result["bleu_signature"].startswith("nrefs:1|case:mixed")
    assert "chrf_signature" in result


def test_served_is_decoded_is_local(road: Road, sources: list[str], tmp_path: Path):
    """The torch search, the graph in this process and the server in another give the same translations."""
    text = tmp_path / "in.en"
    sources = [*sources, "", " "]  # blank lines stay blank, everywhere
    text.write_text("".join(f"{line}\n" for line in sources), encoding="utf-8")
    succeed("decode", "--output-dir", road.run, "--input", text, "--output", tmp_path / "decoded")
    decoded = (tmp_path / "decoded").read_text(encoding="utf-8").split("\n")[:-1]
    local = Translator(load_bundle(road.bundle), threads=1).translate(sources, TranslateOptions(num_hypotheses=3))
    assert decoded == [hypotheses[0].text for hypotheses in local]
    with running_server(road.bundle) as port:
        server = f"localhost:{port}"
        succeed("translate", "--server", server, "--input", text, "--output", tmp_path / "served")
        assert (tmp_path / "served").read_text(encoding="utf-8").split("\n")[:-1] == decoded
        single = succeed("translate", "--server", server, sources[0]).stdout
        assert single == f"{decoded[0]}\n"
        piped = succeed("translate", "--server", server, "--json", stdin=f"{sources[1]}\n\n").stdout.splitlines()
        assert [json.loads(line)["translation"] for line in piped] == [decoded[1], ""]
        with Client(server) as client:
            several = client.translate(sources, TranslateOptions(num_hypotheses=3))
        for there, here in zip(several, local, strict=True):
            assert [one.text for one in there] == [one.text for one in here]
            assert [one.score for one in there] == pytest.approx([one.score for one in here], abs=1e-4)
        listed = succeed("translate", "--server", server, "--num-hypotheses", "2", sources[0]).stdout
        assert [line.split("\t")[1] for line in listed.splitlines()] == [one.text for one in local[0][:2]]
        long = "many words " * 500
        text.write_text(f"{sources[0]}\n\n{long}\n", encoding="utf-8")
        at = ("--server", server, "--input", text)
        assert "in.en, line 3: " in fail("translate", *at).stderr
        assert "standard input, line 2: " in fail("translate", "--server", server, stdin=f"a\n{long}\n").stderr
        cut = succeed("translate", *at, "--truncate", "--extra-length", "3")
        assert len(cut.stdout.splitlines()) == 3
        assert "translating  3/3 sentences" in cut.stderr
        assert "sources[0]" in fail("translate", "--server", server, long).stderr


def test_decode_refuses_a_line_as_the_server_does(road: Road):
    assert "line 3: " in fail("decode", "--output-dir", road.run, stdin="a\n\n" + "many words " * 500).stderr


def test_decode_reads_a_pipe(road: Road, sources: list[str]):
    outcome = succeed("decode", "--output-dir", road.run, "--beam-size", "1", stdin="\n".join(sources[:3]))
    assert len(outcome.stdout.splitlines()) == 3


def test_a_bundle_says_where_it_comes_from_and_how_close_it_is(road: Road):
    bundle = load_bundle(road.bundle)
    parity = json.loads((road.bundle / "parity.json").read_text())
    assert parity["passed"]
    assert parity["identical"] == parity["sentences"] == 4
    assert bundle.manifest.provenance["problem"] == PROBLEM
    assert bundle.manifest.provenance["hparams"]["hidden_size"] == 32
    assert bundle.manifest.decode.extra_length == 10


def test_average_is_the_mean_of_the_last_checkpoints(road: Road, tmp_path: Path):
    run = Path(shutil.copytree(road.run, tmp_path / "run"))
    result = succeed("average", "--output-dir", run, "--last", "2", "--json").result
    assert result["averaged"] == "30, 40"
    first, second, mean = (
        load_file(path / "model.safetensors")
        for path in (
            run / "checkpoints/step-00000030",
            run / "checkpoints/step-00000040",
            run / "averaged",
        )
    )
    for name, value in mean.items():
        assert value == pytest.approx((first[name] + second[name]) / 2, abs=1e-6)
    succeed("evaluate", "--output-dir", run, "--checkpoint", "averaged", "--sentences", "2")
    fewer = succeed("average", "--output-dir", run, "--last", "9")
    assert "4 checkpoints, not 9: there are no more in a row" in fewer.stderr
    assert "10, 20, 30, 40" in fewer.stdout
