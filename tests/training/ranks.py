"""What `test_distributed` runs in one process and in several: `python -m tests.training.ranks DATA_DIR RESULTS_DIR`.

Every law is a function of the processes; each process steps on its share of the same batches.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from t2tdeploy.errors import TrainingError
from t2tdeploy.models.search import SearchOptions
from t2tdeploy.models.transformer import Transformer
from t2tdeploy.problems.dataset import ProblemData, open_problem
from t2tdeploy.training.distributed import join_processes
from t2tdeploy.training.engine import Batch, EngineState, StepMetrics
from t2tdeploy.training.evaluate import evaluate
from t2tdeploy.training.processes import Processes
from t2tdeploy.training.torch_engine import TorchEngine

from .conftest import TINY

NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "relu_dropout": 0.0}
# The rows of each batch of each step: unlike numbers of labels, accumulation, and a last step with a batch for one
# process only.
STEPS = [
    [[0], [1, 2, 3], [4, 5], [6]],
    [[7, 8], [9], [10, 11, 12], [13], [14], [15, 16], [17], [18, 19]],
    [[20, 21]],
]


def engine(processes: Processes, data: ProblemData, **changes: object) -> TorchEngine:
    hparams = TINY.replace(**changes)
    torch.manual_seed(1)
    model = Transformer(hparams, data.features)
    torch.manual_seed(100 + processes.rank)
    return TorchEngine(model, hparams, device=torch.device("cpu"), processes=processes)


def step(engine: TorchEngine, processes: Processes, data: ProblemData, rows: list[list[int]]) -> StepMetrics:
    """One step on this process's share of a step's batches; the ranks that there is no batch for get an empty one."""
    split = data.split("train")
    batches: list[Batch] = [split.batch(np.array(batch)) for batch in rows[processes.rank :: processes.world_size]]
    return engine.step(batches or [split.batch(np.empty(0, np.int64))], learning_rate=0.1)


def run(processes: Processes, data: ProblemData, **changes: object) -> dict[str, Any]:
    """Metrics of the steps, and the parameters after them."""
    trained = engine(processes, data, **changes)
    metrics = [tuple(step(trained, processes, data, rows)) for rows in STEPS]
    return {"metrics": metrics, "parameters": parameters(trained)}


def parameters(engine: TorchEngine) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in engine.model.named_parameters()}


def momentum(processes: Processes, data: ProblemData) -> dict[str, Any]:
    return run(processes, data, optimizer="momentum", **NO_DROPOUT)


def clipped(processes: Processes, data: ProblemData) -> dict[str, Any]:
    return run(processes, data, optimizer="sgd", clip_grad_norm=0.05, **NO_DROPOUT)


def dropout(processes: Processes, data: ProblemData) -> dict[str, Any]:
    return run(processes, data, dropout=0.5)


def not_finite(processes: Processes, data: ProblemData) -> dict[str, Any]:
    """A loss that is not finite in the last process only."""
    broken = engine(processes, data)
    if processes.rank == processes.world_size - 1:
        with torch.no_grad():
            broken.model.modality("targets").weight[5:, 0] = float("inf")
    before = parameters(broken)
    metrics = step(broken, processes, data, STEPS[0])
    after = parameters(broken)
    return {"metrics": tuple(metrics), "unchanged": all(torch.equal(after[name], before[name]) for name in before)}


def resumed(processes: Processes, data: ProblemData) -> dict[str, Any]:
    """The same step, with dropout, before and after going back to a state that only the first process has."""
    trained = engine(processes, data, dropout=0.5)
    step(trained, processes, data, STEPS[0])
    saved = EngineState(*({name: tensor.clone() for name, tensor in part.items()} for part in trained.state()))
    expected = step(trained, processes, data, STEPS[1])
    trained.load(saved if processes.first else EngineState({}, {}))
    found = step(trained, processes, data, STEPS[1])
    return {"expected": tuple(expected), "found": tuple(found), "names": sorted(saved.optimizer)}


def probed(processes: Processes, data: ProblemData) -> dict[str, Any]:
    """A step after a probe of the same batches in all processes."""
    trained = engine(processes, data, dropout=0.5)
    trained.probe([data.split("train").batch(np.arange(8))])
    return {"metrics": [tuple(step(trained, processes, data, rows)) for rows in STEPS]}


def grown(processes: Processes, data: ProblemData) -> dict[str, Any]:
    """What each process draws after going on from a state that one process alone saved."""
    trained = engine(processes, data)
    saved = engine(Processes(), data).state() if processes.first else EngineState({}, {})
    trained.load(saved)
    return {"draws": torch.rand(4)}


def drifted(processes: Processes, data: ProblemData) -> dict[str, Any]:
    """One bit of one parameter differs in one process."""
    trained = engine(processes, data)
    if processes.rank == processes.world_size - 1:
        with torch.no_grad():
            weight = trained.model.modality("targets").weight
            weight[3, 3] = torch.nextafter(weight[3, 3], torch.tensor(9.0))
    try:
        trained.state()
    except TrainingError as error:
        return {"message": error.message, "help": error.help}
    return {"message": None}


def costs(processes: Processes, data: ProblemData) -> dict[str, Any]:
    processes.communication()
    trained = engine(processes, data)
    for rows in STEPS:
        step(trained, processes, data, rows)
    parameters = sum(parameter.numel() for parameter in trained.model.parameters())
    return {"costs": processes.communication(), "afterwards": processes.communication(), "parameters": parameters}


def evaluated(processes: Processes, data: ProblemData) -> dict[str, Any]:
    trained = engine(processes, data)
    options = SearchOptions(beam_size=2, alpha=0.6)
    report = evaluate(
        trained.model, data, "dev", options=options, extra_length=3, batch_size=60, sentences=20,
        score=trained.evaluate, processes=processes,
    )  # fmt: skip
    return {"report": report}


def words(processes: Processes, data: ProblemData) -> dict[str, Any]:
    with processes.in_turn():
        pass
    return {
        "sums": processes.sums([processes.rank, 1]),
        "largest": processes.largest(processes.rank),
        "gathered": processes.gather(f"process {processes.rank}"),
        "broadcast": processes.broadcast({"rank": processes.rank}),
    }


LAWS: list[Callable[[Processes, ProblemData], dict[str, Any]]] = [
    momentum, clipped, dropout, not_finite, resumed, grown, probed, drifted, costs, evaluated, words,
]  # fmt: skip


def results(processes: Processes, data_dir: Path) -> dict[str, dict[str, Any]]:
    torch.set_num_threads(1)
    data = open_problem("reverse_letters", data_dir)
    return {law.__name__: law(processes, data) for law in LAWS}


def main(data_dir: str, folder: str) -> None:
    with join_processes() as processes:
        torch.save(results(processes, Path(data_dir)), Path(folder) / f"rank-{processes.rank}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
