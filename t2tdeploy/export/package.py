"""From a trained model to a bundle: export, check against the oracle, write."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from t2tdeploy.bundle import Bundle, DecodeDefaults, Manifest, TensorSpec, Variant, require_free, write_bundle
from t2tdeploy.errors import OperationalError
from t2tdeploy.export.beam_search import INPUTS, OUTPUTS, export_beam_search
from t2tdeploy.export.placement import serialized
from t2tdeploy.export.verify import ParityReport, verify
from t2tdeploy.features import EOS_ID
from t2tdeploy.models.model import Model
from t2tdeploy.progress import Reporter, SilentReporter
from t2tdeploy.runtime import GraphSession
from t2tdeploy.tokenizer import Tokenizer, encode_with_eos

PARITY_HYPOTHESES = 2


def export_bundle(
    model: Model,
    directory: Path,
    *,
    name: str,
    tokenizers: Mapping[str, Tokenizer],
    decode: DecodeDefaults,
    sentences: Sequence[str],
    provenance: Mapping[str, Any],
    metrics: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Bundle:
    """Writes `model` as a bundle whose graph decodes `sentences` as the oracle does.

    Args:
        name: what requests call the model.
        tokenizers: of "inputs" and "targets"; the same object twice is written once.
        sentences: real source texts for the parity check.
        provenance: what made the weights; stored as it is.

    Raises:
        ParityError: the graph and the oracle disagree; nothing is written.
        InputError: `directory` is taken.
        OperationalError: the graph is too large for one ONNX file, or cannot be expressed in ONNX.
    """
    require_free(directory, overwrite)
    reporter = reporter or SilentReporter()
    reporter.message("tracing the encoder and the decoder step")
    graph = _graph_bytes(model)
    report = verify(
        model,
        GraphSession(graph),
        [_source_ids(tokenizers["inputs"], sentence, decode.max_source_length) for sentence in sentences],
        beam_size=decode.beam_size,
        alpha=decode.alpha,
        extra_length=decode.extra_length,
        num_hypotheses=min(PARITY_HYPOTHESES, decode.beam_size),
        controls=decode.controls,
        reporter=reporter,
    )
    vocabularies = _vocabulary_files(tokenizers)
    files: dict[str, bytes | Path] = {
        "model.onnx": graph,
        "parity.json": _parity_json(report),
        **{file: tokenizers[feature].to_bytes() for feature, file in vocabularies.items()},
    }
    manifest = Manifest(
        name=name,
        inputs=_specs(INPUTS),
        outputs=_specs(OUTPUTS),
        tokenizers=vocabularies,
        decode=decode,
        variants={"cpu-float32": Variant(file="model.onnx", target="cpu", precision="float32", layout="growing")},
        default_variant="cpu-float32",
        metrics=dict(metrics or {}),
        provenance=dict(provenance),
    )
    return write_bundle(directory, manifest, files, overwrite=overwrite)


def _source_ids(tokenizer: Tokenizer, sentence: str, longest: int) -> list[int]:
    """As the server cuts a source that is too long: EOS stays."""
    return [*encode_with_eos(tokenizer, sentence)[:-1][: longest - 1], EOS_ID]


def _graph_bytes(model: Model) -> bytes:
    from torch.onnx import OnnxExporterError

    try:
        graph = export_beam_search(model)
    except (OnnxExporterError, onnx.checker.ValidationError) as error:
        cause = error.__cause__ or error
        raise OperationalError(
            f"{type(model).__name__} cannot be expressed in ONNX: {cause}",
            help="use operators that torch.onnx translates in encode and decode_step",
        ) from error
    return serialized(graph)


def _vocabulary_files(tokenizers: Mapping[str, Tokenizer]) -> dict[str, str]:
    if tokenizers["inputs"] is tokenizers["targets"]:
        return {"inputs": "shared.vocab", "targets": "shared.vocab"}
    return {"inputs": "source.vocab", "targets": "target.vocab"}


def _specs(tensors: Mapping[str, tuple[int, tuple[str | int, ...]]]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=name, dtype=onnx.helper.tensor_dtype_to_np_dtype(kind).name, axes=axes)
        for name, (kind, axes) in tensors.items()
    )


def _parity_json(report: ParityReport) -> bytes:
    content = {"passed": report.passed, **asdict(report)}
    return (json.dumps(content, indent=2) + "\n").encode()
