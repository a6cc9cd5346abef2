"""The Open Inference Protocol, version 2, over gRPC."""

from __future__ import annotations

from functools import partial

from ringpull.inference.head.access import Access
from ringpull.inference.head.frontends.grpc.methods import Service
from ringpull.inference.head.frontends.oip.messages import SERVICE
from ringpull.inference.head.frontends.oip.service import OipService
from ringpull.inference.head.frontends.parts import Parts


def services(parts: Parts, access: Access, *, at_door: bool) -> list[Service]:
    """Return what is answered over gRPC.

    Args:
        access: Rule of who may have what there.
        at_door: Whether they are to be served at the operators' door.
    """
    methods = OipService(parts, access, at_door=at_door)
    own = {
        "RepositoryModelLoad": partial(methods.admit_operator, "load"),
        "RepositoryModelUnload": partial(methods.admit_operator, "unload"),
    }
    free = ("ServerLive", "ServerReady")
    return [Service(SERVICE, methods, methods.admit, receiving=("ModelInfer",), free=free, own=own)]
