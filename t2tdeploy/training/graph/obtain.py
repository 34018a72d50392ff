"""The training graph of a model: from the cache, or built and put there."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import torch
from torch import Tensor

from t2tdeploy.errors import CorruptFileError
from t2tdeploy.hparams import HParams
from t2tdeploy.models.model import Model
from t2tdeploy.progress import Reporter, SilentReporter
from t2tdeploy.training.graph.cache import GraphCache, default_directory
from t2tdeploy.training.graph.environment import choose_gradient_builder, require_target
from t2tdeploy.training.graph.graph_key import graph_key
from t2tdeploy.training.graph.manifest import FORMAT_VERSION
from t2tdeploy.training.graph.own_gradients import refuse_gradient_hooks
from t2tdeploy.training.graph.packed import packed_features
from t2tdeploy.training.graph.step import constant_buffers
from t2tdeploy.training.graph.target import Target
from t2tdeploy.training.graph.training_graph import TrainingGraph

_CPU = Target()


def obtain_training_graph(
    model: Model,
    hparams: HParams,
    *,
    target: Target = _CPU,
    gradient_builder: str = "auto",
    directory: Path | None = None,
    reporter: Reporter | None = None,
) -> TrainingGraph:
    """The graph that `build_training_graph` makes of `model`. Draws no random numbers.

    Args:
        model: on the CPU, whatever the target is.
        gradient_builder: see `choose_gradient_builder`.
        directory: of the cache; default: `default_directory()`.

    Raises:
        UserError: no graph can be made of the model; see `build_training_graph` and `packed_features`.
        OperationalError: this environment lacks the gradient builder.
    """
    reporter = reporter or SilentReporter()
    refuse_gradient_hooks(model)  # the key of a graph does not see those on parameters
    builder = choose_gradient_builder(gradient_builder)
    require_target(builder, target)
    cache = GraphCache(directory or default_directory(), reporter=reporter)
    options = {
        "format_version": FORMAT_VERSION,
        "label_smoothing": hparams.label_smoothing,
        "device": target.device,
        "precision": target.precision,
        "packed": packed_features(model, builder, target),
        "constants": {name: _content(tensor) for name, tensor in constant_buffers(model).items()},
    }
    key = graph_key(builder=builder, model=model, hparams=hparams, features=model.features, options=options)
    kept = cache.get(key)
    if kept is not None:
        try:
            return TrainingGraph.load(kept)
        except CorruptFileError as error:
            reporter.message(f"{error}: it will be built again")
    graph = _build(model, hparams, target, builder, reporter)
    cache.put(key, graph.save)
    return graph


def _content(tensor: Tensor) -> str:
    numbers = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)  # numpy lacks some of their types
    return hashlib.sha256(numbers.numpy().tobytes()).hexdigest()


def _build(model: Model, hparams: HParams, target: Target, builder: str, reporter: Reporter) -> TrainingGraph:
    reporter.message(f"building the training graph ({builder}), once for this model: up to a minute")
    # Imports torch.onnx, which a run that finds its graph in the cache does without.
    from t2tdeploy.training.graph.build import build_training_graph

    start = time.perf_counter()
    with torch.random.fork_rng():
        graph = build_training_graph(model, label_smoothing=hparams.label_smoothing, target=target, builder=builder)
    seconds = time.perf_counter() - start
    reporter.event("training graph", builder=builder, seconds=seconds, operators=len(graph.training.graph.node))
    return graph
