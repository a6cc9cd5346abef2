"""Plain JSON over HTTP: predictions for people, and the document that says what there is."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ringpull.inference.head.frontends.http.bodies import open_call, receive_unpacked
from ringpull.inference.head.frontends.json.answers import answer_text, reading_bytes
from ringpull.inference.head.frontends.json.openapi import OpenApi
from ringpull.inference.head.frontends.json.requests import read_request
from ringpull.inference.head.frontends.parts import Parts

JSON = "application/json"


def routes(parts: Parts) -> list[Route]:
    """Return what is answered over HTTP."""

    async def predict(request: Request) -> Response:
        named = request.path_params.get("model", "")
        with open_call(parts, request) as call:
            body = await receive_unpacked(request, call)
            asked = await call.aside(len(body), lambda: read_request(body, named, call.limits))
            prediction = await call.predict(asked)
            text = await call.aside(reading_bytes(prediction), lambda: answer_text(prediction))
            return Response(text, media_type=JSON)

    return [
        Route("/v1/predict", predict, methods=["POST"]),
        Route("/v1/predict/{model}", predict, methods=["POST"]),
        Route("/openapi.json", OpenApi(parts).answer),
    ]
