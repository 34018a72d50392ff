"""A user's folder with toy problems, which workers can import too."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from t2tdeploy.problems.problem import Problem, TextOptions, get_problem
from t2tdeploy.registry import import_usr_dir

TOY_PROBLEMS = '''
import time
import numpy as np
from t2tdeploy.errors import DownloadError
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.problems.problem import Problem, TextToClass, TextToText
from t2tdeploy.registry import register_problem

SIZES = {"train": 300, "dev": 40, "test": 7}

@register_problem
class ToyPairs(TextToText):
    def generate_samples(self, split, source_dir, reporter):
        for i in range(SIZES[split]):
            yield {"inputs": f"{split} word {i} " * (1 + i % 5), "targets": f"{split} Wort {i}"}

@register_problem
class ToySlowDev(ToyPairs):
    """With a file `slow` in source_dir, dev takes its time once the shards of train are there."""
    def generate_samples(self, split, source_dir, reporter):
        slow = split == "dev" and (source_dir / "slow").exists() and any(source_dir.parent.rglob("*-train-*.parquet"))
        for sample in super().generate_samples(split, source_dir, reporter):
            if slow:
                time.sleep(0.05)
            yield sample

@register_problem
class ToyEmptyTrain(ToyPairs):
    def generate_samples(self, split, source_dir, reporter):
        if split != "train":
            yield from super().generate_samples(split, source_dir, reporter)

@register_problem
class ToyUnsteady(ToyPairs):
    calls = 0
    def generate_samples(self, split, source_dir, reporter):
        ToyUnsteady.calls += 1
        yield {"inputs": f"call {ToyUnsteady.calls} of many", "targets": "some more text here"}
        yield from super().generate_samples(split, source_dir, reporter)

@register_problem
class ToyBroken(ToyPairs):
    def generate_samples(self, split, source_dir, reporter):
        yield {"inputs": "a", "targets": "b"}
        raise KeyError("column")

@register_problem
class ToyWrongSample(ToyPairs):
    def generate_samples(self, split, source_dir, reporter):
        yield {"source": "a"}

@register_problem
class ToyPrepared(ToyPairs):
    def prepare(self, source_dir, reporter):
        import multiprocessing
        if multiprocessing.parent_process() is not None:
            raise RuntimeError("a worker prepares what it should be given")
        return ["prepared"]
    def generate_samples(self, split, source_dir, reporter):
        for sample in super().generate_samples(split, source_dir, reporter):
            yield {**sample, "inputs": f"{self.prepared[0]} {sample['inputs']}"}

@register_problem
class ToyBrokenPrepare(ToyPairs):
    def prepare(self, source_dir, reporter):
        raise KeyError("column")

@register_problem
class ToyDownloadFailsInWorker(ToyPairs):
    def generate_samples(self, split, source_dir, reporter):
        import multiprocessing
        if multiprocessing.parent_process() is not None:
            raise DownloadError("http://there", "gone", help="try later")
        yield from super().generate_samples(split, source_dir, reporter)

@register_problem
class ToyClasses(TextToClass):
    """Classes 9 and 10 and "none" are found in the data."""
    def generate_samples(self, split, source_dir, reporter):
        for i in range(SIZES[split]):
            yield {"inputs": f"{split} word {i}", "targets": ("9", "none", "10")[i % 3]}

@register_problem
class ToyPairClasses(TextToClass):
    classes = ("same", "other")
    parts = 2
    def generate_samples(self, split, source_dir, reporter):
        for i in range(SIZES[split]):
            yield {"inputs": (f"first {i}", f"second text {i} " * (i % 3 + 1)), "targets": i % 2}

@register_problem
class ToyRow(Problem):
    """One feature of every modality that is not text."""
    task = "regress"
    def features(self, tokenizers):
        specs = (
            FeatureSpec("picture", Modality.IMAGE, shape=(4, 3, 2)),
            FeatureSpec("vector", Modality.REAL, shape=(2, 3)),
            FeatureSpec("number", Modality.REAL),
            FeatureSpec("kind", Modality.CATEGORY, vocab_size=5),
            FeatureSpec("tags", Modality.MULTI_LABEL),
            FeatureSpec("targets", Modality.REAL),
        )
        return {spec.name: spec for spec in specs}
    def generate_samples(self, split, source_dir, reporter):
        draw = np.random.default_rng(SIZES[split])
        for i in range(SIZES[split]):
            yield {
                "picture": draw.integers(0, 256, (4, 3, 2), dtype=np.uint8),
                "vector": draw.random((2, 3)).tolist(),
                "number": i,
                "kind": i % 5,
                "tags": [tag for place, tag in enumerate("abc") if i >> place & 1],
                "targets": i / 2,
            }
    def augment(self, batch, generator):
        return {**batch, "number": batch["number"] + generator.random(len(batch["number"]), np.float32)}
'''


@pytest.fixture
def usr_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "usr"
    folder.mkdir()
    (folder / "toys.py").write_text(TOY_PROBLEMS)
    return folder


@pytest.fixture
def make_problem(usr_dir: Path) -> Callable[..., Problem]:
    """A toy problem by name, with options as keywords; byte vocabulary, where it has one, unless told."""
    import_usr_dir(usr_dir)

    def make(name: str, **options: object) -> Problem:
        found = get_problem(name)
        usual = {"vocab_kind": "bytes"} if issubclass(found.options_class, TextOptions) else {}
        return found(found.options_class.create({**usual, **options}))

    return make


@pytest.fixture
def multi30k_dir() -> Path:
    root = os.environ.get("T2TDEPLOY_TEST_DATA")
    if not root or not (Path(root) / "multi30k").is_dir():
        pytest.skip("needs T2TDEPLOY_TEST_DATA, a folder with multi30k/ as published")
    return Path(root) / "multi30k"
