"""The Open Inference Protocol's messages, kept apart from those of others.

Its packages and names are not ours: tritonclient has messages of the same full names, and a process may hold each name
only once in protobuf's default pool, so one of the two could not be imported. The stubs of v2/ therefore live in a pool
of their own; `scripts/make_protos.py` writes them so. On the wire there is no difference.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message

POOL = descriptor_pool.DescriptorPool()


def build_messages(file: FileDescriptor, module_name: str, module: dict[str, Any]) -> None:
    """Puts the classes of a file of `POOL` into the module of its stubs, as protobuf's own builder does for files of
    the default pool."""
    for name, service in file.services_by_name.items():
        module[f"_{name.upper()}"] = service
    for name, enum in file.enum_types_by_name.items():
        module[f"_{name.upper()}"] = enum
        module[name] = EnumTypeWrapper(enum)
        module.update((value.name, value.number) for value in enum.values)
    for name, descriptor in file.message_types_by_name.items():
        module[name] = _message_class(descriptor, module_name)


def _message_class(descriptor: Descriptor, module_name: str) -> type[Message]:
    message = message_factory.GetMessageClass(descriptor)
    message.__module__ = module_name
    for nested in descriptor.nested_types:
        setattr(message, nested.name, _message_class(nested, module_name))
    return message


class ReflectedPool:
    """Descriptors for server reflection: of `POOL`, then of protobuf's default pool."""

    def __init__(self) -> None:
        self._pools = (POOL, descriptor_pool.Default())

    def __getattr__(self, name: str) -> Any:
        """A look-up of a `DescriptorPool`."""

        def find(*arguments: Any) -> Any:
            for pool in self._pools[:-1]:
                try:
                    return getattr(pool, name)(*arguments)
                except KeyError:
                    pass
            return getattr(self._pools[-1], name)(*arguments)

        return find
