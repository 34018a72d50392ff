"""Laws of the Transformer: cached = full, padding and the future are invisible, T2T's formulas."""

from __future__ import annotations

import math

import pytest
import torch

from t2tdeploy.errors import SettingsError
from t2tdeploy.features import PAD_ID
from t2tdeploy.models.layers import TimingSignal
from t2tdeploy.models.modalities import smoothed_cross_entropy, soft_target_entropy
from t2tdeploy.models.tokens import Tokens
from t2tdeploy.models.transformer import Transformer
from t2tdeploy.models.transformer_hparams import transformer_base, transformer_big, transformer_tiny
from tests.models.tiny import features, padded, places_of, random_sources, tiny_transformer

torch.set_num_threads(1)


@pytest.mark.parametrize("joint", [True, False])
def test_cached_steps_are_the_full_forward(joint: bool):
    model = tiny_transformer(40, joint=joint)
    sources, targets = padded(random_sources(40, 1)), torch.randint(3, 40, (5, 6))
    with torch.no_grad():
        full = model({"inputs": sources, "targets": targets})
        memory, state = model.encode(sources), model.initial_state(5, 1, sources.device)
        tokens = torch.full((5, 1), PAD_ID)
        for step in range(6):
            ancestors = torch.ones(5, 1, step + 1, dtype=torch.bool)
            logits, _, state = model.decode_step(tokens, torch.tensor(step), memory, state, ancestors)
            torch.testing.assert_close(logits[:, 0], full[:, step], atol=1e-4, rtol=1e-5)
            tokens = targets[:, step : step + 1]


