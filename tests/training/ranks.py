"""What `test_distributed` runs in one process and in several: `python -m tests.training.ranks DATA_DIR RESULTS_DIR`.

Every law is a function of the processes, for each engine; each process steps on its share of the same batches.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from t2tdeploy.errors import TrainingError
from t2tdeploy.models.beam_search import SearchOptions
from t2tdeploy.problems.dataset import ProblemData, open_problem
from t2tdeploy.training.distributed import join_processes
from t2tdeploy.training.engine import EngineState, StepMetrics
from t2tdeploy.training.engines import ENGINES, make_engine
from t2tdeploy.training.evaluate import evaluate
from t2tdeploy.training.gradient_engine import GradientEngine
from t2tdeploy.training.processes import Processes
from tests.models.labelled import CASES, random_batch

from .conftest import DROPOUT, NO_DROPOUT, batch, new_engine, parameters

# The rows of each batch of each step: unlike numbers of labels, accumulation, and a last step with a batch for one
# process only.
STEPS = [
    [[0], [1, 2, 3, 22, 23, 24], [4, 5], [6]],
    [[7, 8], [9], [10, 11, 12], [13], [14], [15, 16], [17], [18, 19]],
    [[20, 21]],
]


class Setting(NamedTuple):
    """What a law holds for."""

    name: str  # of the engine
    processes: Processes
    data: ProblemData

    def engine(self, **changes: object) -> GradientEngine:
        return new_engine(self.name, self.data, self.processes, **changes)

    def step(self, engine: GradientEngine, rows: list[list[int]]) -> StepMetrics:
        """One step on this process's share of a step's batches; the ranks that there is none for get an empty one."""
        mine = rows[self.processes.rank :: self.processes.world_size]
        return engine.step([batch(self.data, *some) for some in mine or [[]]], learning_rate=0.1)

    def run(self, **changes: object) -> dict[str, Any]:
        """Metrics of the steps, and the parameters after them."""
        trained = self.engine(**changes)
        metrics = [tuple(self.step(trained, rows)) for rows in STEPS]
        return {"metrics": metrics, "parameters": parameters(trained)}


def momentum(setting: Setting) -> dict[str, Any]:
    return setting.run(optimizer="momentum", **NO_DROPOUT)


def clipped(setting: Setting) -> dict[str, Any]:
    return setting.run(optimizer="sgd", clip_grad_norm=0.05, **NO_DROPOUT)


def dropout(setting: Setting) -> dict[str, Any]:
    return setting.run(**DROPOUT)


def not_finite(setting: Setting) -> dict[str, Any]:
    """A loss that is not finite in the last process only."""
    broken = setting.engine(**NO_DROPOUT)
    if setting.processes.rank == setting.processes.world_size - 1:
        with torch.no_grad():
            broken.model.modality("targets").weight[5:, 0] = float("inf")
    before = parameters(broken)
    metrics = setting.step(broken, STEPS[0])
    after = parameters(broken)
    return {"metrics": tuple(metrics), "unchanged": all(torch.equal(after[name], before[name]) for name in before)}


def resumed(setting: Setting) -> dict[str, Any]:
    """The same step, with dropout, before and after going back to a state that only the first process has."""
    trained = setting.engine(**DROPOUT)
    setting.step(trained, STEPS[0])
    saved = EngineState(*({name: tensor.clone() for name, tensor in part.items()} for part in trained.state()))
    expected = setting.step(trained, STEPS[1])
    trained.load(saved if setting.processes.first else EngineState({}, {}))
    found = setting.step(trained, STEPS[1])
    return {"expected": tuple(expected), "found": tuple(found), "names": sorted(saved.optimizer)}


def probed(setting: Setting) -> dict[str, Any]:
    """A step after a probe of the same batches in all processes."""
    trained = setting.engine(**DROPOUT)
    trained.probe([batch(setting.data, *range(8))])
    return {"metrics": [tuple(setting.step(trained, rows)) for rows in STEPS]}


def grown(setting: Setting) -> dict[str, Any]:
    """The random states of each process after going on from a state that one process alone saved."""
    trained = setting.engine(**DROPOUT)
    first = setting.processes.first
    trained.load(new_engine(setting.name, setting.data, **DROPOUT).state() if first else EngineState({}, {}))
    return {"states": {name: state.tolist() for name, state in trained._random_states().items()}}


def drifted(setting: Setting) -> dict[str, Any]:
    """One bit of one parameter differs in one process."""
    trained = setting.engine(**NO_DROPOUT)
    if setting.processes.rank == setting.processes.world_size - 1:
        with torch.no_grad():
            weight = trained.model.modality("targets").weight
            weight[3, 3] = torch.nextafter(weight[3, 3], torch.tensor(9.0))
    try:
        trained.state()
    except TrainingError as error:
        return {"message": error.message, "help": error.help}
    return {"message": None}


def costs(setting: Setting) -> dict[str, Any]:
    setting.processes.communication()
    trained = setting.engine(**NO_DROPOUT)
    for rows in STEPS:
        setting.step(trained, rows)
    return {
        "costs": setting.processes.communication(),
        "afterwards": setting.processes.communication(),
        "parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
    }


def evaluated(setting: Setting) -> dict[str, Any]:
    trained = setting.engine(**NO_DROPOUT)
    options = SearchOptions(beam_size=2, alpha=0.6)
    report = evaluate(
        trained.model, setting.data, "dev", options=options, extra_length=3, batch_size=60, sentences=20,
        score=trained.evaluate, processes=setting.processes,
    )  # fmt: skip
    return {"report": report}


def normalized(setting: Setting) -> dict[str, Any]:
    """Buffers of batch normalization after a step on a batch for each process."""
    case = CASES["convolution"]
    trained = make_engine(
        setting.name, case.make(), case.hparams, device=torch.device("cpu"), processes=setting.processes
    )
    trained.step([random_batch(case.features, 4, seed=setting.processes.rank)], learning_rate=0.0)
    return {"buffers": {name: buffer.clone() for name, buffer in trained.model.named_buffers()}}


def words(setting: Setting) -> dict[str, Any]:
    processes = setting.processes
    with processes.in_turn():
        pass
    return {
        "sums": processes.sums([processes.rank, 1]),
        "largest": processes.largest(processes.rank),
        "gathered": processes.gather(f"process {processes.rank}"),
        "broadcast": processes.broadcast({"rank": processes.rank}),
    }


LAWS: list[Callable[[Setting], dict[str, Any]]] = [
    momentum, clipped, dropout, not_finite, resumed, grown, probed, drifted, costs, evaluated, normalized,
    words,
]  # fmt: skip


def results(processes: Processes, data_dir: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Engine -> law -> what it found."""
    torch.set_num_threads(1)
    data = open_problem("reverse_letters", data_dir)
    return {name: {law.__name__: law(Setting(name, processes, data)) for law in LAWS} for name in ENGINES}


def main(data_dir: str, folder: str) -> None:
    with join_processes() as processes:
        torch.save(results(processes, Path(data_dir)), Path(folder) / f"rank-{processes.rank}.pt")
    (Path(folder) / f"threads-{processes.rank}.json").write_text(json.dumps(threads_of_gloo()))


def threads_of_gloo() -> list[str]:
    """Names of those that run; nothing where the system does not tell."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return sorted(name for name in names if "gloo" in name)


if __name__ == "__main__":
    main(*sys.argv[1:])
