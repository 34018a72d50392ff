"""What a problem is: a name, options, features, and a generator of samples per split.

Adding one takes a class and a decorator:

    @register_problem
    class TranslateMyPairs(TextToText):
        def generate_samples(self, split, source_dir, reporter):
            for source, target in my_corpus(split):
                yield {"inputs": source, "targets": target}

It is then `--problem translate_my_pairs`, and `--problem translate_my_pairs_rev` with the two sides swapped. What a
feature may be in a sample is said in `codecs`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from t2tdeploy import registry
from t2tdeploy.errors import UnknownNameError, UserError
from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.problems.batching import Batch
from t2tdeploy.problems.text import BadLines
from t2tdeploy.progress import Reporter
from t2tdeploy.settings import Settings
from t2tdeploy.tokenizer import Normalization, Tokenizer, VocabularyKind

REVERSED_SUFFIX = "_rev"
ESTIMATOR = "estimator"  # what runs of an Estimator have for a problem

TaskName = Literal["translate", "classify", "regress"]
Sample = dict[str, Any]  # feature -> its value, see `codecs`


class DataOptions(Settings):
    """Options of a problem without text. A problem of this kind with options of its own derives from this.

    Attributes:
        not_of_the_data: fields that say how the examples are come by but do not change them, such as an address:
            they are not recorded with the data, and data made with another value are not made anew.
    """

    not_of_the_data: ClassVar[frozenset[str]] = frozenset()


class TextOptions(DataOptions):
    """How a vocabulary is made. A problem from text to classes or numbers with options of its own derives from this."""

    vocab_kind: VocabularyKind = Field("unigram", description="unigram or bpe (SentencePiece), or bytes (not trained)")
    vocab_size: int = Field(8000, ge=8, description="entries of each vocabulary, reserved ids included")
    character_coverage: float = Field(0.9995, gt=0.9, le=1, description="share of characters that get an entry")
    normalization: Normalization = Field(
        "nmt_nfkc", description="what the vocabulary does to text first: nmt_nfkc, nfkc, or identity (nothing)"
    )
    byte_fallback: bool = Field(True, description="spell characters without an entry as bytes instead of unknown")
    vocabulary_sample: int = Field(1_000_000, ge=1, description="sentences the vocabulary is trained on at most")


class ProblemOptions(TextOptions):
    """Options of a problem from text to text. Such a problem with options of its own derives from this."""

    joint_vocabulary: bool = Field(True, description="one vocabulary for inputs and targets instead of one for each")


class Problem(ABC):
    """One task with its data. Subclasses set the class attributes they need and write `generate_samples`.

    Args:
        options: an instance of `options_class`.

    Attributes:
        name: the registry name, snake_case of the class name.
        task: what a model of it does: writes text, picks classes, or says numbers.
        decides_task: whether options or data decide the task, and `task` is only the likely one.
        default_model: the model that training takes if none is asked for; none: transformer, or basic_fc where the
            task is not to translate.
        bad_lines: what `generate_samples` had to leave out; `datagen` starts a fresh one for each pass over a split
            and puts it into the statistics.
        prepared: what `prepare` returned; None before.
    """

    name: ClassVar[str]
    task: ClassVar[TaskName] = "translate"
    decides_task: ClassVar[bool] = False
    options_class: ClassVar[type[DataOptions]] = DataOptions
    default_model: ClassVar[str | None] = None
    default_hparams: ClassVar[str] = ""
    splits: ClassVar[tuple[str, ...]] = ("train", "dev", "test")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = registry.snake_case(cls.__name__)

    def __init__(self, options: DataOptions) -> None:
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
        """The features of an example: `targets` is what is predicted, all others are what it is predicted from.

        `datagen` asks after `prepare`, completes what is still to be found, and records it: whoever reads the data
        finds the features there. A label feature may leave its `classes` empty: they are then those that occur in the
        train split, sorted.

        Args:
            tokenizers: of the features that are text; none while no vocabulary is made: `vocab_size` is then 0.
        """

    @abstractmethod
    def generate_samples(self, split: str, source_dir: Path, reporter: Reporter) -> Iterator[Sample]:
        """The raw examples of a split, the same ones in the same order every time it is called.

        Args:
            split: one of `splits`; a split the problem has no data for yields nothing.
            source_dir: where published files lie, or are downloaded to.
        """

    def augment(self, batch: Batch, generator: np.random.Generator) -> Batch:
        """A batch of training examples as the model shall see it, changed at random or, as here, as it is.

        All randomness must come from `generator`, which depends on the seed of the run, the epoch and the number of
        the batch alone: then a run that goes on from a checkpoint sees what it would have seen. Features keep their
        names, types and shapes. Batches of dev and test do not come here.
        """
        del generator
        return batch


class TextToText(Problem):
    """A problem whose samples are {"inputs": source text, "targets": target text}."""

    options_class: ClassVar[type[ProblemOptions]] = ProblemOptions
    options: ProblemOptions

    def features(self, tokenizers: Mapping[str, Tokenizer]) -> dict[str, FeatureSpec]:
        joint = self.options.joint_vocabulary
        return {
            name: text_feature(name, tokenizers, vocabulary="shared" if joint else name)
            for name in ("inputs", "targets")
        }


class TextToClass(Problem):
    """A problem whose samples are {"inputs": text, "targets": name of a class, or its id}.

    With `parts` = 2 the inputs are pairs of texts, (first, second).

    Attributes:
        classes: the name of every class, by id; empty: those that occur in the train split, sorted.
        parts: how many texts an example has.
    """

    task = "classify"
    default_model = "transformer_encoder"
    options_class: ClassVar[type[TextOptions]] = TextOptions
    options: TextOptions
    classes: tuple[str, ...] = ()
    parts: int = 1

    def features(self, tokenizers: Mapping[str, Tokenizer]) -> dict[str, FeatureSpec]:
        return {
            "inputs": text_feature("inputs", tokenizers, vocabulary="inputs", parts=self.parts),
            "targets": FeatureSpec("targets", Modality.CLASS_LABEL, classes=self.classes),
        }


def text_feature(name: str, tokenizers: Mapping[str, Tokenizer], *, vocabulary: str, parts: int = 1) -> FeatureSpec:
    """A SYMBOL feature, for `Problem.features`.

    Args:
        vocabulary: the name of its vocabulary; features that share one are given the same.
        parts: texts that an example consists of.
    """
    vocab_size = tokenizers[name].vocab_size if name in tokenizers else 0
    return FeatureSpec(name, Modality.SYMBOL, vocabulary=vocabulary, vocab_size=vocab_size, parts=parts)


def get_problem(name: str) -> type[Problem]:
    """The problem class called `name`; `NAME_rev` is `NAME` with inputs and targets swapped.

    Raises:
        UnknownNameError: there is none; the error carries all names and the nearest.
        UserError: it is the input functions of an Estimator.
    """
    if name == ESTIMATOR and name not in registry.problems:
        raise UserError(
            "the examples of an Estimator come from the input functions of its program, not from a data directory",
            help="ask the Estimator there: evaluate, predict, export_bundle, optimize_bundle; its bundle serves as any "
            "other",
        )
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
    def generate_samples(self: TextToText, split: str, source_dir: Path, reporter: Reporter) -> Iterator[Sample]:
        for sample in base.generate_samples(self, split, source_dir, reporter):
            yield {**sample, "inputs": sample["targets"], "targets": sample["inputs"]}

    members = {
        "__doc__": f"{base.__name__} with inputs and targets swapped.",
        "__module__": base.__module__,
        "name": base.name + REVERSED_SUFFIX,
        "generate_samples": generate_samples,
    }
    return type(f"{base.__name__}Rev", (base,), members)
