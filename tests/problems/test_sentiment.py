"""SST-2 and IMDB: from the published files, by download or in a folder, to labelled texts; and what goes wrong."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from t2tdeploy.errors import CorruptFileError, InputError
from t2tdeploy.problems import sentiment_sst2
from t2tdeploy.problems.datagen import generate
from t2tdeploy.problems.problem import Problem, Sample
from t2tdeploy.problems.sentiment_imdb import SentimentImdb, SentimentImdbOptions
from t2tdeploy.problems.sentiment_sst2 import SentimentSst2, SentimentSst2Options
from t2tdeploy.progress import SilentReporter
from tests.problems.file_server import serving

REVIEWS = {
    "aclImdb/test/neg/0_2.txt": "Bad.<br /><br />Very bad.",
    "aclImdb/test/pos/0_10.txt": "Great!",
    "aclImdb/train/neg/0_3.txt": "Dull  and\nlong.",
    "aclImdb/train/neg/11249_1.txt": "Awful.",
    "aclImdb/train/neg/11250_1.txt": "Dire.",
    "aclImdb/train/pos/9_7.txt": "Fine.",
    "aclImdb/train/pos/12499_9.txt": "Good “film”.",
    "aclImdb/train/unsup/0_0.txt": "Nobody said.",
    "aclImdb/train/urls_pos.txt": "http://www.imdb.com/",
    "aclImdb/README": "Read me.",
}


def samples(problem: Problem, split: str, source_dir: Path) -> list[Sample]:
    return list(problem.generate_samples(split, source_dir, SilentReporter()))


def write_archive(path: Path, files: dict[str, bytes]) -> str:
    """Writes the archive; returns its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small archive in the form of the published one, and its checksum in the place of that one's."""
    files = {name: text.encode() for name, text in REVIEWS.items()}
    checksum = write_archive(tmp_path / "published" / "aclImdb_v1.tar.gz", files)
    monkeypatch.setattr(SentimentImdb, "sha256", checksum)
    return tmp_path / "published"


EXPECTED = {
    "train": [("Dull and long.", "negative"), ("Awful.", "negative"), ("Fine.", "positive")],
    "dev": [("Dire.", "negative"), ("Good “film”.", "positive")],
    "test": [("Bad. Very bad.", "negative"), ("Great!", "positive")],
}


def of(problem: Problem, source_dir: Path) -> dict[str, list[tuple[str, str]]]:
    return {
        split: [(sample["inputs"], sample["targets"]) for sample in samples(problem, split, source_dir)]
        for split in problem.splits
    }


def test_imdb_is_downloaded_and_read_from_its_archive(published: Path, tmp_path: Path) -> None:
    with serving(published) as address:
        problem = SentimentImdb(SentimentImdbOptions(mirror=address))
        assert of(problem, tmp_path / "raw") == EXPECTED
    assert of(problem, tmp_path / "raw") == EXPECTED  # from the file that was downloaded


def test_imdb_unpacked_by_hand_is_the_same(published: Path, tmp_path: Path) -> None:
    with tarfile.open(published / "aclImdb_v1.tar.gz") as archive:
        archive.extractall(tmp_path / "raw", filter="data")
    assert of(SentimentImdb(SentimentImdbOptions()), tmp_path / "raw") == EXPECTED


def test_imdb_goes_through_datagen(published: Path, tmp_path: Path) -> None:
    problem = SentimentImdb(SentimentImdbOptions(vocab_kind="bytes"))
    record = generate(problem, data_dir=tmp_path / "data", source_dir=published)
    assert {split: size.examples for split, size in record.splits.items()} == {"train": 3, "dev": 2, "test": 2}
    assert record.features["targets"]["classes"] == ["negative", "positive"]


@pytest.mark.parametrize(("max_words", "text"), [("2", "Bad. Very"), ("none", "Bad. Very bad.")])
def test_imdb_keeps_the_first_words(published: Path, max_words: str, text: str) -> None:
    problem = SentimentImdb(SentimentImdbOptions().override(f"max_words={max_words}"))
    assert samples(problem, "test", published)[0]["inputs"] == text


def test_imdb_that_is_not_the_published_archive_is_refused(tmp_path: Path) -> None:
    write_archive(tmp_path / "aclImdb_v1.tar.gz", {})
    with pytest.raises(InputError, match="not the published file"):
        samples(SentimentImdb(SentimentImdbOptions()), "train", tmp_path)


def test_imdb_without_reviews_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = SentimentImdb(SentimentImdbOptions())
    (tmp_path / "aclImdb").mkdir()
    with pytest.raises(InputError, match="holds no reviews for dev"):
        samples(problem, "dev", tmp_path)
    other = tmp_path / "other"
    checksum = write_archive(other / "aclImdb_v1.tar.gz", {"reviews/1.txt": b"Good."})
    monkeypatch.setattr(SentimentImdb, "sha256", checksum)
    with pytest.raises(InputError, match="holds no reviews for test"):
        samples(problem, "test", other)


def test_imdb_cut_off_is_damaged(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = published / "aclImdb_v1.tar.gz"
    path.write_bytes(path.read_bytes()[:300])
    monkeypatch.setattr(SentimentImdb, "sha256", hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(CorruptFileError, match="damaged"):
        samples(SentimentImdb(SentimentImdbOptions()), "train", published)


@pytest.fixture
def sst2_dir() -> Path:
    root = os.environ.get("T2TDEPLOY_TEST_DATA")
    if not root or not (Path(root) / "sst2").is_dir():
        pytest.skip("needs T2TDEPLOY_TEST_DATA, a folder with sst2/ as published")
    return Path(root) / "sst2"


def test_sst2_is_what_was_published(sst2_dir: Path) -> None:
    for source_dir in (sst2_dir, sst2_dir.parent):
        problem = SentimentSst2(SentimentSst2Options())
        found = {split: samples(problem, split, source_dir) for split in problem.splits}
        assert {split: len(items) for split, items in found.items()} == {"train": 6920, "dev": 872, "test": 1821}
        assert Counter(sample["targets"] for sample in found["train"]) == {"positive": 3610, "negative": 3310}
        assert found["test"][0] == {"inputs": "no movement , no yuks , not much of anything", "targets": "negative"}
        assert problem.bad_lines.count == 0


def test_sst2_is_downloaded_into_a_folder_of_its_own(sst2_dir: Path, tmp_path: Path) -> None:
    with serving(sst2_dir) as address:
        problem = SentimentSst2(SentimentSst2Options(mirror=address))
        assert len(samples(problem, "dev", tmp_path)) == 872
    assert (tmp_path / "sst2" / "dev.tsv").is_file()


def test_sst2_with_other_labels_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sst2").mkdir()
    (tmp_path / "sst2" / "dev.tsv").write_text("good\t1\nfair\t2\n")
    monkeypatch.setattr(sentiment_sst2, "fetch", lambda source, folder, **_: folder / source.name)
    with pytest.raises(CorruptFileError, match="line 2 has the label '2'"):
        samples(SentimentSst2(SentimentSst2Options()), "dev", tmp_path)


@pytest.mark.parametrize("options", [SentimentSst2Options, SentimentImdbOptions])
def test_the_address_is_not_of_the_data(options: type[SentimentSst2Options]) -> None:
    assert options.not_of_the_data == {"mirror"}
