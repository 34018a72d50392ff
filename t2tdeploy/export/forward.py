"""The pieces of a search as ONNX graphs: the encoder, the decoder's step, and what the search does around it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import onnx
import onnx.inliner
import torch
from torch import Tensor, nn
from torch.export import Dim

from t2tdeploy.export.quick import without_garbage_collection
from t2tdeploy.export.quiet import quiet_exporter
from t2tdeploy.export.reshapes import simplify_reshapes
from t2tdeploy.export.undecomposed import to_onnx
from t2tdeploy.models.controls import NEVER, Controls, Limits, limits, neutral
from t2tdeploy.models.model import Model
from t2tdeploy.models.search import (
    BeamState,
    Choice,
    StepRecord,
    banned_ids,
    best_ids,
    controlled,
    initial_state,
    look,
    reordered,
    rows_of,
    sampled_ids,
    update,
)

OPSET_VERSION = 18
IR_VERSION = 10  # the newest that onnxruntime 1.19 reads

# Example sizes, all different and above 1, so that tracing keeps every axis symbolic.
BATCH, BEAM, SOURCE_LENGTH, STEPS, VOCAB = 3, 5, 11, 7, 23

Axes = tuple[str | int, ...]

CONTROL_AXES: dict[str, Axes] = {
    "max_length": ("batch",),
    "alpha": (),
    "num_hypotheses": (),
    "min_length": ("batch",),
    "prefix": ("batch", "prefix_length"),
    "suppressed": ("suppressed",),
    "repetition_penalty": (),
    "no_repeat_ngram_size": (),
    "coverage_penalty": (),
    "temperature": (),
    "top_k": (),
    "top_p": (),
    "uniforms": ("batch", "beam", "steps"),
    "patience": (),
}
BY_ROW = {"min_length": "row_min_length", "prefix": "row_prefix", "uniforms": "row_uniforms"}
"""What a request may give once for all sentences, and its name with a row for each."""

STATE_AXES: dict[str, Axes] = {
    "step": (),
    "tokens": ("batch", "beam"),
    "alive_scores": ("batch", "beam"),
    "finished_scores": ("batch", "beam"),
    "finished_log_probs": ("batch", "beam"),
    "finished_ends": ("batch", "beam"),
    "ended": ("batch",),
    "ancestors": ("batch", "beam", "history"),
    "history_tokens": ("batch", "history"),
    "history_attention": ("batch", "history", "source_length"),
}
GROWN = {
    "ancestors": "beam_ancestors_grown",
    "history_tokens": "beam_history_tokens_next",
    "history_attention": "beam_history_attention_next",
}
"""What the model's step makes longer. The histories are not touched again in this step."""

GROWN_IDS = (GROWN["ancestors"], GROWN["history_tokens"])
NGRAMS = ("no_repeat_ngram_size",)

LIMITS = tuple(f"limit_{name}" for name in Limits._fields)
CHOSEN = ("chosen_scores", "chosen_ids")
RECORDS = tuple(f"step_{name}" for name in StepRecord._fields)


@dataclass(frozen=True)
class SearchPieces:
    """The graphs to assemble. Tensors that cross between them have the same name in all.

    Args:
        encoder: source_ids -> memory.
        prelude: controls, beam_size -> `LIMITS`.
        look: beam_STATE, `LIMITS`, memory, the model's state -> constrained, log_probs, `GROWN`, NAME_next of the
            model's state or, where it is to be reordered, NAME_grown.
        best: log_probs -> `CHOSEN`.
        banned: log_probs, beam_ancestors_grown, beam_history_tokens_next, no_repeat_ngram_size -> banned.
        controlled: log_probs, banned, state with `GROWN`, source_ids, controls -> allowed, penalties.
        sampled: log_probs, beam_step, controls -> `CHOSEN`.
        update: state with `GROWN`, `CHOSEN`, penalties, controls, `LIMITS`, NAME_grown -> open_rows, `RECORDS`,
            beam_STATE_next, NAME_next of what was NAME_grown.
        memory: names of the encoder's outputs, with their axes.
        carried: what steps hand on, with its axes; `target_length` and `history` start at 0.
    """

    encoder: onnx.ModelProto
    prelude: onnx.ModelProto
    look: onnx.ModelProto
    best: onnx.ModelProto
    banned: onnx.ModelProto
    controlled: onnx.ModelProto
    sampled: onnx.ModelProto
    update: onnx.ModelProto
    memory: dict[str, Axes]
    carried: dict[str, Axes]


