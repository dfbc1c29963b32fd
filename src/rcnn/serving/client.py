"""Predict with a model that runs in `rcnn serve`, on this or another machine.

client = Client("http://localhost:8000")
result = client.predict("photo.jpg")          # as Predictor.predict
"""

from __future__ import annotations

import io
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import replace
from functools import cache
from http.client import HTTPException, HTTPResponse, IncompleteRead
from pathlib import Path
from typing import Any, cast

from PIL import Image

from rcnn.arguments import as_text, real_number, shown
from rcnn.background import in_background
from rcnn.data.image_inputs import Channels, ImageInput, ImageSource, as_image, is_one_image, require_channels
from rcnn.data.images import MAX_PIXELS
from rcnn.data.messages import cut
from rcnn.prediction_arguments import require_score
from rcnn.results import ImageDetections
from rcnn.serving.wire import from_wire, require_token

EXAMPLE = "e.g. http://localhost:8000"
REDIRECTS = (301, 302, 303, 307, 308)
LONGEST_HOST = 253  # characters, of a name in DNS (RFC 1035, 2.3.4: 255 bytes as they are sent)
LONGEST = 1e8  # seconds, three years; sockets take up to 292 years in nanoseconds
MOST_BYTES = 2**30  # of an answer; 1,000 detections with masks of 56 x 56 have 17 MB
MOST_TEXT = 2**16  # bytes of the message of a refusal
BLOCK = 2**16


