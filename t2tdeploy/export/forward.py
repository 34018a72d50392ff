"""The pieces of a search as ONNX graphs: the encoder, the decoder's step, and what the search does around it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any, NamedTuple

import onnx
import onnx.inliner
import torch
from torch import Tensor, nn
from torch.export import Dim

from t2tdeploy.export.kept import kept
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
    each_itself,
    initial_state,
    look,
    past_of,
    reordered,
    rows_of,
    sampled_ids,
    update,
)

OPSET_VERSION = 18
IR_VERSION = 10  # the newest that onnxruntime 1.19 reads

# Example sizes, all different and above 1, so that tracing keeps every axis symbolic.
BATCH, BEAM, SOURCE_LENGTH, STEPS, PAST, VOCAB = 3, 5, 11, 7, 4, 23

LEAST_APART = 4096
"""So many numbers must a step add to the caches of a beam, for the past to be kept apart. transformer_base adds 6144,
transformer_multi30k 1536: see benchmarks/past_apart.py for what it saves and costs them."""

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
        look: beam_STATE, `LIMITS`, itself, memory and past, the model's state -> constrained, log_probs, `GROWN`,
            NAME_next of the model's state or, where it is to be reordered, NAME_grown.
        best: log_probs -> `CHOSEN`.
        banned: log_probs, beam_ancestors_grown, beam_history_tokens_next, no_repeat_ngram_size -> banned.
        controlled: log_probs, banned, state with `GROWN`, source_ids, controls -> allowed, penalties.
        sampled: log_probs, beam_step, controls -> `CHOSEN`.
        update: state with `GROWN`, `CHOSEN`, penalties, controls, `LIMITS`, NAME_grown -> open_rows, `RECORDS`,
            beam_STATE_next, NAME_next of what was NAME_grown.
        memory: names of the encoder's outputs, with their axes.
        carried: what steps hand on, with its axes; `target_length` and `history` start at 0.
        past: part of the model's state -> name of what was decoded of it before, see models/model.py: takes_past.
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
    past: dict[str, str]

    def handed_on(self) -> dict[str, Axes]:
        """What segments hand on, with its axes: of what has a past, that."""
        return {
            self.past.get(name, name): _of_past(axes) if name in self.past else axes
            for name, axes in self.carried.items()
        }


class Example(NamedTuple):
    """An input to trace with."""

    name: str
    tensor: Tensor
    axes: Axes


def export_pieces(model: Model, *, apart: bool | None = None) -> SearchPieces:
    """Traces the model's `encode` and `decode_step`, and the search around them.

    Args:
        apart: whether the past of caches is kept apart, if the model can take it; None: where that pays.

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
    past = past_of(model) if (is_worth_keeping_apart(model) if apart is None else apart) else {}
    itself = Example("itself", each_itself(BATCH, BEAM, torch.device("cpu")).clone(), ("batch", "beam", "beam"))
    grown_names = [f"{name}_{'grown' if name in rows else 'next'}" for name in state_axes]
    moving = [e._replace(name=f"{e.name}_grown") for e in _model_state(model, STEPS + 1, past) if e.name in rows]
    of_search = _pieces_of_search()
    return SearchPieces(
        encoder=trace(model.encode, [source], [*memory_axes], model),
        prelude=of_search["prelude"],
        look=trace(
            _look(model),
            [_state(STEPS), _bounds(), itself, [*memory, *_past(model, past)], _model_state(model, STEPS, past)],
            ["constrained", "log_probs", *GROWN.values(), *grown_names],
            model,
        ),
        best=of_search["best"],
        banned=of_search["banned"],
        controlled=of_search["controlled"],
        sampled=of_search["sampled"],
        update=_traced_update(moving, rows) if rows else _update_of_no_rows(),
        memory=dict(memory_axes),
        carried={**{f"beam_{name}": axes for name, axes in STATE_AXES.items()}, **state_axes},
        past=past,
    )  # fmt: skip


@cache
def _pieces_of_search() -> dict[str, onnx.ModelProto]:
    """The pieces that know nothing of the model."""
    return kept("search", _traced_search)


