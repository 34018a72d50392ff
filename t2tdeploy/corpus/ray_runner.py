"""Blocks translated by a pool of Ray actors: Ray Data hands them out, and starts an actor anew that was killed."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
import ray.data

from t2tdeploy.corpus.block import BlockTranslator, Report
from t2tdeploy.corpus.job import Block, BlockRecord, CorpusJob
from t2tdeploy.corpus.run import Runner
from t2tdeploy.errors import OperationalError, T2TDeployError
from t2tdeploy.progress import Reporter
from t2tdeploy.runtime import available_cpus


def run_on_ray(*, workers: int, threads: int | None = None, address: str | None = None, reporter: Reporter) -> Runner:
    """A runner of `workers` actors. Blocks go out one at a time, so an actor that dies costs its block's work.

    Input, bundle and output must be at the same paths for every actor. A block is written whole by whoever does it, so
    that one which is done twice is the same.

    Args:
        threads: of each worker's model, and the CPUs that it asks Ray for; None: this machine's, shared among them.
        address: of a Ray cluster; None: one is started on this machine and stopped at the end.

    The runner raises what a block raised, and OperationalError if the cluster cannot be reached.
    """

    def run(job: CorpusJob, blocks: Sequence[Block], report: Report) -> Iterator[BlockRecord]:
        each = threads or max(1, available_cpus() // workers)
        with _cluster(address, workers * each, reporter):
            context = ray.data.DataContext.get_current()
            context.enable_progress_bars = False
            context.execution_options.preserve_order = False  # of records; the parts have their numbers
            results = ray.data.from_items(
                [{"block": pickle.dumps(block)} for block in blocks], override_num_blocks=len(blocks)
            ).map_batches(
                _Worker,
                fn_constructor_args=(job, each),
                batch_size=1,
                batch_format="numpy",
                compute=ray.data.ActorPoolStrategy(size=min(workers, len(blocks)), max_tasks_in_flight_per_actor=2),
                num_cpus=each,
            )
            for row in results.iter_rows():
                outcome = pickle.loads(row["outcome"])
                if isinstance(outcome, T2TDeployError):
                    raise outcome
                report(outcome.rows)
                yield outcome

    return run


class _Worker:
    """One actor. Errors of ours and of the system travel as results, because Ray would try their block again and then
    wrap them."""

    def __init__(self, job: CorpusJob, threads: int) -> None:
        self._job, self._threads = job, threads
        self._translator: BlockTranslator | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        return {"outcome": [pickle.dumps(self._outcome(pickle.loads(block))) for block in batch["block"]]}

    def _outcome(self, block: Block) -> BlockRecord | T2TDeployError:
        try:
            if self._translator is None:
                self._translator = BlockTranslator(self._job, threads=self._threads)
            return self._translator.run(block)
        except T2TDeployError as error:
            return error
        except OSError as error:  # a full disk, a share that is away
            place = f"{error.filename}: " if error.filename else ""
            return OperationalError(
                f"{place}{error.strerror or error}",
                help="when that is mended, the same command goes on from here",
            )


@contextmanager
def _cluster(address: str | None, cpus: int, reporter: Reporter) -> Iterator[None]:
    settings: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        settings |= {"num_cpus": cpus, "include_dashboard": False}
        # Ray's C++ side writes to our standard error, among others that restarts need the driver alive, which they do.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        ray.init(address or "local", **settings)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise OperationalError(
            f"cannot reach the Ray cluster at {address}: {str(error).splitlines()[0]}",
            help="ray status shows whether it runs; leave --ray-address out to start one on this machine",
        ) from error
    try:
        found = ray.cluster_resources().get("CPU", 0)
        if found < cpus:
            reporter.message(f"the cluster has {found:g} CPUs, {cpus} are asked for: it may wait for more")
        yield
    finally:
        ray.shutdown()
