"""Messages of other systems' protocols, in a descriptor pool of their own.

Whoever has the real ones in the same process, a client beside a head in a test, would end with "duplicate symbol" if
these were in protobuf's default pool. They are read from a descriptor set that `make proto` writes beside the `.proto`.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool


class OwnPool:
    """Descriptor pool of one protocol."""

    def __init__(self, name: str) -> None:
        """Read `NAME.binpb`, a descriptor set with all that it imports."""
        content = FileDescriptorSet.FromString(files("ringpull.inference.proto").joinpath(f"{name}.binpb").read_bytes())
        self.pool = DescriptorPool()
        for file in content.file:
            self.pool.Add(file)

    def message(self, full_name: str) -> Any:
        """Return the class of a message."""
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(full_name))

    def service(self, full_name: str) -> ServiceDescriptor:
        """Return a service."""
        return self.pool.FindServiceByName(full_name)
