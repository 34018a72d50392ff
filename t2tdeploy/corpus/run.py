"""From a job to its output: what is finished is kept, the rest is translated, all of it is checked."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from t2tdeploy.corpus.block import BlockTranslator, Report
from t2tdeploy.corpus.check import check_folder, check_part, is_finished
from t2tdeploy.corpus.job import BAD_ROWS, BLOCKS, LOCK, SUMMARY, BadRow, Block, BlockRecord, CorpusJob
from t2tdeploy.corpus.source import RowReader
from t2tdeploy.errors import InputError
from t2tdeploy.files import atomic_file, lock_file, recover_all, write_json
from t2tdeploy.progress import Reporter, Task

Runner = Callable[[CorpusJob, Sequence[Block], Report], Iterator[BlockRecord]]
"""Translates blocks, in any order, and yields the record of each when it is finished."""


@dataclass(frozen=True)
class Summary:
    """What a job came to.

    Args:
        translated, truncated, bad_rows: rows, see `BlockRecord`.
        blocks: of which `blocks_kept` were finished before.
        seconds: of translating in this run, the start of its workers included, checks before and after it not.
        rows_per_second: of what this run translated in these; None: nothing was left to do.
    """

    rows: int
    translated: int
    truncated: int
    bad_rows: int
    blocks: int
    blocks_kept: int
    seconds: float
    rows_per_second: float | None


def run_here(threads: int | None) -> Runner:
    """A runner that translates in this process, block after block."""

    def run(job: CorpusJob, blocks: Sequence[Block], report: Report) -> Iterator[BlockRecord]:
        translator = BlockTranslator(job, threads=threads)
        for block in blocks:
            yield translator.run(block, report)

    return run


def translate_corpus(job: CorpusJob, runner: Runner, reporter: Reporter) -> Summary:
    """Translates what of `job` is not finished, then checks every part.

    Reports the task `translating` in rows, and the event `bad_rows` if there are any.

    Raises:
        InputError: the output folder is something else's, in use, or has other Parquet files in it; a row is bad and
            `on_error` is "fail".
        RunConflictError: the folder holds another job.
        CorruptFileError: the input is damaged, or a part is not what it should be.
    """
    job.require_usable()
    job.output.mkdir(parents=True, exist_ok=True)
    with _alone(job.output):
        job.claim()
        (job.output / BLOCKS).mkdir(exist_ok=True)
        for folder in (job.output, job.output / BLOCKS):
            recover_all(folder)
        blocks = job.blocks()
        waiting = [block for block in blocks if not is_finished(job, block)]
        if len(waiting) < len(blocks):
            reporter.message(f"{len(blocks) - len(waiting)} of {len(blocks)} blocks are finished already")
        rows, started = sum(block.rows for block in waiting), time.monotonic()
        if waiting:
            for name in (SUMMARY, BAD_ROWS):  # they speak of parts that are done again, or of another job's
                (job.output / name).unlink(missing_ok=True)
            with reporter.task("translating", total=rows, unit="rows") as task:
                for _ in runner(job, waiting, _Pace(task, rows).advance):
                    pass
        seconds = time.monotonic() - started
        with RowReader([job.column]) as texts:
            records = [check_part(job, block, texts) for block in blocks]
        check_folder(job)
        bad = [row for record in records for row in record.bad_rows]
        _write_bad_rows(job.output / BAD_ROWS, bad)
        summary = Summary(
            rows=job.rows,
            translated=sum(record.translated for record in records),
            truncated=sum(record.truncated for record in records),
            bad_rows=len(bad),
            blocks=len(blocks),
            blocks_kept=len(blocks) - len(waiting),
            seconds=round(seconds, 3),
            rows_per_second=round(rows / seconds, 1) if rows else None,
        )
        if bad:
            reporter.event("bad_rows", count=len(bad), details=str(job.output / BAD_ROWS))
        parts = {record.part: record.sha256 for record in records}
        write_json(job.output / SUMMARY, {**asdict(summary), "parts": parts})
        return summary


class _Pace:
    """Tells a task how fast rows are done and how long the others will take."""

    def __init__(self, task: Task, rows: int) -> None:
        self._task, self._rows, self._done, self._started = task, rows, 0, time.monotonic()

    def advance(self, rows: int) -> None:
        self._done += rows
        rate = self._done / max(time.monotonic() - self._started, 1e-9)
        left = round((self._rows - self._done) / rate) if rate else 0
        clock = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
        self._task.advance(rows, rows_per_second=round(rate, 1), left=clock)


def _write_bad_rows(path: Path, rows: Sequence[BadRow]) -> None:
    if not rows:
        path.unlink(missing_ok=True)
        return
    with atomic_file(path) as temporary:
        temporary.write_text(
            "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    lock = lock_file(output / LOCK)
    if lock is None:
        raise InputError(
            f"another process is translating into {output}",
            path=output,
            help="wait until it ends, or stop it; or choose another --output",
        )
    with lock:
        yield
