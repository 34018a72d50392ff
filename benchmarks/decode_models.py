"""What decode_vs_ctranslate2.py translates with: a model's files for every backend, and batches of sources."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ctranslate2_model import convert
from decode_backends import BEAM

from t2tdeploy.export.beam_search import export_beam_search
from t2tdeploy.export.placement import serialized
from t2tdeploy.export.quantize import quantize_search
from t2tdeploy.features import EOS_ID, FeatureSpec, Modality
from t2tdeploy.models.transformer import Transformer
from t2tdeploy.registry import hparams_sets

VOCABULARY, SOURCE_LENGTH, TARGET_LENGTH = 32_000, 25, 32
FORCED = {1: 6, 4: 4, 16: 2, 64: 1}  # batch size -> batches of a group


class Files(NamedTuple):
    """(backend, precision) -> what the backend loads, and its size on disk."""

    models: dict[tuple[str, str], Path]

    def mib(self, backend: str, precision: str) -> float:
        path = self.models[backend, precision]
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        return sum(file.stat().st_size for file in files) / 2**20


def base_hparams() -> Any:
    """Those of transformer_base."""
    return hparams_sets.get("transformer_base")()


def base_model() -> Transformer:
    """transformer_base with random weights."""
    torch.manual_seed(0)
    features = {name: FeatureSpec(name, Modality.SYMBOL, "shared", VOCABULARY) for name in ("inputs", "targets")}
    return Transformer(base_hparams(), features).eval()


def forced_groups(sizes: list[int]) -> dict[str, dict[str, Any]]:
    """Random sources of one length, batches of each size; every translation has TARGET_LENGTH tokens."""
    draw = np.random.default_rng(0)
    return {
        str(size): {
            "batches": [
                [[*row, EOS_ID] for row in draw.integers(3, VOCABULARY, (size, SOURCE_LENGTH - 1)).tolist()]
                for _ in range(FORCED[size])
            ],
            "length": TARGET_LENGTH,
        }
        for size in sizes
    }


def write_files(model: Transformer, folder: Path, calibration: list[list[int]]) -> Files:
    """Our graphs in both precisions, and CTranslate2's model, which has one file for both."""
    folder.mkdir(parents=True, exist_ok=True)
    ours = {precision: folder / f"model.{precision}.onnx" for precision in ("float32", "int8")}
    graph = export_beam_search(model)
    ours["float32"].write_bytes(serialized(graph))
    eight_bits = quantize_search(graph, calibration, beam_size=BEAM, alpha=0.6, extra_length=TARGET_LENGTH)
    ours["int8"].write_bytes(serialized(eight_bits))
    convert(model, folder / "ctranslate2")
    return Files({
        **{("t2tdeploy", precision): path for precision, path in ours.items()},
        **{("ctranslate2", precision): folder / "ctranslate2" for precision in ours},
    })  # fmt: skip


def write_marian(folder: Path, hparams: Any) -> Mapping[tuple[str, str], Path]:
    """A Marian of the same size for Transformers, and the same as Optimum exports it."""
    from optimum.onnxruntime import ORTModelForSeq2SeqLM
    from transformers import MarianConfig, MarianMTModel

    sizes = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (
            ("layers", getattr(hparams, f"num_{side}_layers")),
            ("ffn_dim", hparams.filter_size),
            ("attention_heads", hparams.num_heads),
        )
    }
    config = MarianConfig(
        vocab_size=VOCABULARY, d_model=hparams.hidden_size, **sizes, pad_token_id=0, eos_token_id=EOS_ID,
        decoder_start_token_id=0, forced_eos_token_id=None, activation_function="relu",
    )  # fmt: skip
    torch.manual_seed(0)
    MarianMTModel(config).save_pretrained(folder / "marian")
    ORTModelForSeq2SeqLM.from_pretrained(folder / "marian", export=True).save_pretrained(folder / "optimum")
    return {("transformers", "float32"): folder / "marian", ("optimum", "float32"): folder / "optimum"}