class Example(NamedTuple):
    """An input to trace with."""

    name: str
    tensor: Tensor
    axes: Axes


def export_pieces(model: Model) -> SearchPieces:
    """Traces the model's `encode` and `decode_step`, and the search around them.

    Raises:
        torch.onnx.OnnxExporterError: the model has an operator that ONNX cannot express.
    """
    model.eval()
    memory_axes, state_axes, rows = model.memory_axes(), model.state_axes(), rows_of(model)
    ids = torch.randint(3, 50, (BATCH, SOURCE_LENGTH)) % next(iter(model.features.values())).vocab_size
    source = Example("source_ids", ids, ("batch", "source_length"))
    with torch.no_grad():
        encoded = [tensor.contiguous() for tensor in model.encode(ids)]  # strides would be traced
    memory = [Example(*item) for item in zip(memory_axes, encoded, memory_axes.values(), strict=True)]
    controls = _controls()
    raw_controls = [example._replace(name=name) for example, name in zip(controls, CONTROL_AXES, strict=True)]
    beam = _scalar("beam_size", BEAM)
    found = limits(Controls(*(example.tensor for example in controls)), beam.tensor)
    bounds = [Example(*item) for item in zip(LIMITS, found, ((), (), ("batch",), (), ()), strict=True)]
    now, grown = _state(STEPS), _state(STEPS + 1, GROWN)
    scores = Example("log_probs", torch.zeros(BATCH, BEAM, VOCAB).log_softmax(2), ("batch", "beam", "vocab"))
    grown_names = [f"{name}_{'grown' if name in rows else 'next'}" for name in state_axes]
    moving = [e._replace(name=f"{e.name}_grown") for e in _model_state(model, STEPS + 1) if e.name in rows]
    return SearchPieces(
        encoder=trace(model.encode, [source], [*memory_axes], model),
        prelude=trace(lambda controls, beam: limits(Controls(*controls), beam), [raw_controls, beam], LIMITS),
        look=trace(
            _look(model),
            [now, bounds, memory, _model_state(model, STEPS)],
            ["constrained", "log_probs", *GROWN.values(), *grown_names],
            model,
        ),
        best=trace(best_ids, [scores], CHOSEN),
        banned=trace(banned_ids, [scores, *_named(grown, GROWN_IDS), *_named(controls, NGRAMS)], ["banned"]),
        controlled=trace(_controlled, [scores, _banned(), grown, source, controls], ["allowed", "penalties"]),
        sampled=trace(_sampled, [scores, _scalar("beam_step", STEPS), controls], CHOSEN),
        update=trace(
            _update,
            [grown, _choice(), controls, bounds, moving],
            ["open_rows", *RECORDS, *(f"beam_{name}_next" for name in _updated()), *(f"{name}_next" for name in rows)],
        ),
        memory=dict(memory_axes),
        carried={**{f"beam_{name}": axes for name, axes in STATE_AXES.items()}, **state_axes},
    )  # fmt: skip


def _look(model: Model) -> Callable[..., tuple[Tensor, ...]]:
    def function(
        state: list[Tensor], bounds: list[Tensor], memory: list[Tensor], model_state: list[Tensor]
    ) -> tuple[Tensor, ...]:
        now = BeamState(*state)
        log_probs, grown, model_state_after = look(model, now, memory, model_state)
        found = Limits(*bounds)
        constrained = found.always | (now.step < found.before)
        return (constrained, log_probs, *(getattr(grown, name) for name in GROWN), *model_state_after)

    return function


def _controlled(
    log_probs: Tensor, banned: Tensor, state: list[Tensor], source: Tensor, controls: list[Tensor]
) -> tuple[Tensor, ...]:
    return controlled(log_probs, banned, BeamState(*state), source, Controls(*controls))


def _sampled(log_probs: Tensor, step: Tensor, controls: list[Tensor]) -> tuple[Tensor, ...]:
    return sampled_ids(log_probs, step, Controls(*controls))


def _update(
    state: list[Tensor],
    choice: list[Tensor],
    controls: list[Tensor],
    bounds: list[Tensor],
    moving: list[Tensor],
) -> tuple[Tensor, ...]:
    max_length, alpha = Controls(*controls)[:2]
    _, record, after = update(BeamState(*state), Choice(*choice), max_length, alpha, Limits(*bounds))
    open_rows = (after.alive_scores[:, 0] > NEVER).sum()
    new = (getattr(after, name) for name in _updated())
    return (open_rows, *record, *new, *reordered(moving, record.parents))


