"""A training graph comes from the cache if it can; what it finds there is what it would build."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from t2tdeploy.hparams import HParams
from t2tdeploy.progress import SilentReporter
from t2tdeploy.training.graph.obtain import obtain_training_graph
from t2tdeploy.training.graph.training_graph import TRAINING, TrainingGraph
from tests.training.graph.small_model import HPARAMS, Small


class Listener(SilentReporter):
    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


def obtain(directory: Path, hparams: HParams = HPARAMS) -> tuple[TrainingGraph, list[str]]:
    listener = Listener()
    return obtain_training_graph(Small(), hparams, directory=directory, reporter=listener), listener.said


def contents(graph: TrainingGraph) -> list[bytes]:
    models = [model.SerializeToString(deterministic=True) for model in (graph.training, graph.evaluation)]
    return [*models, graph.manifest.model_dump_json().encode()]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the graph."""
    directory = tmp_path_factory.mktemp("graphs")
    _, said = obtain(directory)
    assert [text.split(" (")[0] for text in said] == ["building the training graph"]
    return directory


def test_another_recipe_needs_no_other_graph(kept: Path) -> None:
    assert not obtain(kept)[1]
    assert not obtain(kept, HPARAMS.replace(learning_rate_constant=0.5, optimizer="sgd", batch_size=77))[1]


def test_a_damaged_entry_is_named_and_built_again_as_it_was(kept: Path) -> None:
    expected, _ = obtain(kept)
    (entry,) = (path for path in kept.iterdir() if path.is_dir())
    content = (entry / TRAINING).read_bytes()
    (entry / TRAINING).write_bytes(content[:-20])
    model = Small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(5)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    listener = Listener()
    found = obtain_training_graph(model, HPARAMS, directory=kept, reporter=listener)
    assert torch.equal(torch.rand(3), drawn)
    assert f"{entry} is damaged" in listener.said[0]
    assert TRAINING in listener.said[0]
    assert listener.said[1].startswith("building")
    assert contents(found) == contents(expected)
    assert (entry / TRAINING).read_bytes() == content
    assert not obtain(kept)[1]
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
