"""One block of a corpus: rows in, a part on disk out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet

from t2tdeploy.bundle import load_bundle
from t2tdeploy.corpus.job import BadRow, Block, BlockRecord, CorpusJob
from t2tdeploy.corpus.source import RowReader, texts_of
from t2tdeploy.errors import InputError, RequestError
from t2tdeploy.files import atomic_file, sha256_of
from t2tdeploy.hypotheses import Hypothesis
from t2tdeploy.sentences import Sentence
from t2tdeploy.translator import Translator

Report = Callable[[int], None]
"""Is told how many rows more are done."""


class BlockTranslator:
    """Translates blocks of one job. Loads the bundle once; a process has one.

    Args:
        threads: of the model; None: all CPUs this process may use.

    Raises:
        InputError: the bundle at the job's place is another one than the job was made for.
        CorruptFileError, OperationalError: as `Translator`.
    """

    def __init__(self, job: CorpusJob, *, threads: int | None = None) -> None:
        bundle = load_bundle(job.bundle_dir)
        found = f"{bundle.manifest.name} {bundle.version}"
        if found != job.bundle:
            raise InputError(
                f"{job.bundle_dir} holds {found}, not {job.bundle}",
                path=job.bundle_dir,
                help="every machine must see the same bundle there",
            )
        self._job, self._reader = job, RowReader()
        self._translator = Translator(bundle, variant=job.variant, threads=threads)
        self._key = self._translator.search_key(job.options)

    def run(self, block: Block, report: Report = lambda rows: None) -> BlockRecord:
        """Translates a block and writes its part and its record; only then is it finished.

        Raises:
            InputError: `on_error` is "fail" and a row is bad.
            CorruptFileError: the input is damaged.
            OperationalError: the model failed.
        """
        job = self._job
        table = self._reader.read(block.file, block.start, block.stop)
        bad: list[BadRow] = []
        sentences = self._encode(block, texts_of(table.column(job.column)), bad)
        translations = self._translate([one for one in sentences if one is not None], report)
        report(sum(one is None for one in sentences))
        found = [None if one is None else translations[one.text] for one in sentences]
        part = job.part(block.number)
        _write_part(part, table, found, job)
        record = BlockRecord(
            block=block.number,
            part=part.name,
            sha256=sha256_of(part),
            rows=block.rows,
            translated=sum(one is not None for one in found),
            truncated=sum(one is not None and one.truncated for one in sentences),
            bad_rows=tuple(bad),
        )
        record.write(job.record(block.number))
        return record

    def _encode(self, block: Block, sources: Sequence[bytes | None], bad: list[BadRow]) -> list[Sentence | None]:
        """A sentence per row; None where there is none to translate, which is noted in `bad`."""
        sentences: list[Sentence | None] = []
        for offset, source in enumerate(sources):
            try:
                sentences.append(self._sentence(source))
            except RequestError as error:
                reason = error.message.removeprefix(f"{error.field}: ").removeprefix("row: ")
                row = BadRow(block.file.name, block.start + offset, reason)
                if self._job.on_error == "fail":
                    raise InputError(
                        f"{block.file}, row {row.row}: {reason}",
                        path=block.file,
                        help="the same command with --on-error skip or --on-error truncate goes on from here",
                    ) from None
                bad.append(row)
                sentences.append(None)
        return sentences

    def _sentence(self, source: bytes | None) -> Sentence:
        if source is None:
            raise RequestError("row", "null")
        try:
            text = source.decode("utf-8")
        except UnicodeDecodeError as error:
            raise RequestError("row", f"not UTF-8 at byte {error.start}") from None
        return self._translator.encode([text], truncate=self._job.on_error == "truncate")[0]

    def _translate(self, sentences: Sequence[Sentence], report: Report) -> dict[str, Hypothesis]:
        """The best hypothesis of each sentence. What a block says twice is translated once; similar lengths share a
        batch."""
        counts = Counter(one.text for one in sentences)
        distinct = list({one.text: one for one in sentences}.values())
        found: dict[str, Hypothesis] = {}
        for indices, answers in self._translator.search_batches(distinct, self._key):
            batch = [distinct[index] for index in indices]
            for one, hypotheses in zip(batch, answers, strict=True):
                found[one.text] = hypotheses[0]
            report(sum(counts[one.text] for one in batch))
        return found


def _write_part(path: Path, table: pyarrow.Table, found: Sequence[Hypothesis | None], job: CorpusJob) -> None:
    texts = pyarrow.array([None if one is None else one.text for one in found], pyarrow.string())
    scores = pyarrow.array([None if one is None else one.score for one in found], pyarrow.float32())
    table = table.append_column(job.translation_column, texts).append_column(job.score_column, scores)
    with atomic_file(path) as temporary:
        pyarrow.parquet.write_table(table, temporary, compression="zstd", write_page_checksum=True)
