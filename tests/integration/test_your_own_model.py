"""docs/your-own-model.md, run as it stands: its class, its commands, its answers."""

from __future__ import annotations

import random
import re
import shlex
from pathlib import Path

import pytest
import torch

from t2tdeploy.export.beam_search import export_beam_search
from t2tdeploy.export.verify import verify
from t2tdeploy.hparams import BasicHParams
from t2tdeploy.models.beam_search import SearchOptions, beam_search
from t2tdeploy.models.model import Model
from t2tdeploy.runtime import GraphSession
from tests.integration.conftest import Command
from tests.models.tiny import features, padded, random_sources
from tests.policy.pages import block_commands
from tests.policy.source import ROOT

PAGE = ROOT / "docs" / "your-own-model.md"
CODE = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def reviews(count: int) -> str:
    draw = random.Random(1)
    lines = []
    for _ in range(count):
        label = draw.choice(["bad", "good"])
        words = [*draw.choices(["film", "plot", "cast"], k=3), *draw.choices([label, "so " + label], k=2)]
        lines.append(f"{' '.join(draw.sample(words, k=5))}\t{label}\n")
    return "".join(lines)


def test_the_page_s_model_trains_and_is_evaluated(
    tmp_path: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_models").mkdir()
    (tmp_path / "my_models" / "fc.py").write_text(CODE[0])
    (tmp_path / "reviews").mkdir()
    (tmp_path / "reviews" / "train.tsv").write_text(reviews(400))
    commands = [shlex.split(line)[1:] for line in block_commands(PAGE)]
    assert [words[0] for words in commands] == ["datagen", "train", "evaluate"]
    outcomes = [run(*words, "--json") for words in commands]
    assert all(outcome.status == 0 for outcome in outcomes), [outcome.stderr for outcome in outcomes]
    evaluated = outcomes[-1]
    assert evaluated.result["accuracy"] > 0.9
    assert {"bad", "good"} == evaluated.result["by_class"].keys()
    pictures = sorted(path.name for path in (tmp_path / "runs" / "my_fc" / "pictures").iterdir())
    assert pictures == ["confusion-test.png", "reliability-test.png"]


@pytest.mark.parametrize("code", CODE[1:])
def test_the_page_s_other_pieces_are_python_that_runs(code: str) -> None:
    names: dict[str, object] = {"__name__": "a_page"}
    exec(compile(code, str(PAGE), "exec"), names)
    made, searched = names.get("wide_large"), names.get("MyAverages")
    if made is not None:
        assert made().branches == 8  # type: ignore[operator]
    if searched is not None:
        require_one_search(searched)  # type: ignore[arg-type]


def require_one_search(kind: type[Model]) -> None:
    """In torch and as a graph, it finds what a search that calls `body` alone does."""
    torch.manual_seed(0)
    model, sources = kind(BasicHParams.create({"hidden_size": 16}), features(20)).eval(), random_sources(20, 3)
    asked = {"beam_size": 4, "alpha": 0.6, "num_hypotheses": 2}
    graph = GraphSession(export_beam_search(model).SerializeToString(), threads=1)
    assert verify(model, graph, sources, extra_length=4, **asked).passed
    limits = torch.tensor([len(ids) + 4 for ids in sources])
    found = beam_search(model, padded(sources), limits, SearchOptions(**asked))
    exported = graph.search(padded(sources).numpy(), limits.numpy(), **asked)
    assert found.target_ids.tolist() == exported.target_ids.tolist()


def test_the_page_s_numbers_are_the_defaults() -> None:
    defaults = BasicHParams.create({})
    found = re.search(
        r"`hidden_size` (\d+), `num_hidden_layers` (\d+), `dropout` (\d+), Adam at ([\d.]+) .*? `batch_size` (\d+), "
        r"(\d+) steps",
        " ".join(PAGE.read_text(encoding="utf-8").split()),
    )
    assert found is not None
    assert [float(text) for text in found.groups()] == [
        defaults.hidden_size, defaults.num_hidden_layers, defaults.dropout, defaults.learning_rate_constant,
        defaults.batch_size, defaults.train_steps,
    ]  # fmt: skip
    assert Model.hparams_class is BasicHParams