class Client:
    """A client of the service at `url`, e.g. http://localhost:8000; `token`: the service's token, if it has one."""

    def __init__(self, url: str, *, token: str = "", timeout: float | None = 60.0) -> None:
        """`timeout`: seconds to wait for the whole answer; None: without a limit.

        Raises ValueError if `url` is not an http(s) URL or no host can have its name, `token` is not printable ASCII,
        or `timeout` is not above 0.
        """
        url = as_text(url, "the URL", f"that of a service, {EXAMPLE}", path=False)
        if reason := _why_no_service(url):
            raise ValueError(f"{shown(url, 100)} is not the URL of a service: {reason}; expected {EXAMPLE}")
        require_token(token)
        expected = f"a number of seconds above 0, up to {LONGEST:g}, or None"
        if timeout is not None:
            timeout = real_number("timeout", timeout, expected, 0, LONGEST)
        if timeout == 0:  # the socket would not wait at all
            raise ValueError(f"timeout={timeout!r}; expected {expected}")
        self.url, self._token = url.rstrip("/"), token
        self.timeout = None if timeout is None else float(timeout)  # of a fraction or numpy's number

    def predict(self, image: ImageInput, *, score: float = 0.0, channels: Channels = "rgb") -> ImageDetections:
        """The detections of one image, as `rcnn.Predictor.predict` returns them; arguments as there. Not for lists.

        `score` is one number for all classes. Raises ValueError if the service refuses the image, ConnectionError if it
        cannot be reached or is busy.
        """
        query = urllib.parse.urlencode({"format": "arrays", "score": require_score(score)})
        content, source = _content(image, channels)
        answer = self._json(f"/predict?{query}", content)
        try:
            return replace(from_wire(answer), source=source)
        except ValueError as error:
            raise ValueError(f"{self.url}: {error}") from error

    def models(self) -> list[dict[str, Any]]:
        """The models of the service: name, classes, input size. Raises ConnectionError if it cannot be reached."""
        answer = self._json("/models")
        if not isinstance(answer, dict) or not isinstance(answer.get("models"), list):
            raise self._other_service()
        return answer["models"]

    def _json(self, path: str, body: bytes | None = None) -> Any:
        try:
            return json.loads(self._request(path, body))
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._other_service() from error

    def _other_service(self) -> ValueError:
        return ValueError(f"{self.url} did not answer like `rcnn serve`; expected the URL that it printed")

    def _request(self, path: str, body: bytes | None = None) -> bytes:
        headers = {"Content-Type": "application/octet-stream"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(self.url + path, data=body, headers=headers)
        try:
            if self.timeout is None:
                return _answer(request, None)
            # a socket's timeout limits each read, but not the whole of an answer that comes byte by byte
            return in_background(_answer, request, self.timeout).result(self.timeout)
        except Refusal as error:
            if error.code in REDIRECTS:
                place = urllib.parse.urljoin(request.full_url, error.location).partition("?")[0]
                raise ValueError(
                    f"{self.url} redirects to {shown(place.removesuffix(path.partition('?')[0]), 200)} ({error.code}). "
                    "rcnn.Client does not follow redirects, which could send the token to another host: if you trust "
                    "that address, give it to rcnn.Client"
                ) from error
            if error.code in (408, 502, 503, 504):
                raise ConnectionError(
                    f"{self.url} cannot answer at the moment ({error.code}): {error.reason}"
                ) from error
            if error.code >= 500:
                raise ConnectionError(f"{self.url} failed on this request ({error.code}): {error.reason}") from error
            hint = "; expected the URL that `rcnn serve` printed, without a path" if error.code == 404 else ""
            raise ValueError(f"{self.url} refused the request ({error.code}): {error.reason}{hint}") from error
        except MemoryError as error:  # more than MOST_BYTES, or than this machine has
            raise self._other_service() from error
        except IncompleteRead as error:
            whole = len(error.partial) + (error.expected or 0)
            of = f" of {whole}" if error.expected else ""
            raise ConnectionError(
                f"{self.url} closed the connection after {len(error.partial)}{of} bytes of its answer; try again, and "
                "look at the log of the service, or of a proxy in front of it"
            ) from error
        except (OSError, HTTPException) as error:
            if isinstance(error, HTTPException) and not isinstance(error, OSError):  # OSError too: no answer at all
                raise self._other_service() from error
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise ConnectionError(
                    f"{self.url} has not answered completely within {self.timeout:g} seconds: wait longer "
                    "(rcnn.Client(url, timeout=...)), or look at its load"
                ) from error
            if body and isinstance(reason, ConnectionResetError | BrokenPipeError):
                raise ConnectionError(
                    f"{self.url} closed the connection while {len(body)} bytes were sent: the image is larger than the "
                    "service accepts (--max-bytes), or the service is busy; send a smaller image, or try again"
                ) from error
            raise ConnectionError(f"{self.url} cannot be reached: {reason}. Is `rcnn serve` running?") from error


class Refusal(Exception):
    """An answer with a status that is no success."""

    def __init__(self, code: int, reason: str, location: str) -> None:
        """`reason`: the message of the service; `location`: of a redirect."""
        super().__init__(reason)
        self.code, self.reason, self.location = code, reason, location


def _answer(request: urllib.request.Request, timeout: float | None) -> bytes:
    """The content of the answer to `request`. `timeout`: seconds for each read, and about for all of them together.

    Raises Refusal for a status that is no success, MemoryError for more than MOST_BYTES, TimeoutError, IncompleteRead,
    and the other errors of urllib.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        with _opener().open(request, timeout=timeout) as response:
            content = _read(response, MOST_BYTES + 1, deadline)
    except urllib.error.HTTPError as error:
        with error:
            raise Refusal(error.code, _reason(error, deadline), error.headers.get("Location", "")) from error
    if len(content) > MOST_BYTES:
        raise MemoryError(f"the answer has more than {MOST_BYTES:,} bytes")
    return content


def _read(response: HTTPResponse, most: int, deadline: float | None) -> bytes:
    """The rest of an answer, or its first `most` bytes. Raises TimeoutError after `deadline`, as time.monotonic()."""
    content = bytearray()
    while len(content) < most and (block := response.read1(min(BLOCK, most - len(content)))):
        content += block
        if deadline is not None and time.monotonic() > deadline:
            raise TimeoutError
    if len(content) < most and response.length:  # read1 does not raise it
        raise IncompleteRead(bytes(content), response.length)
    return bytes(content)


@cache
def _opener() -> urllib.request.OpenerDirector:
    """As urllib's, but redirects are errors: urllib would ask the new host, with the token but without the image."""
    opener = urllib.request.OpenerDirector()
    for kind in (
        urllib.request.ProxyHandler, urllib.request.UnknownHandler, urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler, urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPErrorProcessor,
    ):  # fmt: skip
        opener.add_handler(kind())
    return opener


def _why_no_service(url: str) -> str:
    """Why no service can have the URL `url`; empty if one can. Nothing is looked up."""
    if any(letter.isspace() or not letter.isprintable() for letter in url):
        return "it contains a space or a control character"
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:  # brackets that are not of an IPv6 address, or a port that is no number up to 65535
        return str(error)
    if parts.scheme not in ("http", "https"):
        return "it does not begin with http:// or https://"
    if not host:
        return "it has no host"
    if "@" in parts.netloc:
        return "it has a user name"
    if parts.query or parts.fragment:
        return "it has a query or a fragment (? or #)"
    if port == 0:
        return "port 0 is none that a service listens on"
    try:
        too_long = len(host.encode("idna")) > LONGEST_HOST  # as the socket encodes it, which limits each part
    except UnicodeError:
        too_long = True
    if too_long:
        return f"no host is called {cut(host, 40)}: names have up to {LONGEST_HOST} characters, 1 to 63 between dots"
    return ""


def _content(image: ImageInput, channels: Channels) -> tuple[bytes, ImageSource]:
    """The bytes of an image file, unchanged, or of a PNG for an array; and the image to draw on.

    An open file can be read only once, so its pixels are kept.
    """
    require_channels(channels)
    if not is_one_image(image):
        raise ValueError(
            "Client.predict takes one image, got several; call it for each image, e.g. from several threads"
        )
    if isinstance(image, bytes):
        return image, ImageSource(image=image)
    if isinstance(image, str | Path):
        try:
            return Path(image).read_bytes(), ImageSource(image=image)
        except (OSError, ValueError):
            as_image(image)  # raises the same error as the predictor for this path
            raise
    pixels = as_image(image, channels=channels, max_pixels=MAX_PIXELS)
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "PNG", compress_level=1)
    return file.getvalue(), ImageSource(image=pixels)


def _reason(error: urllib.error.HTTPError, deadline: float | None) -> str:
    """The message of the service; the standard text of the status if its answer cannot be read completely."""
    try:
        text = _read(cast("HTTPResponse", error.fp), MOST_TEXT, deadline).decode("utf-8", errors="replace")
    except (OSError, HTTPException):
        return error.reason
    try:
        return str(json.loads(text)["detail"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return text[:200] or error.reason
