"""Laws of many processes: two and four of them are one process on the union of their batches."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from t2tdeploy.errors import UserError
from t2tdeploy.training import distributed
from t2tdeploy.training.distributed import join_processes
from t2tdeploy.training.engines import ENGINES
from t2tdeploy.training.launcher import launch
from t2tdeploy.training.processes import ALONE
from t2tdeploy.training.torch_engine import TorchEngine
from tests.models.labelled import CASES, random_batch
from tests.sessions import made_once

from . import ranks

Results = dict[str, dict[str, Any]]


@pytest.fixture(scope="session", params=[2, 4])
def written(request: pytest.FixtureRequest, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that several processes have written to."""

    def run(folder: Path) -> None:
        command = [sys.executable, "-m", "tests.training.ranks", str(data_dir), str(folder)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OMP_NUM_THREADS", "2" if request.param == 2 else "1")  # two: parts of a batch at once
            assert launch(command, processes=request.param) == 0

    return made_once(tmp_path_factory, f"ranks-{request.param}", run)


@pytest.fixture(scope="session")
def launched(written: Path) -> list[dict[str, Results]]:
    """The results of each process, by engine."""
    count = len([*written.glob("rank-*.pt")])
    return [torch.load(written / f"rank-{rank}.pt", weights_only=False) for rank in range(count)]


@pytest.fixture(scope="session")
def one(data_dir: Path) -> dict[str, Results]:
    """The results of a process alone, by engine."""
    return ranks.results(ALONE, data_dir)


@pytest.fixture(scope="session", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def together(launched: list[dict[str, Results]], engine: str) -> list[Results]:
    return [results[engine] for results in launched]


@pytest.fixture(scope="session")
def alone(one: dict[str, Results], engine: str) -> Results:
    return one[engine]


def test_no_thread_of_the_group_outlives_it(written: Path) -> None:
    """One that still runs when the interpreter ends may abort the process."""
    left = [json.loads(path.read_text()) for path in written.glob("threads-*.json")]
    assert len(left) >= 2
    assert not any(left)


@pytest.mark.parametrize("law", ["momentum", "clipped"])
def test_several_are_one_on_the_union_of_their_batches(together: list[Results], alone: Results, law: str) -> None:
    """Over steps of unequal batches, with accumulation and with empty batches."""
    for found, expected in zip(together[0][law]["metrics"], alone[law]["metrics"], strict=True):
        loss, labels, norm, skipped = expected
        assert found == (pytest.approx(loss, rel=1e-5), labels, pytest.approx(norm, rel=1e-5), skipped)
    for name, tensor in alone[law]["parameters"].items():
        torch.testing.assert_close(together[0][law]["parameters"][name], tensor, rtol=0, atol=1e-6)


def test_the_clipped_law_clips(alone: Results) -> None:
    assert all(norm > 0.05 for _, _, norm, _ in alone["clipped"]["metrics"])


@pytest.mark.parametrize("law", ["momentum", "clipped", "dropout"])
def test_all_have_the_same_bits(together: list[Results], law: str) -> None:
    first = together[0][law]
    for other in together[1:]:
        assert other[law]["metrics"] == first["metrics"]
        assert all(
            torch.equal(other[law]["parameters"][name], first["parameters"][name]) for name in first["parameters"]
        )


def test_a_loss_that_is_not_finite_in_one_is_so_in_all(together: list[Results]) -> None:
    for results in together:
        loss, _, norm, _ = results["not_finite"]["metrics"]
        assert not (math.isfinite(loss) and math.isfinite(norm))
        assert results["not_finite"]["unchanged"]


def test_the_first_one_s_state_is_enough_to_go_on_bit_for_bit(together: list[Results]) -> None:
    """Dropout masks of all processes included."""
    for results in together:
        assert results["resumed"]["found"] == results["resumed"]["expected"]
    kept = {name for name in together[0]["resumed"]["names"] if name.startswith("rng/")}
    own = [f"rng/{name}" for name in together[0]["grown"]["states"]]
    assert kept == {*own, *(name.replace("/", f"/{rank}/") for name in own for rank in range(1, len(together)))}


def test_processes_draw_different_dropout_masks_also_when_more_go_on(together: list[Results]) -> None:
    for name in together[0]["grown"]["states"]:
        assert len({tuple(results["grown"]["states"][name]) for results in together}) == len(together)


def test_a_probe_changes_nothing(together: list[Results]) -> None:
    for results in together:
        assert results["probed"]["metrics"] == results["dropout"]["metrics"]


def test_one_differing_bit_is_noticed_and_named_everywhere(together: list[Results]) -> None:
    for results in together:
        assert "1 of " in results["drifted"]["message"]
        assert "modalities" in results["drifted"]["message"]
        assert "same kind of CPU" in results["drifted"]["help"]


def test_communication_counts_the_bytes_of_every_gradient_and_the_loss(together: list[Results], alone: Results) -> None:
    for results in together:
        costs = results["costs"]["costs"]
        assert costs["communication_bytes"] == len(ranks.STEPS) * 4 * (results["costs"]["parameters"] + 1)
        assert costs["communication_seconds"] > 0
        assert results["costs"]["afterwards"] == {}
    assert alone["costs"]["costs"] == {}


def test_an_evaluation_that_is_shared_is_that_of_one(together: list[Results], alone: Results) -> None:
    for results in together:
        assert results["evaluated"] == alone["evaluated"]


def test_running_statistics_are_the_mean_of_all_processes(together: list[Results]) -> None:
    """The same bits everywhere, so that the first one's checkpoint and all shares of an evaluation are of one model."""
    case = CASES["convolution"]
    expected: dict[str, torch.Tensor] = {}
    for rank in range(len(together)):
        engine = TorchEngine(case.make(), case.hparams, device=torch.device("cpu"))
        engine.step([random_batch(case.features, 4, seed=rank)], learning_rate=0.0)
        for name, buffer in engine.model.named_buffers():
            expected[name] = expected.get(name, 0.0) + buffer.double() / len(together)
    for results in together:
        found = results["normalized"]["buffers"]
        for name, mean in expected.items():
            torch.testing.assert_close(found[name].double(), mean, rtol=1e-5, atol=1e-6)
            assert torch.equal(found[name], together[0]["normalized"]["buffers"][name])


def test_words(together: list[Results], alone: Results) -> None:
    count = len(together)
    for rank, results in enumerate(together):
        found = results["words"]
        assert found["sums"] == [count * (count - 1) // 2, count]
        assert found["largest"] == count - 1
        assert found["gathered"] == ([f"process {other}" for other in range(count)] if rank == 0 else [])
        assert found["broadcast"] == {"rank": 0}
    assert alone["words"] == {"sums": [0, 1], "largest": 0, "gathered": ["process 0"], "broadcast": {"rank": 0}}


def test_one_process_alone_does_not_touch_torch_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.endswith(("RANK", "WORLD_SIZE"))]:
        monkeypatch.delenv(name)
    with join_processes() as processes:
        assert processes is ALONE
        assert not torch.distributed.is_initialized()


def test_an_environment_that_is_not_whole_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match="RANK = None") as error, join_processes():
        pass
    assert "torchrun" in (error.value.help or "")


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"2 processes on a machine with 1 GPU$") as error:
        distributed._take_gpu(0, 2)
    assert "CUDA_VISIBLE_DEVICES" in (error.value.help or "")