def _updated() -> list[str]:
    return [name for name in STATE_AXES if f"beam_{name}_next" not in GROWN.values()]


def _state(steps: int, names: dict[str, str] | None = None) -> list[Example]:
    """The beam's state `steps` steps after the start."""
    start = initial_state(BATCH, BEAM, SOURCE_LENGTH, torch.device("cpu"), sampling=False)
    history = steps * BEAM
    state = start._replace(
        step=torch.tensor(steps),
        finished_scores=start.alive_scores - 1,
        finished_log_probs=start.alive_scores - 1,
        ancestors=torch.ones(BATCH, BEAM, history, dtype=torch.bool),
        history_tokens=torch.full((BATCH, history), 3),
        history_attention=torch.full((BATCH, history, SOURCE_LENGTH), 0.1),
    )
    chosen = names or {}
    return [
        Example(chosen.get(name, f"beam_{name}"), tensor, STATE_AXES[name]) for name, tensor in state._asdict().items()
    ]


def _model_state(model: Model, steps: int) -> list[Example]:
    """The model's state some steps after the start."""
    start = model.initial_state(BATCH, BEAM, torch.device("cpu"))
    grown: dict[str | int, int] = {"target_length": steps, "history": steps * BEAM}
    examples = []
    for (name, axes), tensor in zip(model.state_axes().items(), start, strict=True):
        shape = [grown.get(axis, size) for axis, size in zip(axes, tensor.shape, strict=True)]
        examples.append(Example(name, torch.ones(shape, dtype=tensor.dtype), axes))
    return examples  # fmt: skip


def _controls() -> list[Example]:
    plain = neutral(torch.full((BATCH,), 40), torch.tensor(0.6), torch.tensor(2))
    controls = plain._replace(
        prefix=torch.full((BATCH, 9), 3), suppressed=torch.tensor([4, 5]), uniforms=torch.full((BATCH, BEAM, 19), 0.5)
    )
    return [Example(BY_ROW.get(name, name), tensor, CONTROL_AXES[name]) for name, tensor in controls._asdict().items()]


def _choice() -> list[Example]:
    shape: tuple[str, ...] = ("batch", "beam", "candidates")
    log_probs = torch.zeros(BATCH, BEAM, 2 * BEAM)
    return [
        Example("chosen_scores", log_probs, shape),
        Example("chosen_ids", log_probs.long(), shape),
        Example("penalties", log_probs[:, :, 0].clone(), ("batch", "beam")),
    ]


def _banned() -> Example:
    return Example("banned", torch.zeros(BATCH, BEAM, VOCAB, dtype=torch.bool), ("batch", "beam", "vocab"))


def _named(examples: Sequence[Example], names: Sequence[str]) -> list[Example]:
    return [next(example for example in examples if example.name == name) for name in names]


def _scalar(name: str, value: bool | int) -> Example:
    return Example(name, torch.tensor(value), ())


class _Traced(nn.Module):
    """A function as a module; `owner` has the parameters that it uses."""

    def __init__(self, function: Callable[..., Any], owner: nn.Module | None) -> None:
        super().__init__()
        self.function = function
        self.owner = owner

    def forward(self, *inputs: Tensor | list[Tensor]) -> Any:
        return self.function(*inputs)


def trace(
    function: Callable[..., Any],
    examples: Sequence[Example | list[Example]],
    outputs: Iterable[str],
    owner: nn.Module | None = None,
) -> onnx.ModelProto:
    """`function` as a graph of ONNX's own operators.

    Args:
        examples: of its arguments: tensors and lists of tensors.
        outputs: names of what it returns.
        owner: the model whose parameters it uses.
    """

    def each(of: Callable[[Example], Any]) -> tuple[Any, ...]:
        return tuple([of(one) for one in item] if isinstance(item, list) else of(item) for item in examples)

    names = [one.name for item in examples for one in (item if isinstance(item, list) else [item])]
    with quiet_exporter(), without_garbage_collection():
        program = to_onnx(
            _Traced(function, owner).eval(),
            each(lambda one: one.tensor.clone()),  # a tensor given twice would be one input
            dynamic_shapes=(each(lambda one: _symbolic(one.axes)),),
            inputs=names,
            outputs=[*outputs],
            opset=OPSET_VERSION,
        )
    simplify_reshapes(program.model)
    return onnx.inliner.inline_local_functions(program.model_proto)


def _symbolic(axes: Axes) -> dict[int, object] | None:
    return {i: Dim.AUTO for i, axis in enumerate(axes) if isinstance(axis, str)} or None