@pytest.mark.parametrize("split", range(5))
def test_a_history_in_two_parts_is_the_history(split: int):
    model, sources, beam = tiny_transformer(40), padded(random_sources(40, 1, count=2)), 3
    with torch.no_grad():
        memory, state = model.encode(sources), model.initial_state(2, beam, sources.device)
        for step in range(4):
            ancestors = torch.rand(2, beam, beam * (step + 1)) < 0.5
            ancestors[:, :, -beam:] = torch.eye(beam, dtype=torch.bool)
            inputs = torch.randint(3, 40, (2, beam)), torch.tensor(step)
            logits, attention, after = model.decode_step(*inputs, memory, state, ancestors)
            at = min(split, step) * beam
            past = [torch.cat([torch.full_like(part[:, :, :1], 9.0), part[:, :, :at]], 2) for part in after]
            recent = [part[:, :, at:] for part in state]
            found = model.decode_step(*inputs, [*memory, *past], recent, ancestors)
            torch.testing.assert_close(found[0], logits, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(found[1], attention, atol=1e-5, rtol=1e-5)
            for new, part in zip(found[2], after, strict=True):
                torch.testing.assert_close(new, part[:, :, at:], atol=1e-5, rtol=1e-5)
            state = after


TARGETS = {
    "padded": padded(random_sources(40, 2)),
    "full": torch.randint(3, 40, (5, 6)),
    "a pad within": torch.tensor([[5, 0, 7, 1], [5, 1, 0, 0], [0, 9, 1, 0], [0, 0, 0, 0], [3, 3, 3, 1]]),
}


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
def test_without_padding_it_computes_the_same(targets: torch.Tensor):
    """At every token, and so do the gradients of what looks at real tokens alone."""
    model = tiny_transformer(40, joint=False)
    sources = padded(random_sources(40, 1))
    sources[1] = PAD_ID  # attention to it takes the mean of its pads
    batch = {"inputs": sources, "targets": targets}
    bottom, at = model.bottom(batch), {name: places_of(ids) for name, ids in batch.items()}
    full = model.body(bottom).flatten(0, 1)[at["targets"]]
    packed = model.packed_body(bottom, {name: Tokens(at[name], *ids.shape) for name, ids in batch.items()})
    real = targets.flatten()[at["targets"]] != PAD_ID
    torch.testing.assert_close(packed[real], full[real], atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(full) * real[:, None]
    parameters = list(model.parameters())
    expected, found = (torch.autograd.grad((x * weight).sum(), parameters, retain_graph=True) for x in (full, packed))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_beams_of_one_source_do_not_see_each_other():
    model, sources = tiny_transformer(40), padded(random_sources(40, 1, count=2))
    tokens = torch.tensor([[3, 4, 5], [6, 7, 8]])
    with torch.no_grad():
        memory, state = model.encode(sources), model.initial_state(2, 3, sources.device)
        themselves = torch.eye(3, dtype=torch.bool).expand(2, 3, 3)
        together, *_ = model.decode_step(tokens, torch.tensor(0), memory, state, themselves)
        for beam in range(3):
            single = model.initial_state(2, 1, sources.device)
            itself = torch.ones(2, 1, 1, dtype=torch.bool)
            alone, *_ = model.decode_step(tokens[:, beam : beam + 1], torch.tensor(0), memory, single, itself)
            torch.testing.assert_close(together[:, beam : beam + 1], alone, atol=1e-4, rtol=1e-5)


def test_declared_axes_are_the_axes():
    model, sources = tiny_transformer(40), padded(random_sources(40, 1))
    sizes = {"batch": 5, "rows": 5, "source_length": sources.size(1), "target_length": 0, "history": 0}
    for declared, tensors in (
        (model.memory_axes(), model.encode(sources)),
        (model.state_axes(), model.initial_state(5, 1, sources.device)),
    ):
        assert [tuple(sizes.get(axis, axis) for axis in axes) for axes in declared.values()] == [
            tuple(tensor.shape) for tensor in tensors
        ]


def test_logits_depend_neither_on_padding_nor_on_later_targets():
    model, rows = tiny_transformer(40), random_sources(40, 1)
    targets = torch.randint(3, 40, (5, 6))
    later = targets.clone()
    later[:, 3:] = 7
    with torch.no_grad():
        full = model({"inputs": padded(rows), "targets": targets})
        alone = model({"inputs": torch.tensor([rows[1]]), "targets": targets[1:2]})
        changed = model({"inputs": padded(rows), "targets": later})
    torch.testing.assert_close(full[1:2], alone, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(full[:, :4], changed[:, :4], atol=1e-4, rtol=1e-5)
    assert not torch.allclose(full[:, 4:], changed[:, 4:], atol=1e-3)


def test_timing_signal_is_the_papers_with_sines_first():
    signal = TimingSignal(8)(torch.arange(5))
    for position in range(5):
        for i in range(4):
            angle = position / 10_000 ** (i / 3)
            assert signal[position, i] == pytest.approx(math.sin(angle), abs=1e-5)
            assert signal[position, 4 + i] == pytest.approx(math.cos(angle), abs=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_smoothed_loss_is_the_written_out_cross_entropy(smoothing: float):
    vocab, labels = 7, torch.tensor([[3, 5, 0], [6, 0, 0]])
    logits = torch.randn(2, 3, vocab, generator=torch.manual_seed(0))
    log_probs, total = torch.log_softmax(logits, -1), 0.0
    for row, position in ((0, 0), (0, 1), (1, 0)):
        for word in range(vocab):
            share = 1 - smoothing if word == labels[row, position] else smoothing / (vocab - 1)
            if share:
                total += share * (math.log(share) - float(log_probs[row, position, word]))
    terms = smoothed_cross_entropy(logits, labels, smoothing)
    assert float(terms.numerator) == pytest.approx(total, rel=1e-5)
    assert float(terms.denominator) == 3


def test_a_perfect_prediction_costs_nothing():
    vocab, smoothing = 7, 0.1
    soft = torch.full((1, 1, vocab), smoothing / (vocab - 1))
    soft[0, 0, 4] = 1 - smoothing
    assert float(smoothed_cross_entropy(soft.log(), torch.tensor([[4]]), smoothing).numerator) == pytest.approx(
        0.0, abs=1e-6
    )
    assert soft_target_entropy(0.0, vocab) == 0.0


@pytest.mark.parametrize(("hparams", "millions"), [(transformer_base(), 61), (transformer_big(), 210)])
def test_published_sizes(hparams, millions: int):
    """Vaswani et al. count 65 M and 213 M with biases in attention and a vocabulary of 37 000."""
    with torch.device("meta"):
        model = Transformer(hparams, features(37_000))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.04)


def test_dropout_acts_in_training_only():
    model = tiny_transformer(40)
    batch = {"inputs": padded(random_sources(40, 1)), "targets": torch.randint(3, 40, (5, 6))}
    with torch.no_grad():
        assert torch.equal(model(batch), model(batch))
        model.train()
        assert not torch.equal(model(batch), model(batch))


def test_sizes_that_do_not_fit_are_faults():
    with pytest.raises(SettingsError, match="num_heads = 3 does not divide hidden_size = 128"):
        transformer_tiny().replace(num_heads=3)


def test_cross_attention_picture_is_a_distribution_over_the_source():
    model, rows = tiny_transformer(40), random_sources(40, 1)
    weights = model.cross_attention({"inputs": padded(rows), "targets": torch.randint(3, 40, (5, 6))})
    assert weights.shape == (5, 2, 6, 8)
    torch.testing.assert_close(weights.sum(-1), torch.ones(5, 2, 6))
    assert not weights[1, :, :, len(rows[1]) :].any()