def _traced_search() -> dict[str, onnx.ModelProto]:
    controls, beam, grown = _controls(), _scalar("beam_size", BEAM), _state(STEPS + 1, GROWN)
    raw = [example._replace(name=name) for example, name in zip(controls, CONTROL_AXES, strict=True)]
    scores = Example("log_probs", torch.zeros(BATCH, BEAM, VOCAB).log_softmax(2), ("batch", "beam", "vocab"))
    source = Example("source_ids", torch.full((BATCH, SOURCE_LENGTH), 3), ("batch", "source_length"))
    return {
        "prelude": trace(lambda controls, beam: limits(Controls(*controls), beam), [raw, beam], LIMITS),
        "best": trace(best_ids, [scores], CHOSEN),
        "banned": trace(banned_ids, [scores, *_named(grown, GROWN_IDS), *_named(controls, NGRAMS)], ["banned"]),
        "controlled": trace(_controlled, [scores, _banned(), grown, source, controls], ["allowed", "penalties"]),
        "sampled": trace(_sampled, [scores, _scalar("beam_step", STEPS), controls], CHOSEN),
    }


@cache
def _update_of_no_rows() -> onnx.ModelProto:
    return kept("update", lambda: {"update": _traced_update([], ())})["update"]


def _traced_update(moving: list[Example], rows: Sequence[str]) -> onnx.ModelProto:
    """
    Args:
        moving: the parts of the model's state with `rows` in front, not yet reordered.
        rows: their names.
    """
    names = [*(f"beam_{name}_next" for name in _updated()), *(f"{name}_next" for name in rows)]
    return trace(
        _update, [_state(STEPS + 1, GROWN), _choice(), _controls(), _bounds(), moving], ["open_rows", *RECORDS, *names]
    )


def _look(model: Model) -> Callable[..., tuple[Tensor, ...]]:
    def function(
        state: list[Tensor], bounds: list[Tensor], itself: Tensor, memory: list[Tensor], model_state: list[Tensor]
    ) -> tuple[Tensor, ...]:
        now = BeamState(*state)
        log_probs, grown, model_state_after = look(model, now, itself, memory, model_state)
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


def is_worth_keeping_apart(model: Model) -> bool:
    """See `LEAST_APART`."""
    axes = model.state_axes()
    return sum(prod(size for size in axes[name] if isinstance(size, int)) for name in past_of(model)) >= LEAST_APART


def _model_state(model: Model, steps: int, past: Mapping[str, str]) -> list[Example]:
    """The model's state some steps after the start, without its past."""
    grown: dict[str | int, int] = {"target_length": steps, "history": (steps - PAST if past else steps) * BEAM}
    return [_ones(name, tensor, axes, grown) for name, (tensor, axes) in _start(model).items()]


def _past(model: Model, past: Mapping[str, str]) -> list[Example]:
    """What `decode_step` may be given behind the memory."""
    start = _start(model)
    grown: dict[str | int, int] = {"history": 1 + PAST * BEAM}
    found = [_ones(of_past, *start[name], grown) for name, of_past in past.items()]
    return [one._replace(axes=_of_past(one.axes)) for one in found]


def _of_past(axes: Axes) -> Axes:
    return tuple("past" if axis == "history" else axis for axis in axes)


def _start(model: Model) -> dict[str, tuple[Tensor, Axes]]:
    """The parts of the model's first state by name, with their axes."""
    start, axes = model.initial_state(BATCH, BEAM, torch.device("cpu")), model.state_axes()
    return {name: (tensor, axes[name]) for name, tensor in zip(axes, start, strict=True)}


def _ones(name: str, start: Tensor, axes: Axes, sizes: Mapping[str | int, int]) -> Example:
    """An example as long as `sizes` says where it grows."""
    shape = [sizes.get(axis, size) for axis, size in zip(axes, start.shape, strict=True)]
    return Example(name, torch.ones(shape, dtype=start.dtype), axes)


def _controls() -> list[Example]:
    plain = neutral(torch.full((BATCH,), 40), torch.tensor(0.6), torch.tensor(2))
    controls = plain._replace(
        prefix=torch.full((BATCH, 9), 3), suppressed=torch.tensor([4, 5]), uniforms=torch.full((BATCH, BEAM, 19), 0.5)
    )
    return [Example(BY_ROW.get(name, name), tensor, CONTROL_AXES[name]) for name, tensor in controls._asdict().items()]


def _bounds() -> list[Example]:
    found = limits(Controls(*(example.tensor for example in _controls())), torch.tensor(BEAM))
    return [Example(*item) for item in zip(LIMITS, found, ((), (), ("batch",), (), ()), strict=True)]


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
