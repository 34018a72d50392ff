"""Whether the parts of a translated corpus are whole: nothing lost, nothing twice, nothing out of order."""

from __future__ import annotations

import pyarrow
import pyarrow.parquet

from t2tdeploy.corpus.job import Block, BlockRecord, CorpusJob
from t2tdeploy.corpus.source import RowReader, data_files, texts_of
from t2tdeploy.errors import CorruptFileError, InputError
from t2tdeploy.files import sha256_of

_HELP = "give the same command again: what is damaged is done again"


def is_finished(job: CorpusJob, block: Block) -> bool:
    """Whether a block's record and part are there and the part is what the record says."""
    record = BlockRecord.read(job.record(block.number))
    if record is None or record.rows != block.rows or record.part != job.part(block.number).name:
        return False
    part = job.part(block.number)
    return part.is_file() and sha256_of(part) == record.sha256


def check_part(job: CorpusJob, block: Block, texts: RowReader) -> BlockRecord:
    """Compares a finished part with its record and with the input: checksum, columns, and every row's source.

    Args:
        texts: reads the job's column; one for all blocks.

    Returns:
        The block's record.

    Raises:
        CorruptFileError: the part is not what it should be.
    """
    part = job.part(block.number)
    record = BlockRecord.read(job.record(block.number))
    if record is None or not is_finished(job, block):
        raise CorruptFileError(part, "it does not match its record", help=_HELP)
    source = texts.read(block.file, block.start, block.stop)
    try:
        written = pyarrow.parquet.read_table(part, columns=[job.column], partitioning=None)
        names = pyarrow.parquet.read_schema(part).names
    except (pyarrow.ArrowException, OSError) as error:
        raise CorruptFileError(part, str(error).splitlines()[0], help=_HELP) from error
    if names != [*texts.column_names(block.file), job.translation_column, job.score_column]:
        raise CorruptFileError(part, f"its columns are {', '.join(names)}", help=_HELP)
    # Texts, not columns: with dictionaries, the same texts are other columns when they were cut into other row groups.
    expected = texts_of(source.column(job.column))
    if written.num_rows != block.rows or texts_of(written.column(job.column)) != expected:
        raise CorruptFileError(
            part, f"its column '{job.column}' is not rows {block.start} to {block.stop} of {block.file}", help=_HELP
        )
    return record


def check_folder(job: CorpusJob) -> None:
    """Whether readers of the output folder find this job's parts and nothing else.

    Raises:
        InputError: there is another Parquet file, or one in a folder below it.
    """
    expected = {job.part(block.number) for block in job.blocks()}
    for path in data_files(job.output):
        if path not in expected:
            raise InputError(
                f"{path} is no part of this corpus",
                path=path,
                help="move it away: it would be read with them",
            )
