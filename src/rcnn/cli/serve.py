"""`rcnn serve`: a model as an HTTP service."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from rcnn.cli.options import Allow, Device, Offline, Precision, PrecisionOption, settings_argument
from rcnn.cli.views import report_compilations

if TYPE_CHECKING:
    import uvicorn

LARGEST_PORT = 65535


def serve(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="Folder of a checkpoint or of a run, a name from `rcnn models weights`, or an exported file."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        settings_argument("Settings of the model, e.g. box.score_threshold=0.3."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0: all addresses of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on, 1 to 65535.")] = 8000,
    batch: Annotated[int, typer.Option(help="Maximum number of images per forward pass.", min=1, max=256)] = 4,
    queue: Annotated[
        int, typer.Option(help="Maximum number of requests in progress; others get status 503.", min=1)
    ] = 32,
    max_bytes: Annotated[int, typer.Option(help="Maximum size of a request in bytes.", min=1)] = 20_000_000,
    max_pixels: Annotated[int, typer.Option(help="Maximum number of pixels of an image.", min=1)] = 50_000_000,
    seconds: Annotated[float, typer.Option(help="Maximum time for a request in seconds.", min=0.1)] = 30.0,
    token: Annotated[
        str, typer.Option(envvar="RCNN_TOKEN", help="Clients must send this token (better: set RCNN_TOKEN).")
    ] = "",
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="Web page that may call the service (CORS), e.g. https://example.org."),
    ] = None,
    log_requests: Annotated[
        bool, typer.Option("--log-requests/--no-log-requests", help="One JSON line per request on stderr.")
    ] = True,
    precision: PrecisionOption = Precision.float32,
    compile: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the model with torch.compile: the first image of each shape waits for minutes, so use "
            "--batch 1. For GPUs; on CPUs it is slower.",
        ),
    ] = False,
    allow: Allow = None,
    device: Device = "auto",
    offline: Offline = False,
) -> None:
    """Serve a model over HTTP: POST an image to /predict, get its detections.

    Also: /models, /health, /ready, /metrics (Prometheus), /docs (OpenAPI).

    Example: rcnn serve runs/balloons --port 8000
    """
    if not 1 <= port <= LARGEST_PORT:
        raise ValueError(f"--port {port}: expected 1 to {LARGEST_PORT}")
    origins = tuple(map(parse_origin, allow_origin or ()))
    try:
        import uvicorn

        from rcnn.serving.app import ServiceOptions, create_app
        from rcnn.serving.log import LOGGING
    except ImportError as error:
        raise ImportError(f"`rcnn serve` needs {error.name}: pip install 'rcnn[web]'") from error
    from rcnn.predictor import Predictor
    from rcnn.serving.sockets import bind, listen, url_of

    options = ServiceOptions(
        max_bytes=max_bytes, max_pixels=max_pixels, seconds=seconds, max_batch=batch, capacity=queue,
        token=token, origins=origins, log_requests=log_requests,
    )  # fmt: skip
    sockets = bind(host, port)
    predictor = Predictor(
        checkpoint, device=device, precision=precision.value, overrides=overrides or (), allow=allow or (),
        padding="bucket" if compile else "exact", compile=compile,
    )  # fmt: skip
    report_compilations(predictor)
    config = uvicorn.Config(
        create_app(predictor, options), log_config=LOGGING, log_level="warning", access_log=False,
        timeout_graceful_shutdown=int(seconds) + 1, timeout_keep_alive=10,
    )  # fmt: skip
    listen(sockets, host, port)
    typer.echo(
        f"serving {predictor.config.name} at {url_of(host, port)} (process {os.getpid()}); Ctrl-C stops", err=True
    )
    server = uvicorn.Server(config)
    with stopping_on_hangup(server):
        server.run(sockets=sockets)
    if not server.started:  # uvicorn has printed the reason
        raise typer.Exit(2)


@contextmanager
def stopping_on_hangup(server: uvicorn.Server) -> Iterator[None]:
    """Within the block, SIGHUP (of a terminal that is closed) stops `server` as SIGTERM does: requests are finished.

    uvicorn itself handles SIGINT and SIGTERM only. At the end of the block, a SIGHUP that came goes to the handler
    before. No effect where it is ignored (nohup), or where there is none (Windows).
    """
    number = getattr(signal, "SIGHUP", None)
    if number is None or signal.getsignal(number) is signal.SIG_IGN:
        yield
        return
    received = list[int]()

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        server.should_exit = True

    before = signal.signal(number, stop)
    try:
        yield
    finally:
        signal.signal(number, before)
    if received:
        signal.raise_signal(number)


def parse_origin(text: str) -> str:
    """The origin of a web page as browsers send it, or "*". ValueError for another text, which no page would match."""
    text = text.lower()
    match = re.fullmatch(r"(https?)://[^/\s?#@]+?(:\d+)?", text)
    usual = {"http": ":80", "https": ":443"}  # browsers leave these ports out
    if text != "*" and (match is None or match[2] == usual[match[1]]):
        raise ValueError(
            f"--allow-origin {text}: expected scheme, host and port alone, e.g. https://example.org or "
            "http://localhost:3000 (without :80 and :443), or * for all pages"
        )
    return text
