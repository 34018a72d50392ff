"""What a scheduler runs: the rows of a task, how large they are, and a batch of them. Sentences, or examples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from t2tdeploy.classifier import Classification, Classifier, Example
from t2tdeploy.decoding import SearchKey
from t2tdeploy.hypotheses import Hypothesis
from t2tdeploy.runtime import Interrupt
from t2tdeploy.sentences import Sentence
from t2tdeploy.translator import Translator

Answerer: TypeAlias = Translator | Classifier
"""What a bundle becomes."""

Row = TypeVar("Row")
Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


class Work(ABC, Generic[Row, Key, Result]):
    """Rows and how they are answered. Called from several threads.

    Attributes:
        widens: whether a batch that runs alone has the CPUs of all batches that may run at once.
    """

    widens = False

    @abstractmethod
    def length(self, row: Row) -> int:
        """Tokens, at least 1; rows of similar length run together."""

    @abstractmethod
    def cost(self, row: Row, key: Key) -> int:
        """Of the memory that it takes while it runs, in tokens; grows with the length."""

    @abstractmethod
    def run(self, rows: Sequence[Row], key: Key, interrupt: Interrupt, *, alone: bool) -> list[Result]:
        """The answers of one batch, in the order of its rows.

        Args:
            alone: whether it has the CPUs for itself, as it seemed when it started: no batch runs beside it or waits,
                nor has done so of late.

        Raises:
            SearchStoppedError: the interrupt was used.
            OperationalError: it failed.
        """


class TranslationWork(Work[Sentence, SearchKey, list[Hypothesis]]):
    """Sentences and their hypotheses; those with equal options share batches.

    Args:
        translator: of batches that run alone.
        beside: of batches that run at once, with fewer threads. Each of the thousands of small operators of a search
            ends with its threads waiting for each other; two searches of one thread do not wait, and do more than one
            of two threads. None: `translator` does these too.
    """

    def __init__(self, translator: Translator, beside: Translator | None = None) -> None:
        self.translator, self._beside = translator, beside or translator
        self.widens = beside is not None

    def length(self, row: Sentence) -> int:
        """See Work."""
        return len(row.ids) + len(row.prefix)

    def cost(self, row: Sentence, key: SearchKey) -> int:
        """See Work."""
        return key.cost(len(row.ids), len(row.prefix))

    def run(
        self, rows: Sequence[Sentence], key: SearchKey, interrupt: Interrupt, *, alone: bool
    ) -> list[list[Hypothesis]]:
        """See Work."""
        translator = self.translator if alone else self._beside
        return translator.search(rows, key, interrupt=interrupt)


class Asked(NamedTuple):
    """An example, and how many classes its request wants to know."""

    example: Example
    top_k: int


class ClassificationWork(Work[Asked, None, Classification]):
    """Examples and their classes or values; all share batches, whatever their requests want to know."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier

    def length(self, row: Asked) -> int:
        """See Work."""
        return row.example.length

    def cost(self, row: Asked, key: None) -> int:
        """See Work."""
        return row.example.cost

    def run(self, rows: Sequence[Asked], key: None, interrupt: Interrupt, *, alone: bool) -> list[Classification]:
        """See Work."""
        most = max(row.top_k for row in rows)
        found = self.classifier.run([row.example for row in rows], most, interrupt=interrupt)
        return [one.best(row.top_k) for one, row in zip(found, rows, strict=True)]
