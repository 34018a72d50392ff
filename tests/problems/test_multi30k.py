"""Multi30k as published, from a local folder."""

import gzip
import shutil

import pytest

from t2tdeploy.errors import InputError
from t2tdeploy.problems.datagen import generate
from t2tdeploy.problems.dataset import open_problem
from t2tdeploy.problems.problem import get_problem
from t2tdeploy.progress import SilentReporter

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
