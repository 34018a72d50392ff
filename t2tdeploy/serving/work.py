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
    """Rows and how they are answered. Called from several threads."""

    @abstractmethod
    def length(self, row: Row) -> int:
        """Tokens, at least 1; rows of similar length run together."""

    @abstractmethod
    def cost(self, row: Row, key: Key) -> int:
        """Of the memory that it takes while it runs, in tokens; grows with the length."""

    @abstractmethod
    def run(self, rows: Sequence[Row], key: Key, interrupt: Interrupt) -> list[Result]:
        """The answers of one batch, in the order of its rows.

        Raises:
            SearchStoppedError: the interrupt was used.
            OperationalError: it failed.
        """


class TranslationWork(Work[Sentence, SearchKey, list[Hypothesis]]):
    """Sentences and their hypotheses; those with equal options share batches."""

    def __init__(self, translator: Translator) -> None:
        self.translator = translator

    def length(self, row: Sentence) -> int:
        """See Work."""
        return len(row.ids) + len(row.prefix)

    def cost(self, row: Sentence, key: SearchKey) -> int:
        """See Work."""
        return key.cost(len(row.ids), len(row.prefix))

    def run(self, rows: Sequence[Sentence], key: SearchKey, interrupt: Interrupt) -> list[list[Hypothesis]]:
        """See Work."""
        return self.translator.search(rows, key, interrupt=interrupt)


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

    def run(self, rows: Sequence[Asked], key: None, interrupt: Interrupt) -> list[Classification]:
        """See Work."""
        most = max(row.top_k for row in rows)
        found = self.classifier.run([row.example for row in rows], most, interrupt=interrupt)
        return [one.best(row.top_k) for one, row in zip(found, rows, strict=True)]


def work_of(answerer: Answerer) -> TranslationWork | ClassificationWork:
    """The work of what a bundle became."""
    return TranslationWork(answerer) if isinstance(answerer, Translator) else ClassificationWork(answerer)
