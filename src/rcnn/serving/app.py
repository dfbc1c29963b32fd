"""The HTTP service: image in, detections out.

    app = create_app(Predictor("runs/balloons"), ServiceOptions())

A request is accepted or refused before its body is read. Then the body is read (up to a number of bytes) and decoded in
a thread (up to a number of pixels), and the image waits for the model in a queue of limited length (batching.py).
"""

from __future__ import annotations

import asyncio
import hmac
import io
import math
import re
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse
from fastapi.security import HTTPBearer
from starlette.requests import ClientDisconnect
from torch import Tensor

from rcnn import __version__
from rcnn.arguments import whole_number
from rcnn.data.image_inputs import as_image
from rcnn.data.images import ImageError, MissingHeifError
from rcnn.predictor import Predictor
from rcnn.preprocess import Frame
from rcnn.results import ImageDetections
from rcnn.runtime.compiled import CompiledDetector
from rcnn.runtime.exported import ExportedModel
from rcnn.serving.batching import Batcher, Busy, Closed
from rcnn.serving.metrics import CountRequests, Metrics
from rcnn.serving.thread_count import limit_threads
from rcnn.serving.wire import require_token, to_wire
from rcnn.threads import available_cores

RETRY_SECONDS = 1
LARGEST_JPEG = 65_500  # pixels per side (libjpeg's JPEG_MAX_DIMENSION)
SWITCH_SECONDS = 0.0002  # for which a thread keeps Python's lock while the thread of the model waits for it
EXAMPLE = {
    "width": 640, "height": 480, "model": "mask_rcnn_compact",
    "detections": [
        {"label": 0, "name": "balloon", "score": 0.98, "box": [12.5, 30.0, 118.2, 160.7],
         "mask": {"size": [480, 640], "counts": "..."}},
    ],
}  # fmt: skip
DETAIL = {"application/json": {"example": {"detail": "what is wrong"}}}  # the format of every error
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": DETAIL}
    for status, text in {
        400: "The body is not an image that can be decoded.",
        401: "The token is missing or wrong.",
        408: "The body took too long to arrive.",
        413: "The body has too many bytes.",
        415: "The body is a form; expected the bytes of the image.",
        422: "A parameter is unknown or has an invalid value.",
        500: "The service failed on this request; its log says why.",
        503: "Too many requests are waiting, or the service is stopping; try again after Retry-After seconds.",
        504: "The model took too long.",
    }.items()
}
EXPECTED = {"score": "expected a number from 0 to 1", "format": "expected json, arrays or picture"}  # of /predict
FORM = re.compile(rb"[a-z_][\w.\-\[\]]*=[^\s&=]+(&[a-z_][\w.\-\[\]]*=[^\s&=]*)*", re.IGNORECASE)  # name=value&...
IMAGE_BODY = {
    "requestBody": {
        "required": True,
        "description": "The bytes of an image file: JPEG, PNG, WebP, TIFF, BMP or GIF.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@dataclass(frozen=True, kw_only=True)
class ServiceOptions:
    """Limits of the service."""

    max_bytes: int = 20_000_000  # of a request
    max_pixels: int = 50_000_000  # of an image
    seconds: float = 30.0  # for a request, from its first byte to its answer
    max_batch: int = 4  # images per forward pass
    capacity: int = 32  # requests that are being read or decoded, or that wait for the model
    token: str = ""  # clients send "Authorization: Bearer TOKEN"; empty: no token
    origins: tuple[str, ...] = ()  # web pages that may call the service (CORS), e.g. https://example.org
    log_requests: bool = True  # one JSON line per request on stderr

    def __post_init__(self) -> None:
        """Raises ValueError for a limit below 1, a token that clients cannot send, and an infinite time."""
        require_token(self.token)
        for name in ("max_bytes", "max_pixels", "max_batch", "capacity"):
            whole_number(name, getattr(self, name), "a whole number from 1")
        if not math.isfinite(self.seconds):
            raise ValueError(f"{self.seconds} seconds for a request (--seconds): expected a finite number, e.g. 30")


def create_app(predictor: Predictor, options: ServiceOptions) -> FastAPI:
    """The service as an ASGI application."""
    service = Service(predictor, options)
    app = FastAPI(
        title="rcnn",
        version=__version__,
        description=f"Detections of {predictor.config.name}.",
        lifespan=service.lifespan,
        redoc_url=None,  # /docs is enough
    )
    if options.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(options.origins), allow_methods=["GET", "POST"],
            allow_headers=["Authorization"],
        )  # fmt: skip
    app.add_middleware(CountRequests, metrics=service.metrics, log=options.log_requests)
    app.exception_handler(RequestValidationError)(_wrong_values)
    app.exception_handler(Exception)(_failure)
    allowed = [Depends(service.require_token)]
    if options.token:  # for "Authorize" on /docs
        allowed += [Security(HTTPBearer(auto_error=False))]
    content: dict[str, dict[str, Any]] = {"application/json": {"example": EXAMPLE}, "image/jpeg": {}}
    responses: dict[int | str, dict[str, Any]] = {200: {"description": "The detections.", "content": content}, **ERRORS}
    checks = [*allowed, Depends(_require_image_request)]
    app.post("/predict", dependencies=checks, responses=responses, openapi_extra=IMAGE_BODY)(service.predict)
    app.get("/models", dependencies=allowed, responses={401: ERRORS[401]})(service.models)
    app.get(
        "/metrics", dependencies=allowed, responses={401: ERRORS[401]}, response_class=PlainTextResponse
    )(service.metrics_text)  # fmt: skip
    app.get("/", include_in_schema=False)(_to_docs)
    app.get("/health")(service.health)
    app.get("/ready", responses={503: ERRORS[503]})(service.ready)
    app.head("/health", include_in_schema=False)(service.health)  # load balancers ask with HEAD
    app.head("/ready", include_in_schema=False)(service.ready)
    return app


class Service:
    """The handlers of the requests, and their common state."""

    def __init__(self, predictor: Predictor, options: ServiceOptions) -> None:
        self.predictor, self.options = predictor, options
        self.metrics = Metrics(lambda: len(self.batcher) if self.is_ready else 0)
        self.is_ready = False
        self.admitted = 0  # requests that are being processed

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Warm up the model, serve, then finish the waiting images."""
        before = torch.get_num_threads(), sys.getswitchinterval()
        await asyncio.to_thread(self._warm_up)
        sys.setswitchinterval(SWITCH_SECONDS)
        # Images are decoded and drawn mostly in C, without Python's lock. Results become JSON in one thread: threads
        # that compete for the lock in many short steps need twice the time.
        cores = max(2, available_cores())
        self._images, self._pictures = ThreadPoolExecutor(cores), ThreadPoolExecutor(cores)
        self._answers = ThreadPoolExecutor(1)
        self.batcher = Batcher(
            self.predictor, max_batch=self.options.max_batch, capacity=self.options.capacity,
            on_batch=self.metrics.count_batch,
        )  # fmt: skip
        self.is_ready = True
        yield
        self.is_ready = False
        await asyncio.to_thread(self.batcher.close)
        torch.set_num_threads(before[0])
        sys.setswitchinterval(before[1])
        for pool in (self._images, self._pictures, self._answers):
            pool.shutdown(wait=False, cancel_futures=True)

    def _warm_up(self) -> None:
        """Run the model once, and on a CPU choose the number of its threads."""
        black = torch.zeros(3, 64, 64, dtype=torch.uint8)
        is_compiled = isinstance(self.predictor.runner, CompiledDetector)  # for one number of threads
        if self.predictor.device.type == "cpu" and not is_compiled and not self._has_own_threads():
            limit_threads(lambda: self.predictor.predict(black))
        else:
            self.predictor.predict(black)

    def _has_own_threads(self) -> bool:
        """Whether the model runs in onnxruntime or OpenVINO, whose threads were chosen when the file was opened."""
        runner = self.predictor.runner
        return isinstance(runner, ExportedModel) and runner.record.target != "torch"

    async def require_token(self, request: Request) -> None:
        """401 unless the request has the token."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        known = scheme.lower() == "bearer" and hmac.compare_digest(given.encode(), self.options.token.encode())
        if self.options.token and not known:
            raise HTTPException(401, "the token is missing or wrong", headers={"WWW-Authenticate": "Bearer"})

    async def predict(
        self,
        request: Request,
        score: float = Query(0.0, ge=0, le=1, description="Skip detections with a lower score."),
        format: Literal["json", "arrays", "picture"] = Query(
            "json", description="json: as in predictions.json; arrays: for rcnn.Client; picture: a JPEG."
        ),
    ) -> Response:
        """Find objects in an image. The body contains the bytes of the image file."""
        if self.admitted >= self.options.capacity:
            raise _unavailable("too many requests are being processed")
        self.admitted += 1
        try:
            async with asyncio.timeout(self.options.seconds):
                body = await self._body(request)
                run = asyncio.get_running_loop().run_in_executor
                content_type = request.headers.get("content-type", "")
                pixels, image, frame = await run(self._images, self._prepare, body, content_type, format)
                found = await self._detect(image, frame, score)
                threads = self._pictures if format == "picture" else self._answers
                return await run(threads, self._answer, found, score, format, pixels)
        except TimeoutError as error:
            raise HTTPException(504, f"no answer within {self.options.seconds:g} seconds") from error
        finally:
            self.admitted -= 1

    async def _body(self, request: Request) -> bytes:
        """The body; 413 if it is too large, 408 if it takes too long to arrive, 400 if it is empty or incomplete."""
        limit = self.options.max_bytes
        too_long = HTTPException(413, f"the body has more than {limit} bytes")
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > limit:
            raise too_long
        parts = bytearray()
        try:
            async with asyncio.timeout(self.options.seconds / 2):
                async for part in request.stream():
                    parts += part
                    if len(parts) > limit:
                        raise too_long
        except TimeoutError as error:
            raise HTTPException(408, "the body took too long to arrive") from error
        except ClientDisconnect as error:  # nobody reads the answer; it is counted and logged as a bad request
            raise HTTPException(400, "the connection was closed before the whole body arrived") from error
        if not parts:
            raise HTTPException(400, "the body is empty; expected the bytes of an image file")
        return bytes(parts)

    def _prepare(self, body: bytes, content_type: str, format: str) -> tuple[Tensor | None, Tensor, Frame]:
        """The image of `_decode` if a picture needs it, the same resized for the network, and its frame.

        400 for a picture that is larger than a JPEG can be.
        """
        pixels = self._decode(body, content_type)
        height, width = pixels.shape[1:]
        if format == "picture" and max(height, width) > LARGEST_JPEG:
            raise HTTPException(
                400,
                f"the image has {width} x {height} pixels, and format=picture is a JPEG of up to {LARGEST_JPEG:,} per "
                "side: ask for format=json",
            )
        return pixels if format == "picture" else None, *self.predictor.preprocessor(pixels)

    def _decode(self, body: bytes, content_type: str) -> Tensor:
        """The image (3, H, W) uint8 RGB; 400 for a body that is not an image, 415 for a form.

        curl and urllib send every body as "application/x-www-form-urlencoded", so this type alone does not mean a form.
        """
        try:
            return as_image(body, max_pixels=self.options.max_pixels)
        except MissingHeifError as error:
            raise HTTPException(400, "the body is a HEIC image; expected JPEG, PNG, WebP, TIFF, BMP or GIF") from error
        except ImageError as error:
            if content_type.startswith("application/x-www-form-urlencoded") and FORM.fullmatch(body):
                raise _form() from error
            raise HTTPException(400, error.problem) from error

    async def _detect(self, image: Tensor, frame: Frame, score: float) -> ImageDetections:
        """The detections, when the model has processed the image; 503 if the queue is full or closed.

        Those with a score below `score` may be left out.
        """
        try:
            return await asyncio.wrap_future(self.batcher.submit(image, frame, self.options.seconds, score))
        except Busy as error:
            raise _unavailable("too many images wait") from error
        except Closed as error:
            raise _unavailable("the service is stopping") from error

    def _answer(self, found: ImageDetections, score: float, format: str, pixels: Tensor | None) -> Response:
        """The answer in the format that the client asked for, without detections below `score`."""
        found = found.above(score)
        if format == "arrays":
            return JSONResponse(to_wire(found))
        if pixels is not None:
            file = io.BytesIO()
            found.draw(pixels).save(file, "JPEG", quality=90)
            return Response(file.getvalue(), media_type="image/jpeg")
        name = self.predictor.config.name
        return JSONResponse(
            {"width": found.width, "height": found.height, "model": name, "detections": found.to_json()}
        )

    async def models(self) -> dict[str, Any]:
        """The model of this service."""
        config = self.predictor.config
        entry = {
            "name": config.name, "classes": list(self.predictor.classes), "precision": self.predictor.precision,
            "min_size": config.input.min_size, "max_size": config.input.max_size, "masks": config.has_masks,
            "keypoints": [] if config.keypoint is None else list(config.keypoint.names),
        }  # fmt: skip
        return {"models": [entry]}

    async def metrics_text(self) -> Response:
        """Metrics in Prometheus' text format."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def health(self) -> dict[str, str]:
        """Status 200 while the process runs."""
        return {"status": "ok"}

    async def ready(self) -> dict[str, str]:
        """Status 200 once the model is loaded and has run; before that, connections wait, and at a stop they close."""
        if not self.is_ready:
            raise _unavailable("the model is not ready")
        return {"status": "ready"}


def _unavailable(reason: str) -> HTTPException:
    return HTTPException(503, reason, headers={"Retry-After": str(RETRY_SECONDS)})


async def _require_image_request(request: Request) -> None:
    """422 for query parameters that /predict does not have or that are given twice, 415 for a form with the image."""
    unknown = [name for name in request.query_params if name not in EXPECTED]
    if unknown:
        plural = "s" if len(unknown) > 1 else ""
        raise HTTPException(422, f"unknown parameter{plural} {', '.join(unknown)}; expected {' or '.join(EXPECTED)}")
    given = [name for name, _ in request.query_params.multi_items()]
    if twice := [name for name in EXPECTED if given.count(name) > 1]:
        raise HTTPException(422, f"{twice[0]} is given {given.count(twice[0])} times; expected once")
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise _form()


def _form() -> HTTPException:
    return HTTPException(
        415, "the body is a form; expected the bytes of the image file, e.g. curl --data-binary @photo.jpg"
    )


async def _wrong_values(request: Request, error: Exception) -> JSONResponse:
    """422 with a one-line message, e.g. "score=2: expected a number from 0 to 1"."""
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    texts = [f"{one['loc'][-1]}={one['input']}: {EXPECTED.get(one['loc'][-1], one['msg'])}" for one in problems]
    return JSONResponse({"detail": "; ".join(texts)}, 422)


async def _failure(request: Request, error: Exception) -> JSONResponse:
    """500 in the format of the other errors; uvicorn prints the traceback."""
    return JSONResponse({"detail": "the service failed on this request; its log says why"}, 500)


async def _to_docs() -> RedirectResponse:
    return RedirectResponse("docs")
