"""What the server tells of itself and of its models, in the protocol's messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from t2tdeploy import __version__
from t2tdeploy.errors import RequestError, UnknownNameError
from t2tdeploy.serving.frontend import Frontend
from t2tdeploy.serving.inference.core import DEFAULT_PRIORITY_LEVEL, PRIORITY_LEVELS, interface_of
from t2tdeploy.serving.inference.interface import TensorInterface, TensorSpec
from t2tdeploy.serving.inference.v2 import inference_pb2 as pb
from t2tdeploy.serving.observer import BatchStatistics
from t2tdeploy.serving.scheduler import UnavailableError
from t2tdeploy.serving.served_model import ServedModel

EXTENSIONS = (
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
)
"""Those of Triton's that are here."""

PLATFORM = "t2tdeploy"


def server_metadata() -> pb.ServerMetadataResponse:
    """Name, version and extensions."""
    return pb.ServerMetadataResponse(name="t2tdeploy", version=__version__, extensions=EXTENSIONS)


def model_ready(frontend: Frontend, name: str, version: str) -> bool:
    """Whether requests to the model should come here now."""
    if not frontend.ready:
        return False
    try:
        frontend.repository.find(name, version)
    except (UnknownNameError, UnavailableError, RequestError):
        return False
    return True


def server_ready(frontend: Frontend) -> bool:
    """Whether requests should come here now, and there is a model for them."""
    return frontend.ready and bool(frontend.repository.models())


def model_metadata(frontend: Frontend, name: str, version: str) -> pb.ModelMetadataResponse:
    """The tensors of a model.

    Raises:
        UnknownNameError, UnavailableError: as `ModelRepository.find` does.
    """
    model = frontend.repository.find(name, version)
    interface = interface_of(model)
    return pb.ModelMetadataResponse(
        name=model.name,
        versions=[str(one.number) for one in frontend.repository.models() if one.name == model.name],
        platform=PLATFORM,
        inputs=[_tensor(spec) for spec in interface.inputs if not spec.optional],
        outputs=[_tensor(spec) for spec in interface.outputs if not spec.optional],
        properties={"task": model.bundle.manifest.task, "content": model.bundle.version, **_optional(interface)},
    )


def model_config(frontend: Frontend, name: str, version: str) -> pb.ModelConfig:
    """How the model is served, in the words of Triton's configurations. Its `max_batch_size` is what a request may
    have; what runs together is bounded by the parameters.

    Raises:
        UnknownNameError, UnavailableError: as `ModelRepository.find` does.
    """
    model, options = frontend.repository.find(name, version), frontend.options
    manifest, interface = model.bundle.manifest, interface_of(model)
    variant = options.variant or manifest.default_variant
    queue = pb.ModelQueuePolicy(
        timeout_action=pb.ModelQueuePolicy.REJECT,
        allow_timeout_override=True,
        max_queue_size=min(options.max_queue_sentences, 2**32 - 1),
    )
    gpu = manifest.variants[variant].target != "cpu"
    group = pb.ModelInstanceGroup(
        name=model.name,
        kind=pb.ModelInstanceGroup.KIND_GPU if gpu else pb.ModelInstanceGroup.KIND_CPU,
        count=model.scheduler.state().workers,
    )
    parameters = {
        "variant": variant,
        "threads": model.answerer.session.threads,
        "max_batch_sentences": options.max_batch_size,
        "max_batch_tokens": options.max_batch_tokens,
        **(manifest.decode.model_dump() if manifest.decode else {}),
        **_optional(interface),
    }
    return pb.ModelConfig(
        name=model.name,
        platform=PLATFORM,
        backend=PLATFORM,
        version_policy=_version_policy(frontend),
        max_batch_size=options.max_sentences_per_request,
        input=[
            pb.ModelInput(name=spec.name, data_type=_kind(spec), dims=spec.shape[1:])
            for spec in interface.inputs
            if not spec.optional
        ],
        output=[
            pb.ModelOutput(name=spec.name, data_type=_kind(spec), dims=spec.shape[1:])
            for spec in interface.outputs
            if not spec.optional
        ],
        dynamic_batching=pb.ModelDynamicBatching(
            max_queue_delay_microseconds=round(options.max_queue_delay_ms * 1000),
            priority_levels=PRIORITY_LEVELS,
            default_priority_level=DEFAULT_PRIORITY_LEVEL,
            default_queue_policy=queue,
        ),
        instance_group=[group],
        default_model_filename=manifest.variants[variant].file,
        parameters={name: pb.ModelParameter(string_value=str(value)) for name, value in parameters.items()},
        model_transaction_policy=pb.ModelTransactionPolicy(decoupled=False),
    )


