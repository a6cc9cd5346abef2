"""The Open Inference Protocol, version 2, over HTTP."""

from __future__ import annotations

from starlette.routing import Route

from ringpull.inference.head.frontends.oip.endpoints import Endpoint, Endpoints
from ringpull.inference.head.frontends.parts import Parts


def routes(parts: Parts) -> list[Route]:
    """Return what is answered over HTTP."""
    all_of = Endpoints(parts)
    return [
        Route("/v2", all_of.server),
        # Probes are written by hand, and by who cannot see what is answered: they are taken with a slash, too.
        Route("/v2/health/live", all_of.live),
        Route("/v2/health/live/", all_of.live),
        Route("/v2/health/ready", all_of.ready),
        Route("/v2/health/ready/", all_of.ready),
        # Before a model's own paths. The metadata of a model of this name are told under its versions only.
        Route("/v2/models/stats", all_of.statistics),
        *_of_model("", all_of.metadata, "GET"),
        *_of_model("/ready", all_of.model_ready, "GET"),
        *_of_model("/config", all_of.config, "GET"),
        *_of_model("/stats", all_of.statistics, "GET"),
        *_of_model("/infer", all_of.infer, "POST"),
        Route("/v2/repository/index", all_of.index, methods=["POST"]),
        Route("/v2/repository/models/{model}/load", all_of.load, methods=["POST"]),
        Route("/v2/repository/models/{model}/unload", all_of.unload, methods=["POST"]),
        *_of_memory("/v2/systemsharedmemory", all_of),
        *_of_memory("/v2/cudasharedmemory", all_of),
        Route("/v2/trace/setting", all_of.no_settings, methods=["GET", "POST"]),
        Route("/v2/models/{model}/trace/setting", all_of.no_settings, methods=["GET", "POST"]),
        Route("/v2/logging", all_of.no_settings, methods=["GET", "POST"]),
    ]


def _of_model(what: str, endpoint: Endpoint, method: str) -> list[Route]:
    """Return the routes of what is asked of a model, or of one version of it."""
    return [
        Route(f"/v2/models/{{model}}{version}{what}", endpoint, methods=[method])
        for version in ("", "/versions/{version}")
    ]


def _of_memory(path: str, all_of: Endpoints) -> list[Route]:
    """Return the routes of one kind of shared memory, none of which is ever registered."""
    region = path + "/region/{region}"
    return [
        Route(path + "/status", all_of.no_regions),
        Route(region + "/status", all_of.no_regions),
        Route(path + "/unregister", all_of.forget_region, methods=["POST"]),
        Route(region + "/unregister", all_of.forget_region, methods=["POST"]),
        Route(region + "/register", all_of.no_memory, methods=["POST"]),
    ]
