"""The protocols that a head speaks besides predictions: what each adds to its gRPC servers and to its HTTP port.

A protocol is a folder here. It translates, over `Parts`; who may, admission, deadlines, degrade steps, counts and logs
are the predictor's.
"""

from __future__ import annotations

from starlette.routing import Route

from ringpull.inference.head.access import Access
from ringpull.inference.head.frontends.grpc.methods import Service
from ringpull.inference.head.frontends.json import routes as json_routes
from ringpull.inference.head.frontends.lookups import routes as lookup_routes
from ringpull.inference.head.frontends.oip import routes as oip_routes
from ringpull.inference.head.frontends.oip import services as oip_services
from ringpull.inference.head.frontends.page import routes as page_routes
from ringpull.inference.head.frontends.parts import Parts
from ringpull.inference.head.frontends.tfs import routes as tfs_routes
from ringpull.inference.head.frontends.tfs import services as tfs_services
from ringpull.inference.head.frontends.top_k import routes as top_k_routes
from ringpull.inference.head.frontends.writer import service as writer_service


def services(parts: Parts, access: Access, *, at_door: bool) -> list[Service]:
    """Return the services of all protocols, and the one that writes rows.

    Args:
        access: Rule of who may have what there.
        at_door: Whether they are to be served at the operators' door.
    """
    return [
        *writer_service.services(parts, access, at_door=at_door),
        *tfs_services.services(parts, access, at_door=at_door),
        *oip_services.services(parts, access, at_door=at_door),
    ]


def routes(parts: Parts) -> list[Route]:
    """Return the routes of all protocols; of two that fit a path the first is asked."""
    return [
        *json_routes.routes(parts),
        *lookup_routes.routes(parts),
        *top_k_routes.routes(parts),
        *tfs_routes.routes(parts),
        *oip_routes.routes(parts),
        *page_routes.routes(parts),
    ]
