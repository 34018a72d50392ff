"""Multi30k: as published, from a local folder, and small stand-ins of its files from a server on this machine."""

import gzip
import hashlib
import shutil

import pytest

from t2tdeploy.errors import DownloadError, InputError, SettingsError
from t2tdeploy.problems import multi30k
from t2tdeploy.problems.datagen import generate
from t2tdeploy.problems.dataset import open_problem
from t2tdeploy.problems.problem import get_problem
from t2tdeploy.progress import SilentReporter

from .file_server import serving

EXAMPLES = {"train": 29_000, "dev": 1014, "test": 1000}


def samples(name, split, folder):
    found = get_problem(name)
    return list(found(found.options_class()).generate_samples(split, folder, SilentReporter()))


@pytest.mark.parametrize("split", EXAMPLES)
def test_every_pair_is_read(multi30k_dir, split):
    found = samples("translate_ende_multi30k", split, multi30k_dir)
    assert len(found) == EXAMPLES[split]
    if split == "train":
        assert found[0]["inputs"] == "Two young, White males are outside near many bushes."
        assert found[0]["targets"] == "Zwei junge weiße Männer sind im Freien in der Nähe vieler Büsche."


def test_decompressed_files_will_do(multi30k_dir, tmp_path):
    for language in ("en", "de"):
        content = gzip.decompress((multi30k_dir / f"val.{language}.gz").read_bytes())
        (tmp_path / f"val.{language}").write_bytes(content)
    name = "translate_ende_multi30k"
    assert samples(name, "dev", tmp_path) == samples(name, "dev", multi30k_dir)


def test_a_damaged_file_is_refused(multi30k_dir, tmp_path):
    for language in ("en", "de"):
        shutil.copy(multi30k_dir / f"val.{language}.gz", tmp_path)
    (tmp_path / "val.de.gz").chmod(0o644)
    (tmp_path / "val.de.gz").write_bytes((tmp_path / "val.de.gz").read_bytes()[:-100])
    with pytest.raises(InputError, match="SHA-256"):
        samples("translate_ende_multi30k", "dev", tmp_path)


def test_a_data_directory_of_the_reversed_pair(multi30k_dir, tmp_path):
    found = get_problem("translate_ende_multi30k_rev")
    assert found.options_class().vocab_size == 6000
    options = found.options_class(vocab_size=1000, vocabulary_sample=2000)
    record = generate(found(options), data_dir=tmp_path, source_dir=multi30k_dir)
    assert {split: size.examples for split, size in record.splits.items()} == EXAMPLES
    data = open_problem("translate_ende_multi30k_rev", tmp_path)
    assert data.tokenizers["inputs"].vocab_size == 1000
    test = data.split("test")
    tokenizer = data.tokenizers["targets"]
    batch = test.batch(test.lengths["targets"].argsort()[-3:])
    for ids, text in zip(batch["targets"], test.texts("targets", test.lengths["targets"].argsort()[-3:]), strict=True):
        assert tokenizer.decode(ids.tolist()) == " ".join(text.split())


SMALL = {"train": 30, "val": 5, "test_2016_flickr": 4}


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """The address of a folder tmp_path/mirror with files of a few lines, whose checksums are the known ones."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    checksums: dict[str, dict[str, str]] = {"sha256": {}, "md5": {}}
    for language in ("en", "de", "fr", "cs"):
        for stem, lines in SMALL.items():
            text = "".join(f"{language} {stem} number {line}\n" for line in range(lines))
            path = folder / f"{stem}.{language}.gz"
            path.write_bytes(gzip.compress(text.encode()))
            kind = "sha256" if language in ("en", "de") else "md5"
            checksums[kind][path.name] = hashlib.new(kind, path.read_bytes()).hexdigest()
    assert {kind: set(known) for kind, known in checksums.items()} == {
        "sha256": set(multi30k._SHA256),
        "md5": set(multi30k._MD5),
    }
    monkeypatch.setattr(multi30k, "_SHA256", checksums["sha256"])
    monkeypatch.setattr(multi30k, "_MD5", checksums["md5"])
    with serving(folder) as address:
        yield address


def make(name, **options):
    found = get_problem(name)
    return found(found.options_class.create({"vocab_kind": "bytes", **options}))


@pytest.mark.parametrize("language", ["de", "fr", "cs"])
def test_a_whole_problem_comes_from_a_mirror_and_its_address_leaves_no_trace(mirror, tmp_path, language):
    name = f"translate_en{language}_multi30k"
    record = generate(make(name, mirror=mirror), data_dir=tmp_path / "data", source_dir=tmp_path / "source")
    assert {split: size.examples for split, size in record.splits.items()} == {"train": 30, "dev": 5, "test": 4}
    dev = open_problem(name, tmp_path / "data").split("dev")
    assert dev.texts("inputs")[4] == "en val number 4"
    assert dev.texts("targets")[4] == f"{language} val number 4"
    assert "mirror" not in record.options
    again = generate(make(name), data_dir=tmp_path / "data", source_dir=tmp_path / "source")
    assert again == record


@pytest.mark.parametrize("file", ["val.en.gz", "val.fr.gz"])
def test_a_mirror_is_held_to_the_checksums(mirror, tmp_path, file):
    (tmp_path / "mirror" / file).write_bytes(gzip.compress(b"another text\n" * 5))
    samples = make("translate_enfr_multi30k", mirror=mirror).generate_samples("dev", tmp_path / "a", SilentReporter())
    with pytest.raises(DownloadError, match=f"{file}.*expected"):
        next(samples)


def test_a_mirror_without_the_file_is_named(mirror, tmp_path):
    (tmp_path / "mirror" / "val.cs.gz").unlink()
    samples = make("translate_encs_multi30k", mirror=mirror).generate_samples("dev", tmp_path / "a", SilentReporter())
    with pytest.raises(DownloadError, match=f"{mirror}val.cs.gz.*404"):
        next(samples)


def test_a_mirror_is_an_address():
    with pytest.raises(SettingsError, match="mirror"):
        make("translate_encs_multi30k", mirror="my/folder")


def test_every_file_has_several_addresses_and_a_checksum():
    for language in ("de", "fr", "cs"):
        problem = make(f"translate_en{language}_multi30k")
        for stem in SMALL:
            source = problem._source(f"{stem}.{language}.gz")
            assert len(set(source.urls)) >= 2
            assert source.sha256 or source.md5
