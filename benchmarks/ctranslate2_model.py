"""Our Transformer as a CTranslate2 model: the same weights, the same function.

    target-space vector           part of the encoder's table of positions
    start token (a zero vector)   start_from_zero_embedding
    layer norm epsilon 1e-6       in CTranslate2's config, whose default is 1e-5

The searches differ: CTranslate2 divides scores by length^alpha, we by ((5 + length) / 6)^alpha. With alpha 0 both are
log-probabilities. It stops a sentence when beam_size * patience hypotheses have ended, each among the beam_size best of
its step (with alpha 0: when the best of a step has); we when none can still become one of those asked for, or, with
early stopping, as it does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ctranslate2.specs import TransformerSpec, common_spec
from torch import Tensor, nn

from t2tdeploy.export.lexicon import Lexicon
from t2tdeploy.models.layers import LAYER_NORM_EPSILON
from t2tdeploy.models.transformer import Transformer

POSITIONS = 512  # as many tokens as a source or a target may have
START, EOS = "<pad>", "<eos>"  # ids 0 and 1


def words(vocab_size: int) -> list[str]:
    """Names of the ids: CTranslate2 takes and gives text."""
    return [START, EOS, *map(str, range(2, vocab_size))]


def vocabulary_map(lexicon: Lexicon) -> str:
    """A line for each source word: the word, a tab, the words that may translate it. No word: what always may."""
    names = words(len(lexicon.table))
    rows = {"": lexicon.always, **dict(zip(names, lexicon.table, strict=True))}
    return "".join(f"{word}\t{' '.join(names[one] for one in row)}\n" for word, row in rows.items())


def convert(model: Transformer, directory: Path, lexicon: Lexicon | None = None) -> None:
    """Writes `model` for CTranslate2, in float32; CTranslate2 quantizes when it loads.

    Args:
        lexicon: becomes its vocabulary map, which it looks at when asked to.
    """
    vocab_size = model.features["targets"].vocab_size
    layers = len(model.encoder), len(model.decoder)
    spec = TransformerSpec.from_config(layers, model.heads, pre_norm=True, activation=common_spec.Activation.RELU)
    embedding = _array(model.modality("inputs").weight)
    positions = _array(model.timing(torch.arange(POSITIONS)))
    for side, final, table in (
        (spec.encoder, model.encoder_norm, positions + _array(model.target_space)),
        (spec.decoder, model.decoder_norm, positions),
    ):
        side.position_encodings.encodings = table
        _norm(side.layer_norm, final)
    spec.encoder.embeddings[0].weight = embedding
    spec.decoder.embeddings.weight = spec.decoder.projection.weight = _array(model.modality("targets").weight)
    spec.decoder.start_from_zero_embedding = True
    for target, layer in zip(spec.encoder.layer, model.encoder, strict=True):
        _self_attention(target.self_attention, layer.attention, layer.attention_norm)
        _feed_forward(target.ffn, layer)
    for target, layer in zip(spec.decoder.layer, model.decoder, strict=True):
        _self_attention(target.self_attention, layer.self_attention, layer.self_norm)
        _norm(target.attention.layer_norm, layer.cross_norm)
        cross = layer.cross_attention
        for part, linear in zip(target.attention.linear, (cross.query, cross.key_value, cross.output), strict=True):
            _linear(part, linear)
        _feed_forward(target.ffn, layer)
    spec.register_source_vocabulary(words(vocab_size))
    spec.register_target_vocabulary(words(vocab_size))
    spec.config.unk_token, spec.config.eos_token = "2", EOS
    spec.config.bos_token = spec.config.decoder_start_token = START
    spec.config.layer_norm_epsilon = LAYER_NORM_EPSILON
    directory.mkdir(parents=True, exist_ok=True)
    if lexicon is not None:
        path = directory / "lexicon.txt"
        path.write_text(vocabulary_map(lexicon), encoding="utf-8")
        spec.register_vocabulary_mapping(str(path))
    spec.validate()
    spec.optimize()
    spec.save(str(directory))


def _array(tensor: Tensor) -> Any:
    return np.ascontiguousarray(tensor.detach().float().numpy())


def _norm(target: Any, norm: nn.LayerNorm) -> None:
    target.gamma, target.beta = _array(norm.weight), _array(norm.bias)


def _linear(target: Any, linear: nn.Linear) -> None:
    target.weight = _array(linear.weight)
    if linear.bias is not None:
        target.bias = _array(linear.bias)


def _self_attention(target: Any, attention: Any, norm: nn.LayerNorm) -> None:
    _norm(target.layer_norm, norm)
    _linear(target.linear[0], attention.query_key_value)
    _linear(target.linear[1], attention.output)


def _feed_forward(target: Any, layer: Any) -> None:
    _norm(target.layer_norm, layer.feed_forward_norm)
    _linear(target.linear_0, layer.feed_forward.inner)
    _linear(target.linear_1, layer.feed_forward.outer)
