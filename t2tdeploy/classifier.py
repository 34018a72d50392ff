"""Examples in, classes or values out, from a bundle on this machine. The server runs the same code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from t2tdeploy.bundle import MANIFEST, Bundle
from t2tdeploy.errors import CorruptFileError, InputError, RequestError
from t2tdeploy.examples import Example, ExampleEncoder, RawExample, stack
from t2tdeploy.features import EOS_ID, UNK_ID
from t2tdeploy.manifest import FeatureInput
from t2tdeploy.runtime import SPIN_US, Interrupt, Session
from t2tdeploy.tensorrt_engines import InputsProfile

__all__ = ["Classification", "Classifier", "Example", "Label", "RawExample"]


@dataclass(frozen=True)
class Label:
    """A class as the answer to an example.

    Args:
        class_id: from 0, the place of its name in `Classifier.classes`.
        probability: of the softmax over all classes; of models with several labels, its own (sigmoid). Calibrated by
            the bundle's temperature.
        logit: as the model gives it.
    """

    name: str
    class_id: int
    probability: float
    logit: float


@dataclass(frozen=True)
class Classification:
    """The answer to one example.

    Args:
        labels: the likeliest classes, best first; of classes that are equally likely the one with the lower id.
        values: of a model that regresses, flattened; its graph says of what shape they are.
        truncated: whether a text of the example was cut.
    """

    labels: tuple[Label, ...] = ()
    values: tuple[float, ...] = ()
    truncated: bool = False

    def best(self, top_k: int) -> Classification:
        """The same with `top_k` labels at most."""
        return self if len(self.labels) <= top_k else replace(self, labels=self.labels[:top_k])


class Classifier:
    """Classifies, or regresses, with one bundle.

    Args:
        variant: of the bundle; None: its default.
        threads: that one run uses; None: all CPUs this process may use.
        spin_us: microseconds that a thread without work stays awake, see `runtime.session_options`.
        max_batch_size: examples of one batch in `classify`.
        max_batch_tokens: of one batch in `classify`, padding included.

    Attributes:
        classes: the name of every class, by id; none if the model regresses.
        features: what an example is, by name.

    Raises:
        InputError: the bundle translates.
        CorruptFileError: the graph or a vocabulary cannot be loaded, or the graph is not what the manifest says.
        UnreadableError: one of them cannot be read.
        OperationalError: onnxruntime is not installed.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        variant: str | None = None,
        threads: int | None = None,
        spin_us: int = SPIN_US,
        max_batch_size: int = 64,
        max_batch_tokens: int = 32_768,
    ) -> None:
        manifest = bundle.manifest
        if manifest.task == "translate":
            raise InputError(
                f"{bundle.directory} is a bundle that translates; it has no classes",
                path=bundle.directory,
                help="ask it with t2tdeploy translate, or t2tdeploy.load(…).translate",
            )
        self.bundle, self.task = bundle, manifest.task
        self.classes: tuple[str, ...] = manifest.classes
        self.features: Mapping[str, FeatureInput] = manifest.features
        self.max_batch_size, self.max_batch_tokens = max_batch_size, max_batch_tokens
        chosen = bundle.variant(variant)
        profile = InputsProfile.read(chosen.profile)
        self.session = Session(
            bundle.path(variant), threads=threads, spin_us=spin_us, target=chosen.target, profile=profile
        )
        self._outputs = ("logits", "probabilities") if self.classes else ("values",)
        self._require_graph()
        texts = [name for name, feature in self.features.items() if feature.kind == "text"]
        self._encoder = ExampleEncoder(self.features, {name: bundle.tokenizer(name) for name in texts})

    def _require_graph(self) -> None:
        wanted = {feature.graph_input for feature in self.features.values()}
        missing = sorted({*self._outputs} - {*self.session.outputs} | (wanted ^ {*self.session.inputs}))
        if missing:
            raise CorruptFileError(
                self.bundle.directory / MANIFEST,
                f"its inputs and outputs are not those of the graph: {', '.join(missing)}",
                help="export the bundle again",
            )

    def warm_up(self) -> None:
        """Runs the graph once, on an example of zeros."""
        inputs: dict[str, Any] = {}
        for feature in self.features.values():
            if feature.kind == "text":
                inputs[feature.graph_input] = np.array([UNK_ID] * min(7, (feature.max_length or 2) - 1) + [EOS_ID])
            elif feature.dtype == "string":
                inputs[feature.graph_input] = np.array("", dtype=object)
            else:
                inputs[feature.graph_input] = np.zeros(feature.shape, dtype=feature.dtype)
        self.run([Example(inputs)], 1)

    def classify(
        self, examples: Sequence[RawExample], *, top_k: int = 1, truncate: bool = False
    ) -> list[Classification]:
        """The answer to every example, in their order.

        Args:
            examples: see `examples.RawExample`.
            top_k: classes of each answer; means nothing if the model regresses.
            truncate: cut texts that are too long instead of refusing them.

        Raises:
            RequestError: naming what is not valid, e.g. examples[3].inputs.
            OperationalError: onnxruntime failed.
        """
        top_k = self.require_top_k(top_k)
        encoded = self.encode(examples, truncate=truncate)
        found: list[Classification] = [Classification()] * len(encoded)
        for indices in self._batches(encoded):
            answers = self.run([encoded[index] for index in indices], top_k)
            for index, answer in zip(indices, answers, strict=True):
                found[index] = answer
        return found

    def require_top_k(self, top_k: int, field: str = "top_k") -> int:
        """`top_k` itself.

        Raises:
            RequestError: there are not so many classes.
        """
        if isinstance(top_k, bool) or not isinstance(top_k, int):
            raise RequestError(field, f"{top_k!r} is not a whole number")
        most = len(self.classes)
        if not self.classes:
            most, why = 1, "the model gives values, not classes"
        else:
            why = f"the model has {most} classes"
        if not 1 <= top_k <= most:
            raise RequestError(field, f"{top_k} is not between 1 and {most}: {why}")
        return top_k

    def encode(self, examples: Sequence[RawExample], *, truncate: bool = False, first: int = 0) -> list[Example]:
        """Examples as the graph takes them, in order.

        Args:
            first: number of the first one, where they are a part of a list: errors name them by it.

        Raises:
            RequestError: naming the first feature that is missing, unknown or not as it must be.
        """
        if isinstance(examples, str | bytes | Mapping):
            raise RequestError("examples", "one example, where a list of them is expected", help="put it into a list")
        return [
            self._encoder.encode(example, f"examples[{index}]", truncate=truncate)
            for index, example in enumerate(examples, first)
        ]

    def run(
        self, examples: Sequence[Example], top_k: int, *, interrupt: Interrupt | None = None
    ) -> list[Classification]:
        """Answers examples as one batch, in one run of the graph.

        Raises:
            SearchStoppedError: the interrupt was used.
            OperationalError: onnxruntime failed.
        """
        outputs = self.session.call(self._outputs, stack(examples), interrupt)
        if not self.classes:
            rows = outputs[0].reshape(len(examples), -1).tolist()
            return [
                Classification(values=tuple(row), truncated=example.truncated)
                for row, example in zip(rows, examples, strict=True)
            ]
        logits, probabilities = outputs
        best = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
        ids = best.tolist()
        row_of = np.arange(len(best))[:, None]
        chances, scores = probabilities[row_of, best].tolist(), logits[row_of, best].tolist()
        return [
            Classification(
                tuple(map(Label, [self.classes[one] for one in ids[row]], ids[row], chances[row], scores[row])),
                truncated=example.truncated,
            )
            for row, example in enumerate(examples)
        ]

    def _batches(self, examples: Sequence[Example]) -> Iterator[list[int]]:
        """Indices of the examples, dearest first, in batches within the limits."""
        order = sorted(range(len(examples)), key=lambda index: -examples[index].cost)
        while order:
            rows = max(1, min(self.max_batch_size, self.max_batch_tokens // examples[order[0]].cost))
            yield order[:rows]
            order = order[rows:]
