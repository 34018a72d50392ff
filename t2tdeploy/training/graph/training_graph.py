"""A model's training graph as files: one step's forward, loss and backward in ONNX, and what its inputs are.

training.onnx      batch, parameters, masks, loss_scale -> numerator, denominator, NAME.grad, NAME.new
evaluation.onnx    batch, parameters -> numerator, denominator, correct; logits, where the target is not text
manifest.json      see manifest.py

No weights are inside, and no code of ours is needed to run them: docs/training-graph.md shows how.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto
from pydantic import ValidationError

from t2tdeploy.errors import CorruptFileError
from t2tdeploy.files import atomic_file
from t2tdeploy.training.graph.manifest import FORMAT_VERSION, Manifest

TRAINING, EVALUATION, MANIFEST = "training.onnx", "evaluation.onnx", "manifest.json"


@dataclass(frozen=True)
class TrainingGraph:
    """The two graphs of a model, and their manifest."""

    training: ModelProto
    evaluation: ModelProto
    manifest: Manifest

    def save(self, directory: Path) -> None:
        """Writes the three files, the manifest last."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, model in ((TRAINING, self.training), (EVALUATION, self.evaluation)):
            with atomic_file(directory / name) as file:
                onnx.save(model, file)
        with atomic_file(directory / MANIFEST) as file:
            file.write_text(self.manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> TrainingGraph:
        """Reads what `save` wrote.

        Raises:
            CorruptFileError: a file is missing, not what `save` wrote, or of another format version.
        """
        path = directory / MANIFEST
        try:
            manifest = Manifest.model_validate_json(path.read_text(encoding="utf-8"))
            training = _read(path := directory / TRAINING)
            evaluation = _read(path := directory / EVALUATION)
        except (OSError, ValidationError, ValueError, DecodeError) as error:
            raise CorruptFileError(path, f"not a training graph: {error}") from error
        if manifest.format_version != FORMAT_VERSION:
            raise CorruptFileError(directory / MANIFEST, f"format version {manifest.format_version}")
        return cls(training, evaluation, manifest)


def _read(path: Path) -> ModelProto:
    model = onnx.load(path)
    if not model.graph.node:  # protobuf takes a file without content for a model without content
        raise ValueError("it holds no operators")
    return model
