"""The endpoint: its paths and their schema."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import time
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response

from rayonale.serve import kept
from rayonale.serve.boundary import Boundary, Noted
from rayonale.serve.chat import Completions
from rayonale.serve.errors import ApiError, of_validation
from rayonale.serve.judging import Judge
from rayonale.serve.kept import Keeper
from rayonale.serve.metrics import Metrics
from rayonale.serve.protocol import (
    ChatRequest,
    CompletionRequest,
    JudgeRequest,
    PickRequest,
    PoolingRequest,
    RemoteRewardRequest,
    RewardRequest,
    ScoreRequest,
)
from rayonale.serve.routing import Router
from rayonale.serve.scoring import Rewards
from rayonale.serve.settings import ServedOracle, Service

Body = dict[str, Any]


async def _noted(request: Request) -> Noted:  # a plain function would be run by another thread
    return request.state.noted  # type: ignore[no-any-return]


Note = Annotated[Noted, Depends(_noted)]


def build(service: Service, router: Router, keeper: Keeper | None) -> FastAPI:
    """The ASGI application of one deployment file's `args`.

    Args:
        router: to the deployments.
        keeper: of sampled requests.
    """
    app = FastAPI(title="rayonale", version="1", docs_url=None, redoc_url=None)
    metrics = Metrics()
    _errors(app)
    _models(app, router)
    if service.policies:
        _completions(app, Completions(router, service.limits, metrics, keeper))
        _judge(app, Judge(router, service.limits))
        _page(app, service.picks)
    if router.has_oracle:
        rendered = isinstance(service.oracle, ServedOracle) and service.oracle.rendered_text
        _rewards(app, Rewards(router, service.limits, metrics, rendered))
    app.add_middleware(Boundary, access=service.access, limits=service.limits, metrics=metrics)
    return app


def _errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        request.state.noted.code = error.code
        headers = {"retry-after": "1"} if error.status in (429, 503) else None
        return JSONResponse(error.body(), error.status, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return await refused(request, of_validation(error.errors()))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        codes = {404: "not_found", 405: "method_not_allowed"}
        code = codes.get(error.status_code, "invalid_request")
        return await refused(request, ApiError(error.status_code, code, str(error.detail)))


def _models(app: FastAPI, router: Router) -> None:
    @app.get("/health")
    async def health() -> Body:
        """Whether this process answers."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> Body:
        """Whether every model answers; 503 while one does not."""
        try:
            async with asyncio.timeout(5):
                await router.about()
        except TimeoutError:
            raise ApiError(503, "not_ready", "a model is not there yet") from None
        return {"status": "ready"}

    @app.get("/v1/models")
    async def models() -> Body:
        """What can be asked, and which version of it is served."""
        found = await router.about()
        data = [
            {
                "id": name,
                "object": "model",
                "created": int(time.time()),
                "owned_by": "rayonale",
                "kind": "policy" if name in router.routes else "oracle",
                "version": about.model.version,
                "fingerprint": about.model.fingerprint,
                "max_model_len": about.max_model_len,
                "goals": about.goals,
                "judges": router.judges(name),
                "held_back": about.held_back,
            }
            for name, about in found.items()
        ]
        return {"object": "list", "data": data}

    @app.get("/v1/models/{model}")
    async def model(model: str) -> Body:
        """One of them."""
        for each in (await models())["data"]:
            if each["id"] == model:
                return dict(each)
        raise ApiError(404, "model_not_found", "no model of that name", "model")


def _completions(app: FastAPI, completions: Completions) -> None:
    @app.post("/v1/chat/completions", response_model=None)
    async def chat(request: ChatRequest, noted: Note) -> Response:
        """Answers to a conversation."""
        return await completions(request, noted)

    @app.post("/v1/completions", response_model=None)
    async def complete(request: CompletionRequest, noted: Note) -> Response:
        """Text that goes on from a text."""
        return await completions(request, noted)


def _judge(app: FastAPI, judge: Judge) -> None:
    @app.post("/v1/judge")
    async def judged(request: JudgeRequest, noted: Note) -> Body:
        """Rationale and verdict on a response, or on two."""
        return await judge(request, noted)


def _rewards(app: FastAPI, rewards: Rewards) -> None:
    @app.post("/v1/rewards")
    async def of_conversations(request: RewardRequest, noted: Note) -> Body:
        """Rewards of conversations."""
        return await rewards.rewards(request, noted)

    @app.post("/score")
    @app.post("/v1/score")
    async def score(request: ScoreRequest, noted: Note) -> Body:
        """vLLM's layout: scores of responses to a prompt."""
        return await rewards.score(request, noted)

    @app.post("/pooling")
    async def pooling(request: PoolingRequest, noted: Note) -> Body:
        """vLLM's layout: a value a conversation."""
        return await rewards.pooling(request, noted)

    @app.post("/classify")
    async def classify(request: PoolingRequest, noted: Note) -> Body:
        """vLLM's layout of a classifier with one label."""
        return await rewards.classify(request, noted)

    @app.post("/get_reward")
    async def remote(request: RemoteRewardRequest, noted: Note) -> Body:
        """OpenRLHF's remote reward model."""
        return await rewards.remote(request, noted)


def _page(app: FastAPI, picks: str | None) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        text, policy = _page_text()
        return HTMLResponse(text, headers={"content-security-policy": policy})

    @app.post("/v1/preferences")
    async def prefer(pick: PickRequest, noted: Note) -> Body:
        """Keep which of two answers is better, as a preference pair."""
        if picks is None:
            raise ApiError(404, "no_picks", "this service keeps no picks (setting `picks`)")
        row = kept.picked_row(pick, noted.key or "loopback")
        await asyncio.to_thread(kept.write_pick, picks, row)
        return {"object": "preference", "id": row["id"]}


@lru_cache(maxsize=1)
def _page_text() -> tuple[str, str]:
    """The page and its content security policy: its own script and style, and nothing else."""
    text = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")

    def allowed(tag: str) -> str:
        inner = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert inner is not None
        digest = hashlib.sha256(inner[1].encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode()}'"

    return text, (
        f"default-src 'none'; script-src {allowed('script')}; style-src {allowed('style')}; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
