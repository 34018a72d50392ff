"""What a problem is: a name, options, features, and a generator of samples per split.

Adding one takes a class and a decorator:

    @register_problem
    class TranslateMyPairs(TextToText):
        def generate_samples(self, split, source_dir, reporter):
            for source, target in my_corpus(split):
                yield {"inputs": source, "targets": target}

It is then `--problem translate_my_pairs`, and `--problem translate_my_pairs_rev` with the two sides swapped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from t2tdeploy import registry
from t2tdeploy.errors import UnknownNameError
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.problems.text import BadLines
from t2tdeploy.progress import Reporter
from t2tdeploy.settings import Settings
from t2tdeploy.tokenizer import Normalization, Tokenizer, VocabularyKind

REVERSED_SUFFIX = "_rev"


class ProblemOptions(Settings):
    """How a problem's vocabulary is made. A problem with options of its own derives from this.

    Attributes:
        not_of_the_data: fields that say how the examples are come by but do not change them, such as an address:
            they are not recorded with the data, and data made with another value are not made anew.
    """

    not_of_the_data: ClassVar[frozenset[str]] = frozenset()

    vocab_kind: VocabularyKind = Field("unigram", description="unigram or bpe (SentencePiece), or bytes (not trained)")
    vocab_size: int = Field(8000, ge=8, description="entries of each vocabulary, reserved ids included")
    joint_vocabulary: bool = Field(True, description="one vocabulary for inputs and targets instead of one for each")
    character_coverage: float = Field(0.9995, gt=0.9, le=1, description="share of characters that get an entry")
    normalization: Normalization = Field(
        "nmt_nfkc", description="what the vocabulary does to text first: nmt_nfkc, nfkc, or identity (nothing)"
    )
    byte_fallback: bool = Field(True, description="spell characters without an entry as bytes instead of unknown")
    vocabulary_sample: int = Field(1_000_000, ge=1, description="sentences the vocabulary is trained on at most")


class Problem(ABC):
    """One task with its data. Subclasses set the class attributes they need and write `generate_samples`.

    Args:
        options: an instance of `options_class`.

    Attributes:
        name: the registry name, snake_case of the class name.
        bad_lines: what `generate_samples` had to leave out; `datagen` starts a fresh one for each pass over a split
            and puts it into the statistics.
        prepared: what `prepare` returned; None before.
    """

    name: ClassVar[str]
    task: ClassVar[str] = "translate"
    options_class: ClassVar[type[ProblemOptions]] = ProblemOptions
    default_hparams: ClassVar[str] = ""
    splits: ClassVar[tuple[str, ...]] = ("train", "dev", "test")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = registry.snake_case(cls.__name__)

    def __init__(self, options: ProblemOptions) -> None:
        self.options = options
        self.bad_lines = BadLines()
        self.prepared: Any = None

    def prepare(self, source_dir: Path, reporter: Reporter) -> Any:
        """What `generate_samples` needs to know of the data as a whole, found as `self.prepared`.

        `datagen` asks for it once and hands it to its worker processes, so it must be picklable, and no larger than
        need be.
        """
        del source_dir, reporter
        return None

    @abstractmethod
    def features(self, tokenizers: Mapping[str, Tokenizer]) -> dict[str, FeatureSpec]:
        """The features of an example, given the vocabulary of each."""

    @abstractmethod
    def generate_samples(self, split: str, source_dir: Path, reporter: Reporter) -> Iterator[dict[str, str]]:
        """The raw examples of a split, the same ones in the same order every time it is called.

        Args:
            split: one of `splits`; a split the problem has no data for yields nothing.
            source_dir: where published files lie, or are downloaded to.
        """


class TextToText(Problem):
    """A problem whose samples are {"inputs": source text, "targets": target text}."""

    def features(self, tokenizers: Mapping[str, Tokenizer]) -> dict[str, FeatureSpec]:
        return {
            name: FeatureSpec(
                name=name,
                modality=Modality.SYMBOL,
                vocabulary="shared" if self.options.joint_vocabulary else name,
                vocab_size=tokenizers[name].vocab_size,
            )
            for name in ("inputs", "targets")
        }


def get_problem(name: str) -> type[Problem]:
    """The problem class called `name`; `NAME_rev` is `NAME` with inputs and targets swapped.

    Raises:
        UnknownNameError: there is none; the error carries all names and the nearest.
    """
    if name in registry.problems or not name.endswith(REVERSED_SUFFIX):
        found: type[Problem] = registry.problems.get(name)
        return found
    reversible = {
        known + REVERSED_SUFFIX: known
        for known in registry.problems.names()
        if issubclass(registry.problems.get(known), TextToText)
    }
    if name not in reversible:
        raise UnknownNameError("problem", name, reversible)
    return _reversed(registry.problems.get(reversible[name]))


@cache
def _reversed(base: type[TextToText]) -> type[TextToText]:
    def generate_samples(
        self: TextToText, split: str, source_dir: Path, reporter: Reporter
    ) -> Iterator[dict[str, str]]:
        for sample in base.generate_samples(self, split, source_dir, reporter):
            yield {**sample, "inputs": sample["targets"], "targets": sample["inputs"]}

    members = {
        "__doc__": f"{base.__name__} with inputs and targets swapped.",
        "__module__": base.__module__,
        "name": base.name + REVERSED_SUFFIX,
        "generate_samples": generate_samples,
    }
    return type(f"{base.__name__}Rev", (base,), members)
