"""The processes of a run over torch.distributed: gloo between CPUs, NCCL between GPUs.

Who is who comes from the environment, as torchrun sets it (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR,
MASTER_PORT), or from `launcher.py`, which adds a file to meet at instead of a port.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from t2tdeploy.errors import TrainingError, UserError
from t2tdeploy.training.launcher import MEETING_FILE, die_with_launcher
from t2tdeploy.training.processes import ALONE, Processes

T = TypeVar("T")

# Processes wait for the first one while it generates data or writes, and for each other in evaluations, whatever that
# takes; a process that died is noticed at once, because its connections close.
_PATIENCE = timedelta(hours=24)
_GRADIENT_PATIENCE = timedelta(minutes=30)  # by then all processes are in the same step


class LostProcessError(TrainingError):
    """Another process of the run ended or cannot be reached; it knows why."""


@contextmanager
def join_processes() -> Iterator[Processes]:
    """The processes that the environment speaks of: `ALONE` without torch.distributed, if it speaks of at most one.

    Raises:
        UserError: the environment is not whole, or there are fewer GPUs than processes on this machine.
        LostProcessError: the others do not come.
    """
    if _number("WORLD_SIZE", 1) == 1:
        yield ALONE
        return
    die_with_launcher()
    processes = ProcessGroup()
    yield processes
    # After an error neither: then the others notice that this process ends, and launchers which one was the first.
    processes.largest(0)  # nobody leaves while the first one still writes
    processes.leave()


class ProcessGroup(Processes):
    """Several processes; joins them when it is made.

    Numbers and Python objects travel over gloo, whatever device the gradients are on.
    """

    def __init__(self) -> None:
        self.rank, self.world_size = _number("RANK"), _number("WORLD_SIZE")
        self.local_rank = _number("LOCAL_RANK", self.rank)
        self.local_world_size = _number("LOCAL_WORLD_SIZE", self.world_size)
        self._gpu = torch.cuda.is_available()
        if self._gpu:
            _take_gpu(self.local_rank, self.local_world_size)
        meeting = os.environ.get(MEETING_FILE)
        if meeting is not None and sys.platform.startswith("linux"):
            # All on this machine: do not depend on what its host name resolves to.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        # Defaults of its functions are the group that there is when it is imported, as torch._dynamo does sometime.
        importlib.import_module("torch.distributed.nn.functional")
        with _lost_processes("the other processes do not come"):
            dist.init_process_group(
                "nccl" if self._gpu else "gloo",
                init_method="env://" if meeting is None else f"file://{meeting}",
                rank=self.rank,
                world_size=self.world_size,
                timeout=_GRADIENT_PATIENCE,
            )
            self._words = dist.new_group(backend="gloo", timeout=_PATIENCE)
        self._costs = _Costs()

    def leave(self) -> None:
        """Ends the groups and, whoever still holds this object, their threads.

        A thread of gloo that lets go of a tensor while the interpreter ends aborts the process.
        """
        del self._words
        dist.destroy_process_group()

    def sums(self, values: Sequence[int]) -> list[int]:
        return self._reduced(values, dist.ReduceOp.SUM)

    def largest(self, value: int) -> int:
        return self._reduced([value], dist.ReduceOp.MAX)[0]

    def gather(self, value: T) -> list[T]:
        found: list[T] | None = [value] * self.world_size if self.first else None
        with _lost_processes():
            dist.gather_object(value, found, dst=0, group=self._words)
        return found or []

    def broadcast(self, value: T) -> T:
        holder = [value]
        with _lost_processes():
            dist.broadcast_object_list(holder, src=0, group=self._words)
        return holder[0]

    def broadcast_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()} if self.first else {}
        result = {}
        for name, (shape, dtype) in self.broadcast(shapes).items():
            tensor = tensors[name].detach().cpu().contiguous() if self.first else torch.empty(shape, dtype=dtype)
            with _lost_processes():
                dist.broadcast(tensor.view(-1).view(torch.uint8), src=0, group=self._words)
            result[name] = tensors[name] if self.first else tensor
        return result

    def add_up(self, buffers: Sequence[Tensor]) -> None:
        with _lost_processes(), self._costs.measured(buffers):
            for work in [dist.all_reduce(buffer, async_op=True) for buffer in buffers]:
                work.wait()

    def communication(self) -> dict[str, float]:
        return self._costs.flush()

    def require_equal(self, tensors: Mapping[str, Tensor]) -> None:
        sums = torch.stack([_checksum(tensor) for tensor in tensors.values()]).tolist()
        low = self._reduced(sums, dist.ReduceOp.MIN)
        high = self._reduced(sums, dist.ReduceOp.MAX)
        different = [name for name, least, most in zip(tensors, low, high, strict=True) if least != most]
        if different:
            raise TrainingError(
                f"the processes no longer have the same parameters: {len(different)} of {len(tensors)} differ, "
                f"{different[0]} the first",
                help="give all machines the same kind of CPU or GPU and the same packages; "
                "the last checkpoint was written before they differed",
            )

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        turn = 0 if self.first else 1 if self.local_rank == 0 else 2
        for _ in range(turn):
            self.largest(0)
        yield
        for _ in range(turn, 2):
            self.largest(0)

    def _reduced(self, values: Sequence[int], operation: dist.ReduceOp.RedOpType) -> list[int]:
        tensor = torch.tensor(list(values), dtype=torch.int64)
        with _lost_processes():
            dist.all_reduce(tensor, operation, group=self._words)
        numbers: list[int] = tensor.tolist()
        return numbers


class _Costs:
    """Seconds and bytes of the additions since the last flush; on a GPU by events, so that nothing waits."""

    def __init__(self) -> None:
        self._bytes = 0
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def measured(self, buffers: Sequence[Tensor]) -> Iterator[None]:
        self._bytes += sum(buffer.numel() * buffer.element_size() for buffer in buffers)
        if buffers[0].device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begin.record()
            yield
            end.record()
            self._events.append((begin, end))
            return
        started = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - started

    def flush(self) -> dict[str, float]:
        if not self._bytes:
            return {}
        if self._events:
            self._events[-1][1].synchronize()
        seconds = self._seconds + sum(begin.elapsed_time(end) / 1000 for begin, end in self._events)
        result = {"communication_seconds": seconds, "communication_bytes": self._bytes}
        self._bytes, self._seconds = 0, 0.0
        self._events.clear()
        return result


def _checksum(tensor: Tensor) -> Tensor:
    """The bits of a tensor as integers, summed modulo 2^64: [] int64 on the CPU."""
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.detach().contiguous().view(-1).view(integers).sum(dtype=torch.int64).cpu()


def _take_gpu(local_rank: int, local_world_size: int) -> None:
    count = torch.cuda.device_count()
    if local_world_size > count:
        raise UserError(
            f"{local_world_size} processes on a machine with {count} GPU{'s' if count > 1 else ''}",
            help="start one process per GPU; CUDA_VISIBLE_DEVICES= (empty) trains on the CPU",
        )
    torch.cuda.set_device(local_rank)


def _number(name: str, default: int | None = None) -> int:
    """A whole number of the environment."""
    value = os.environ.get(name, None if default is None else str(default))
    if value is None or not value.isdecimal():
        raise UserError(
            f"{name} = {value!r} in the environment is no whole number",
            help="start several processes with torchrun, or with t2tdeploy train --nproc",
        )
    return int(value)


@contextmanager
def _lost_processes(what: str = "another process of this run ended") -> Iterator[None]:
    """Turns the errors of torch.distributed, which are about sockets, into one about processes."""
    try:
        yield
    except (RuntimeError, ValueError) as error:  # dist.DistError is a RuntimeError
        # "[file.cc:553] Connection closed by peer [address]:7831. This is typically …"
        reason = re.sub(r"^\[[^\]]*\] ", "", str(error).strip()).splitlines()[0].partition(". ")[0]
        raise LostProcessError(
            f"{what}: {reason}",
            help="see what that process wrote; the same command resumes from the last checkpoint",
        ) from error
