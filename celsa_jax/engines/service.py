"""An HTTP service over any index (FastAPI)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from celsa_jax.engines.engine import Engine, EngineError
from celsa_jax.engines.file import FileIndex
from celsa_jax.errors import InputError, one_line
from celsa_jax.sparse import Recommendation

try:
    from fastapi import FastAPI, HTTPException, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from pydantic import BaseModel, ConfigDict, Field
    from starlette.exceptions import HTTPException as AnyHTTPException
except ImportError as error:
    raise InputError(f"the service: pip install 'celsa_jax[http]' ({error})") from None

log = logging.getLogger(__name__)

_LARGEST_BODY = 4 << 20
_LARGEST_K = 1_000
_MOST_IDS = 10_000
ItemId = Annotated[str, Field(max_length=1_000)]


class Wish(BaseModel):
    """What a request may ask; see `Engine.recommend_ids`."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)  # ids may be numbers
    k: int = Field(10, ge=1, le=_LARGEST_K, strict=True)
    where: list[tuple[str, str, Any]] = Field([], max_length=20)


class Recommend(Wish):
    history: list[ItemId] = Field(max_length=_MOST_IDS)
    filter_seen: bool = True
    candidates: list[ItemId] | None = Field(None, max_length=_MOST_IDS)


class Similar(Wish):
    item_id: ItemId


def create_app(index: Engine | FileIndex) -> FastAPI:
    """The service: POST /recommend and /similar, GET /health; errors are {"error": one line}.

    Statuses are 400, 413 and 422 for a request that does not fit, 503 for a database out of reach.
    Bodies may have 4 MiB, histories 10,000 items, answers 1,000. There is neither authentication
    nor encryption: put a proxy before it.

    Example:
      >>> from celsa_jax.engines import open_index
      >>> app = create_app(open_index("postgresql://localhost/shop"))  # doctest: +SKIP
    """
    app = FastAPI(title="celsa_jax", docs_url=None, redoc_url=None)  # their pages load from a CDN
    app.add_middleware(_LimitedBodies)

    @app.post("/recommend")
    def recommend(wish: Recommend) -> dict:
        [found] = index.recommend_ids(
            [wish.history],
            wish.k,
            filter_seen=wish.filter_seen,
            candidates=wish.candidates,
            where=wish.where,
        )
        return _answer(found)

    @app.post("/similar")
    def similar(wish: Similar) -> dict:
        [found] = index.similar_ids([wish.item_id], wish.k, where=wish.where)
        return _answer(found)

    @app.get("/health")
    def health() -> dict:
        return {"status": "ok", "version": index.version}

    @app.exception_handler(EngineError)
    def out_of_reach(_: Request, error: EngineError) -> JSONResponse:
        log.error("%s", error)
        return _refusal(503, "the index does not answer")  # what it says may name the host

    @app.exception_handler(InputError)
    def bad_input(_: Request, error: InputError) -> JSONResponse:
        return _refusal(400, str(error))

    @app.exception_handler(AnyHTTPException)  # also of paths and methods that there are not
    def refused(_: Request, error: AnyHTTPException) -> JSONResponse:
        return _refusal(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return _refusal(422, f"body: not valid JSON at character {first['loc'][-1] + 1}")
        if first["loc"] == ("body",):
            return _refusal(422, "send a JSON object, with Content-Type: application/json")
        return _refusal(422, f"{'.'.join(map(str, first['loc'][:4]))}: {first['msg']}")

    return app


def _answer(found: Recommendation) -> dict:
    items = zip(found.item_ids.tolist(), found.scores.tolist(), strict=True)
    return {
        "items": [{"id": item, "score": score} for item, score in items],
        "unknown": found.unknown,
        "version": found.version,
    }


def _refusal(status: int, problem: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    text = one_line(problem).encode("utf-8", "backslashreplace").decode()
    return JSONResponse({"error": text}, status, headers)


class _LimitedBodies:
    """Refuses a body that is too large before it is held in memory."""

    def __init__(self, app: Callable):
        self.app = app

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        n_bytes = 0

        async def limited() -> dict:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > _LARGEST_BODY:
                raise HTTPException(413, f"a body has at most {_LARGEST_BODY} bytes")
            return message

        await self.app(scope, limited, send)
