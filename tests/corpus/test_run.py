"""What a translated corpus promises: every row once, in its place; what is finished is not done again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2tdeploy.bundle import Bundle
from t2tdeploy.corpus import check, run
from t2tdeploy.corpus.block import Report
from t2tdeploy.corpus.check import check_part
from t2tdeploy.corpus.job import BAD_ROWS, BLOCKS, SUMMARY, Block, BlockRecord, CorpusJob, make_job
from t2tdeploy.corpus.run import translate_corpus
from t2tdeploy.corpus.source import RowReader, open_files
from t2tdeploy.decoding import TranslateOptions
from t2tdeploy.errors import CorruptFileError, InputError, RunConflictError
from t2tdeploy.files import sha256_of
from t2tdeploy.progress import SilentReporter
from t2tdeploy.translator import Translator
from tests.corpus.conftest import HERE, MakeJob, sums, write_corpus

SILENT = SilentReporter()
SOURCES = [f"{'word ' * (number * 7 % 20)}{number}" for number in range(35)]
LONG = "x" * 300  # the toy bundle takes 200 tokens, of a byte each


def interrupted_after(count: int):
    """The runner HERE, interrupted when `count` blocks are finished."""

    def run(job: CorpusJob, blocks: Sequence[Block], report: Report) -> Iterator[BlockRecord]:
        for number, record in enumerate(HERE(job, blocks, report), start=1):
            yield record
            if number == count:
                raise KeyboardInterrupt

    return run


def test_rows_columns_and_their_order_stay(make: MakeJob, bundle: Bundle, tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "in.parquet", SOURCES, row_group_size=8)
    job = make(source)
    summary = translate_corpus(job, HERE, SILENT)
    whole = pyarrow.parquet.read_table(job.output)  # as any reader of Parquet folders sees it
    assert whole.drop_columns(["translation", "score"]).equals(pyarrow.parquet.read_table(source))
    expected = Translator(bundle, threads=1).translate(SOURCES)
    assert whole.column("translation").to_pylist() == [one[0].text for one in expected]
    assert whole.column("score").to_pylist() == pytest.approx([one[0].score for one in expected])
    assert (summary.rows, summary.translated, summary.blocks) == (35, 35, 4)
    assert set(json.loads((job.output / SUMMARY).read_text())["parts"]) == {job.part(n).name for n in range(4)}


@settings(max_examples=15)
@given(
    sources=st.lists(st.one_of(st.none(), st.text("ab \n", max_size=6), st.just(LONG)), min_size=1, max_size=12),
    block_rows=st.integers(1, 6),
    row_group_size=st.integers(1, 6),
)
def test_any_corpus_in_any_blocks(sources, block_rows: int, row_group_size: int, bundle: Bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    file = open_files([write_corpus(folder / "in.parquet", sources, row_group_size=row_group_size)], "source", [])
    job = make_job(
        file, bundle, folder / "out", column="source", translation_column="translation", score_column="score",
        on_error="skip", block_rows=block_rows,
    )  # fmt: skip
    summary = translate_corpus(job, HERE, SILENT)
    whole = pyarrow.parquet.read_table(job.output)
    assert whole.column("source").to_pylist() == sources
    expected = [None if one is None or one == LONG else (one if one.strip() else "") for one in sources]
    assert whole.column("translation").to_pylist() == expected
    assert [one is None for one in whole.column("score").to_pylist()] == [one is None for one in expected]
    assert summary.translated + summary.bad_rows == len(sources)
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"early_stopping": False}, {}),
        ({}, {"early_stopping": False}),
        ({"min_ratio": 0.0}, {}),
        ({"truncate": True}, {}),
    ],
)
def test_another_option_is_another_job(make: MakeJob, tmp_path: Path, first: dict, then: dict) -> None:
    job = make(write_corpus(tmp_path / "in.parquet", SOURCES))
    one, other = (replace(job, options=job.options.with_changes(options)) for options in (first, then))
    with pytest.raises(KeyboardInterrupt):
        translate_corpus(one, interrupted_after(2), SILENT)
    with pytest.raises(RunConflictError, match=f"options.{next(iter(first or then))}"):
        translate_corpus(other, HERE, SILENT)
    assert translate_corpus(one, HERE, SILENT).blocks_kept == 2


def test_parts_are_in_order_by_name_however_many_there_are(make: MakeJob, tmp_path: Path) -> None:
    job = make(write_corpus(tmp_path / "in.parquet", SOURCES))
    assert job.part(3).name == "part-00003-of-00004.parquet"
    many = replace(job, files=(replace(job.files[0], rows=100_001),), block_rows=1)
    names = [many.part(number).name for number in (0, 9, 10, 9999, 10_000, 99_999, 100_000)]
    assert names == sorted(names)
    assert names[-1] == "part-100000-of-100001.parquet"


def test_several_files_are_one_corpus(make: MakeJob, tmp_path: Path) -> None:
    for name, sources in {"b": SOURCES[15:], "a": SOURCES[:15], "_not": ["x"]}.items():
        write_corpus(tmp_path / "in" / f"{name}.parquet", sources)
    job = make(tmp_path / "in")
    translate_corpus(job, HERE, SILENT)
    assert pyarrow.parquet.read_table(job.output).column("source").to_pylist() == SOURCES
    assert job.num_blocks == len(job.blocks()) == 4  # blocks do not reach over files


def test_what_is_finished_is_kept_and_the_end_is_the_same(make: MakeJob, tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "in.parquet", SOURCES)
    job, whole = make(source), make(source, "whole")
    with pytest.raises(KeyboardInterrupt):
        translate_corpus(job, interrupted_after(2), SILENT)
    assert not (job.output / SUMMARY).exists()
    before = [job.part(number).stat().st_ino for number in range(2)]
    summary = translate_corpus(job, HERE, SILENT)
    assert summary.blocks_kept == 2
    assert [job.part(number).stat().st_ino for number in range(2)] == before
    translate_corpus(whole, HERE, SILENT)
    assert sums(job) == sums(whole)
    assert translate_corpus(job, HERE, SILENT).blocks_kept == 4


@pytest.mark.parametrize("damage", ["flip", "lost part", "lost record", "broken record"])
def test_what_is_damaged_is_done_again(make: MakeJob, tmp_path: Path, damage: str) -> None:
    job = make(write_corpus(tmp_path / "in.parquet", SOURCES))
    translate_corpus(job, HERE, SILENT)
    good, part, record = sums(job), job.part(1), job.record(1)
    if damage == "flip":
        content = bytearray(part.read_bytes())
        content[50] ^= 1
        part.write_bytes(content)
    elif damage == "broken record":
        record.write_text("{")
    else:
        (part if damage == "lost part" else record).unlink()
    assert translate_corpus(job, HERE, SILENT).blocks_kept == 3
    assert sums(job) == good


def test_what_was_said_of_parts_does_not_outlive_them(make: MakeJob, tmp_path: Path) -> None:
    """A summary says that all parts were checked, while some are being done again."""
    job = make(write_corpus(tmp_path / "in.parquet", [*SOURCES, None]), on_error="skip")
    translate_corpus(job, HERE, SILENT)
    said = {name: (job.output / name).read_bytes() for name in (SUMMARY, BAD_ROWS)}
    for number in (1, 2):
        job.part(number).unlink()
    with pytest.raises(KeyboardInterrupt):
        translate_corpus(job, interrupted_after(1), SILENT)
    assert not any((job.output / name).exists() for name in said)
    translate_corpus(job, HERE, SILENT)
    assert (job.output / BAD_ROWS).read_bytes() == said[BAD_ROWS]
    assert json.loads((job.output / SUMMARY).read_bytes())["parts"] == json.loads(said[SUMMARY])["parts"]


def test_another_job_inherits_nothing_of_the_one_before(make: MakeJob, tmp_path: Path) -> None:
    job = make(write_corpus(tmp_path / "in.parquet", [*SOURCES, None]), on_error="skip")
    translate_corpus(job, HERE, SILENT)
    shutil.rmtree(job.output / BLOCKS)
    other = replace(job, on_error="fail", block_rows=7)
    with pytest.raises(InputError, match="row 35: null"):
        translate_corpus(other, HERE, SILENT)
    assert not any((job.output / name).exists() for name in (SUMMARY, BAD_ROWS))


def test_seconds_are_those_of_translating(make: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of reading again what is finished, which of a large corpus takes minutes."""
    job, clock = make(write_corpus(tmp_path / "in.parquet", SOURCES)), [0.0]
    monkeypatch.setattr(run, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def is_finished(job: CorpusJob, block: Block) -> bool:
        clock[0] += 100
        return check.is_finished(job, block)

    def ten_seconds_each(job: CorpusJob, blocks: Sequence[Block], report: Report) -> Iterator[BlockRecord]:
        for record in HERE(job, blocks, report):
            clock[0] += 10
            yield record

    monkeypatch.setattr(run, "is_finished", is_finished)
    summary = translate_corpus(job, ten_seconds_each, SILENT)
    assert (summary.seconds, summary.rows_per_second) == (40, 0.9)
    job.part(1).unlink()
    summary = translate_corpus(job, ten_seconds_each, SILENT)
    assert (summary.seconds, summary.rows_per_second) == (10, 1)
    summary = translate_corpus(job, ten_seconds_each, SILENT)
    assert (summary.seconds, summary.rows_per_second) == (0, None)


def test_rows_out_of_order_are_seen(make: MakeJob, tmp_path: Path) -> None:
    """Even where the record agrees with the part: it is compared with the input."""
    job = make(write_corpus(tmp_path / "in.parquet", SOURCES))
    translate_corpus(job, HERE, SILENT)
    block, part = job.blocks()[1], job.part(1)
    texts = RowReader(["source"])
    record = check_part(job, block, texts)
    table = pyarrow.parquet.read_table(part)
    for wrong in (table.take([1, 0, *range(2, 10)]), table.slice(1), table.drop_columns(["tags"])):
        pyarrow.parquet.write_table(wrong, part)
        replace(record, sha256=sha256_of(part)).write(job.record(1))
        with pytest.raises(CorruptFileError):
            check_part(job, block, texts)


@pytest.mark.parametrize(
    "kind",
    [
        pyarrow.string(),
        pyarrow.large_string(),
        pyarrow.string_view(),
        pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
        pyarrow.dictionary(pyarrow.int32(), pyarrow.large_string()),
    ],
    ids=str,
)
def test_every_type_of_text(make: MakeJob, tmp_path: Path, kind: pyarrow.DataType) -> None:
    """Columns that are not translated may share a name."""
    sources = ["b", "c", "b", "dé"]
    columns = [pyarrow.array(sources).cast(kind), pyarrow.array(range(4)), pyarrow.array(range(4))]
    table = pyarrow.table(columns, ["source", "other", "other"])
    source = tmp_path / "in.parquet"
    pyarrow.parquet.write_table(table, source)
    job = make(source, block_rows=3)
    assert translate_corpus(job, HERE, SILENT).translated == 4
    written = pyarrow.concat_tables([pyarrow.parquet.ParquetFile(job.part(number)).read() for number in range(2)])
    assert written.select([0, 1, 2]).schema.equals(pyarrow.parquet.ParquetFile(source).schema_arrow)
    assert written.column("source").to_pylist() == written.column("translation").to_pylist() == sources


def test_row_groups_with_dictionaries_of_their_own(make: MakeJob, tmp_path: Path) -> None:
    """The part has other row groups than the input, so other dictionaries, and the same texts."""
    chunks = [pyarrow.array(SOURCES[start : start + 10]).dictionary_encode() for start in range(0, len(SOURCES), 10)]
    table = pyarrow.concat_tables([pyarrow.table({"source": chunk}) for chunk in chunks])
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet", row_group_size=10)
    job = make(tmp_path / "in.parquet", block_rows=25)
    assert translate_corpus(job, HERE, SILENT).translated == len(SOURCES)
    assert pyarrow.parquet.read_table(job.output).column("source").to_pylist() == SOURCES
    assert translate_corpus(job, HERE, SILENT).blocks_kept == 2


def test_workers_elsewhere_find_what_is_given_relative(
    make: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have other working directories."""
    source = write_corpus(tmp_path / "in.parquet", SOURCES)
    with pytest.raises(KeyboardInterrupt):
        translate_corpus(make(source), interrupted_after(2), SILENT)
    monkeypatch.chdir(tmp_path)
    job = make(Path("in.parquet"))
    assert all(block.file == source for block in job.blocks())
    assert source.is_absolute()
    assert translate_corpus(job, HERE, SILENT).blocks_kept == 2  # it is the same job


def test_another_job_is_refused_with_the_differences(make: MakeJob, tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "in.parquet", SOURCES)
    translate_corpus(make(source), HERE, SILENT)
    others = {
        "options.beam_size": make(source, options=TranslateOptions(beam_size=2)),
        "block_rows": make(source, block_rows=11),
        "column": make(write_corpus(tmp_path / "other" / "in.parquet", SOURCES), translation_column="de"),
        "input in.parquet": make(write_corpus(tmp_path / "changed" / "in.parquet", [*SOURCES[1:], "other"])),
        "bundle": replace(make(source), bundle="toy 000000000000"),
    }
    for name, other in others.items():
        with pytest.raises(RunConflictError) as caught:
            translate_corpus(other, HERE, SILENT)
        assert any(name in key for key in caught.value.differences)
    assert translate_corpus(make(source), HERE, SILENT).blocks_kept == 4


def test_a_policy_of_bad_rows_may_only_follow_fail(make: MakeJob, tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "in.parquet", SOURCES)
    translate_corpus(make(source), HERE, SILENT)
    assert translate_corpus(make(source, on_error="skip"), HERE, SILENT).blocks_kept == 4
    for other in ("truncate", "fail"):
        with pytest.raises(RunConflictError, match=f"on_error: 'skip' in the run directory, '{other}' asked"):
            translate_corpus(make(source, on_error=other), HERE, SILENT)


def test_a_job_with_nothing_finished_gives_way(make: MakeJob, tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "in.parquet", [None, "b"])
    with pytest.raises(InputError):
        translate_corpus(make(source), HERE, SILENT)
    (tmp_path / "out" / "part-00007-of-00009.parquet").touch()  # of a block killed before its record
    job = make(source, on_error="skip", block_rows=7)
    translate_corpus(job, HERE, SILENT)
    assert pyarrow.parquet.read_table(job.output).num_rows == 2


@pytest.mark.parametrize("name", ["copy.parquet", "copy.PARQUET", "more/copy.parquet", "more/year=2024/copy.parquet"])
def test_a_strange_file_among_the_parts_is_seen(make: MakeJob, tmp_path: Path, name: str) -> None:
    job = make(write_corpus(tmp_path / "in.parquet", SOURCES))
    translate_corpus(job, HERE, SILENT)
    (job.output / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(job.part(0), job.output / name)
    with pytest.raises(InputError, match=f"{name} is no part of this corpus"):
        translate_corpus(job, HERE, SILENT)


def test_policies_of_bad_rows(make: MakeJob, tmp_path: Path) -> None:
    sources = ["a", "b", "c", None, LONG, "", "f"]
    source = write_corpus(tmp_path / "in.parquet", sources)
    job = make(source, block_rows=2)
    with pytest.raises(InputError, match=r"in.parquet, row 3: null") as caught:
        translate_corpus(job, HERE, SILENT)
    assert "--on-error skip" in (caught.value.help or "")
    gone_on = replace(job, on_error="skip")
    summary = translate_corpus(gone_on, HERE, SILENT)  # with what was finished before the bad row
    assert (summary.blocks_kept, summary.translated, summary.bad_rows) == (1, 5, 2)
    reported = [json.loads(line) for line in (job.output / BAD_ROWS).read_text().splitlines()]
    assert [(row["file"], row["row"]) for row in reported] == [("in.parquet", 3), ("in.parquet", 4)]
    assert reported[1]["reason"].startswith("301 tokens")
    cut = make(source, "cut", on_error="truncate")
    summary = translate_corpus(cut, HERE, SILENT)
    assert (summary.translated, summary.truncated, summary.bad_rows) == (6, 1, 1)
    texts = pyarrow.parquet.read_table(cut.output).column("translation").to_pylist()
    assert texts == ["a", "b", "c", None, LONG[:199], "", "f"]


def test_bytes_that_are_no_text(make: MakeJob, tmp_path: Path) -> None:
    """Parquet writers do not all check their strings."""
    column = pyarrow.array([b"a", b"\xff"], pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"source": column}), tmp_path / "in.parquet")
    job = make(tmp_path / "in.parquet", on_error="skip")
    assert translate_corpus(job, HERE, SILENT).bad_rows == 1
    assert "not UTF-8" in (job.output / BAD_ROWS).read_text()


def test_folders_that_are_something_elses(make: MakeJob, tmp_path: Path) -> None:
    job = make(write_corpus(tmp_path / "in.parquet", SOURCES))
    job.output.mkdir()
    (job.output / "thesis.tex").touch()
    with pytest.raises(InputError, match="neither empty nor"):
        translate_corpus(job, HERE, SILENT)
    assert [file.name for file in job.output.iterdir()] == ["thesis.tex"]


def test_another_bundle_in_its_place_is_seen_by_the_worker(make: MakeJob, tmp_path: Path) -> None:
    job = replace(make(write_corpus(tmp_path / "in.parquet", SOURCES)), bundle="toy 000000000000")
    with pytest.raises(InputError, match=r"holds toy .*, not toy 000000000000"):
        translate_corpus(job, HERE, SILENT)


def test_duplicates_are_translated_once(make: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[str] = []
    search = Translator.search

    def counting(self, sentences, key, **rest):
        searched.extend(one.text for one in sentences)
        return search(self, sentences, key, **rest)

    monkeypatch.setattr(Translator, "search", counting)
    job = make(write_corpus(tmp_path / "in.parquet", ["a", "b", "a", "a"]))
    translate_corpus(job, HERE, SILENT)
    assert sorted(searched) == ["a", "b"]
    assert pyarrow.parquet.read_table(job.output).column("translation").to_pylist() == ["a", "b", "a", "a"]
