"""`train` in several processes: who starts them, who speaks, and what they must agree on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2tdeploy.cli import options
from t2tdeploy.errors import InputError, UserError

if TYPE_CHECKING:
    from t2tdeploy.problems.dataset import ProblemData
    from t2tdeploy.progress import Reporter
    from t2tdeploy.training.options import TrainOptions
    from t2tdeploy.training.processes import Processes
    from t2tdeploy.training.trainer import TrainResult


def is_to_launch(nproc: int | None) -> bool:
    """True in the process that only starts and watches the `--nproc` ones.

    Raises:
        UserError: torchrun has started this process, which leaves nothing to `--nproc`.
    """
    from t2tdeploy.training.launcher import launched

    if nproc is None or nproc == 1 or launched():
        return False
    if "WORLD_SIZE" in os.environ:
        raise UserError(
            f"--nproc {nproc}, but WORLD_SIZE = {os.environ['WORLD_SIZE']} is in the environment, as torchrun sets it",
            help="under torchrun leave --nproc out; else: env -u WORLD_SIZE t2tdeploy train …",
        )
    return True


def launch_again(nproc: int) -> int:
    """Runs this command in `nproc` processes; returns the exit status."""
    from t2tdeploy.training.launcher import launch

    return launch([sys.executable, "-m", "t2tdeploy", *sys.argv[1:]], processes=nproc)


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """Those that train with this one. One that only lost another leaves the explanation to the launcher."""
    from t2tdeploy.training.distributed import LostProcessError, join_processes
    from t2tdeploy.training.launcher import LOST, launched

    try:
        with join_processes() as processes:
            yield processes
    except LostProcessError:
        if not launched():
            raise
        sys.exit(LOST)


def train_together(
    processes: Processes,
    data: ProblemData,
    settings: TrainOptions,
    reporter: Reporter,
    *,
    threads: int | None,
    path: Path,
    **identity: Any,
) -> TrainResult:
    """Trains the run in `path`; `identity` is what `RunDirectory.create_or_resume` wants to know.

    The first process alone touches `path`; its record and settings are everybody's.
    """
    from t2tdeploy.runtime import available_cpus
    from t2tdeploy.training.allocator import keep_freed_memory
    from t2tdeploy.training.run_directory import RunDirectory
    from t2tdeploy.training.trainer import train as run_training

    share = threads or max(1, available_cpus() // processes.local_world_size)
    # The same number everywhere: sums over the parameters depend on it in their last bit.
    options.use_all_cpus(-processes.largest(-share))
    keep_freed_memory()
    own = RunDirectory.create_or_resume(path, data=data, **identity) if processes.first else None
    record, settings = processes.broadcast((own.record if own else None, settings))
    assert record is not None
    if data.hash != record.data_hash:
        raise InputError(
            f"the data of process {processes.rank} are not those of the first", help="copy --data-dir to every machine"
        )
    run = own or RunDirectory(path, record)
    return run_training(run, data, settings, reporter, processes=processes)