def model_statistics(frontend: Frontend, name: str, version: str) -> pb.ModelStatisticsResponse:
    """What a model has done since it was loaded; without a name, all that serve.

    Raises:
        UnknownNameError, UnavailableError: as `ModelRepository.find` does.
    """
    if not name:
        if version:
            raise RequestError("version", "without a name", help="name the model")
        models = frontend.repository.models()
    elif version:
        models = [frontend.repository.find(name, version)]
    else:
        found = frontend.repository.find(name)
        models = [one for one in frontend.repository.models() if one.name == found.name]
    return pb.ModelStatisticsResponse(model_stats=map(_statistics, models))


def repository_index(frontend: Frontend, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
    """Every model and version with its state.

    Raises:
        RequestError: a repository is named.
    """
    require_only_repository(request.repository_name)
    response = pb.RepositoryIndexResponse()
    for entry in frontend.repository.entries():
        if not request.ready or entry.state == "READY":
            number = str(entry.number) if entry.number else ""
            response.models.add(name=entry.name, version=number, state=entry.state, reason=entry.reason)
    return response


def require_only_repository(name: str) -> None:
    """
    Raises:
        RequestError: a repository is named.
    """
    if name:
        raise RequestError("repository_name", "the server has one repository", help="leave the name out")


def _optional(interface: TensorInterface[Any, Any]) -> dict[str, str]:
    """The tensors that clients may leave out, apart from the others: perf_analyzer would send and ask for all that it
    is told of."""

    def described(specs: Sequence[TensorSpec]) -> str:
        return ", ".join(f"{one.name} {one.datatype} {list(one.shape)}" for one in specs if one.optional)

    return {"optional_inputs": described(interface.inputs), "outputs_on_request": described(interface.outputs)}


def _tensor(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)


def _kind(spec: TensorSpec) -> pb.DataType.ValueType:
    name = "STRING" if spec.datatype == "BYTES" else spec.datatype
    return pb.DataType.Value(f"TYPE_{name}")


def _version_policy(frontend: Frontend) -> pb.ModelVersionPolicy:
    policy = frontend.options.version_policy
    if policy.numbers is not None:
        return pb.ModelVersionPolicy(specific=pb.ModelVersionPolicy.Specific(versions=sorted(policy.numbers)))
    if policy.newest is not None:
        return pb.ModelVersionPolicy(latest=pb.ModelVersionPolicy.Latest(num_versions=policy.newest))
    return pb.ModelVersionPolicy(all=pb.ModelVersionPolicy.All())


def _statistics(model: ServedModel) -> pb.ModelStatistics:
    """An inference is a sentence, an execution a batch; every count here is one of sentences. Reading and writing of
    tensors is not measured: they have no time."""
    found: BatchStatistics = model.scheduler.statistics
    count = found.inference_count
    return pb.ModelStatistics(
        name=model.name,
        version=str(model.number),
        last_inference=found.last_inference_ms,
        inference_count=count,
        execution_count=found.execution_count,
        inference_stats=pb.InferStatistics(
            success=pb.StatisticDuration(count=count, ns=found.queue_ns + found.compute_ns),
            fail=pb.StatisticDuration(count=found.failed_count, ns=found.failed_ns),
            queue=pb.StatisticDuration(count=count, ns=found.queue_ns),
            compute_input=pb.StatisticDuration(count=count),  # perf_analyzer wants all three to have the same count
            compute_infer=pb.StatisticDuration(count=count, ns=found.compute_ns),
            compute_output=pb.StatisticDuration(count=count),
        ),
        batch_stats=[
            pb.InferBatchStatistics(
                batch_size=size, compute_infer=pb.StatisticDuration(count=one.count, ns=one.compute_ns)
            )
            for size, one in sorted(found.sizes.items())
        ],
    )
