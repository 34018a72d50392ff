"""Sentence pairs from files: what is read, what is left out and counted, what is refused."""

import gzip

import pyarrow
import pytest

from t2tdeploy.errors import CorruptFileError, InputError
from t2tdeploy.problems.text import KEPT_LINE_NUMBERS, BadLines, read_lines, read_pairs, read_texts


def zstandard(content: bytes) -> bytes:
    return pyarrow.compress(content, codec="zstd", asbytes=True)


COMPRESS = {".txt": bytes, ".gz": gzip.compress, ".zst": zstandard}


def pairs(tmp_path, inputs: bytes, targets: bytes):
    for name, content in (("a.en", inputs), ("a.de", targets)):
        (tmp_path / name).write_bytes(content)
    bad = BadLines()
    found = [(pair["inputs"], pair["targets"]) for pair in read_pairs(tmp_path / "a.en", tmp_path / "a.de", bad)]
    return found, bad


@pytest.mark.parametrize("suffix", COMPRESS)
def test_lines_are_the_same_in_every_compression(tmp_path, suffix):
    content = "\ufeffone\r\nzwei\u2028drei\x85vier\n\nlast".encode()
    (tmp_path / f"text{suffix}").write_bytes(COMPRESS[suffix](content))
    lines = [line.decode() for line in read_lines(tmp_path / f"text{suffix}")]
    assert lines == ["one", "zwei\u2028drei\x85vier", "", "last"]


def test_concatenated_gzip_members_are_one_file(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"one\n") + gzip.compress(b"two\n"))
    assert list(read_lines(tmp_path / "a.gz")) == [b"one", b"two"]


def test_pairs_keep_their_order_and_lose_white_space(tmp_path):
    found, bad = pairs(tmp_path, b"one \n two\n", b"eins\nzwei\n")
    assert found == [("one", "eins"), ("two", "zwei")]
    assert bad.count == 0


def test_bad_lines_are_skipped_on_both_sides_and_named(tmp_path):
    found, bad = pairs(tmp_path, b"one\n\xff\xfe\nthree\n\nfive\n", b"eins\nzwei\n \n\nf\xc3\xbcnf\n")
    assert found == [("one", "eins"), ("five", "fünf")]
    assert bad.to_json() == [
        {"file": "a.de", "reason": "empty", "count": 2, "first_lines": [3, 4]},
        {"file": "a.en", "reason": "empty", "count": 1, "first_lines": [4]},
        {"file": "a.en", "reason": "not UTF-8", "count": 1, "first_lines": [2]},
    ]


def test_only_the_first_line_numbers_are_kept_but_all_are_counted(tmp_path):
    lines = KEPT_LINE_NUMBERS + 5
    _, bad = pairs(tmp_path, b"\n" * lines + b"end\n", b"x\n" * (lines + 1))
    (entry,) = bad.to_json()
    assert entry["count"] == lines
    assert entry["first_lines"] == list(range(1, KEPT_LINE_NUMBERS + 1))


@pytest.mark.parametrize(("inputs", "targets"), [(b"a\n\n\n", b"b\n"), (b"a", b"b\n\n"), (b"a\n \n", b"b\n\n")])
def test_blank_lines_at_the_end_are_no_lines(tmp_path, inputs, targets):
    found, bad = pairs(tmp_path, inputs, targets)
    assert found == [("a", "b")]
    assert bad.count == 0


def test_an_empty_last_translation_is_a_bad_line_not_a_missing_one(tmp_path):
    found, bad = pairs(tmp_path, b"one\ntwo\n", b"eins\n\n")
    assert found == [("one", "eins")]
    assert bad.to_json() == [{"file": "a.de", "reason": "empty", "count": 1, "first_lines": [2]}]


@pytest.mark.parametrize(("inputs", "targets", "counts"), [(3, 5, ("3", "5")), (4, 1, ("4", "1")), (0, 2, ("0", "2"))])
def test_unequal_line_counts_name_both(tmp_path, inputs, targets, counts):
    with pytest.raises(InputError) as caught:
        pairs(tmp_path, b"x\n" * inputs, b"y\n" * targets)
    assert all(f" {count}" in caught.value.message for count in counts)
    assert caught.value.line == min(inputs, targets) + 1


def damaged(content: bytes) -> dict[str, bytes]:
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 0xFF
    return {"cut": content[:-5], "flipped": bytes(flipped), "plain": b"not compressed\n", "empty": b""}


DAMAGES = [(".gz", "flipped")]  # a Zstandard frame need not carry a check value
DAMAGES += [(suffix, damage) for suffix in (".gz", ".zst") for damage in ("cut", "plain", "empty")]


@pytest.mark.parametrize(("suffix", "damage"), DAMAGES)
def test_damaged_compression_is_reported(tmp_path, suffix, damage):
    content = COMPRESS[suffix]("".join(f"sentence {i * i}\n" for i in range(5000)).encode())
    path = tmp_path / f"a{suffix}"
    path.write_bytes(damaged(content)[damage])
    with pytest.raises(CorruptFileError) as caught:
        list(read_lines(path))
    assert caught.value.path == path
    assert caught.value.help


def test_missing_file_and_folder_are_input_errors(tmp_path):
    for path in (tmp_path / "none.txt", tmp_path / "none.gz", tmp_path):
        with pytest.raises(InputError):
            list(read_lines(path))


def test_texts_of_one_file(tmp_path):
    (tmp_path / "mono.txt").write_bytes(b"one\n\n\xff\ntwo\n")
    bad = BadLines()
    assert list(read_texts(tmp_path / "mono.txt", bad)) == ["one", "two"]
    assert bad.count == 2
