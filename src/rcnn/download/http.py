"""Opens http and https URLs with urllib. Redirects to other schemes, or from https to http, are not followed.

Proxies come from HTTP_PROXY, HTTPS_PROXY and NO_PROXY.
"""

from __future__ import annotations

import errno
import http.client
import io
import queue
import re
import threading
import urllib.error
import urllib.request
from typing import IO
from urllib.parse import urlsplit

from typing_extensions import override

from rcnn.text_files import without_controls

TUNNEL = re.compile(r"Tunnel connection failed: (\d{3}) ?(.*)")  # http.client's error if a proxy refuses an https URL
TEMPORARY_STATUS = (408, 425, 429, 500, 502, 503, 504)  # HTTP status codes that are worth another attempt


class DownloadError(OSError):
    """A download that failed. The message says what was tried, what went wrong, and what to do."""


class RefusedError(Exception):
    """A permanent failure of a URL: do not retry it."""


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https URLs, but not from https to http."""

    @override
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """The request to follow; raises RefusedError for a URL that is not followed."""
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme == "http"):
            raise RefusedError(f"the server redirects to {newurl}, which is not followed; expected an https URL")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def http_opener() -> urllib.request.OpenerDirector:
    """An opener for http and https URLs only: urllib's handlers for file:, ftp: and data: URLs are not added."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def open_url(request: urllib.request.Request, timeout: float, limit: float) -> http.client.HTTPResponse:
    """Send `request` and read the headers of the response.

    `timeout` (seconds) limits each single read, so a server or proxy that sends its headers byte by byte never exceeds
    it; `limit` (seconds) limits the whole call. Raises TimeoutError, RefusedError for a redirect that is not followed,
    and the errors of urllib.
    """
    results: queue.SimpleQueue[http.client.HTTPResponse | Exception] = queue.SimpleQueue()

    def connect() -> None:
        try:
            results.put(http_opener().open(request, timeout=timeout))
        except Exception as error:
            results.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        found = results.get(timeout=limit)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(found, Exception):
        raise _status_of_tunnel(found, request.full_url) or found
    return found


def _status_of_tunnel(error: Exception, url: str) -> urllib.error.HTTPError | None:
    """The HTTP error with which a proxy refused to connect to an https `url`; None if `error` is another error."""
    refused = TUNNEL.search(str(error.reason)) if isinstance(error, urllib.error.URLError) else None
    if refused is None:
        return None
    return urllib.error.HTTPError(url, int(refused[1]), refused[2], http.client.HTTPMessage(), io.BytesIO())


def status_text(error: urllib.error.HTTPError) -> str:
    """The HTTP error of a server as part of a message."""
    if error.code in (404, 410):
        return f"the server has no such file (HTTP {error.code})"
    if error.code == 407:
        return (
            "the proxy requires a user name and password (HTTP 407): set HTTPS_PROXY and HTTP_PROXY to "
            "http://USER:PASSWORD@HOST:PORT"
        )
    if error.code in (401, 403):
        return f"the server or proxy denies access (HTTP {error.code})"
    reason = " ".join(without_controls(error.reason).split())  # the reason of a redirect loop has several lines
    return f"the server answered HTTP {error.code} ({reason[:150]})"


def failure_text(error: Exception) -> str:
    """The cause of a failure that may be temporary, as part of a message."""
    if isinstance(error, urllib.error.HTTPError):
        return status_text(error)
    if isinstance(error, urllib.error.URLError):
        cause = error.reason
        error = cause if isinstance(cause, Exception) else error
    if isinstance(error, TimeoutError):
        return str(error) if "bytes" in str(error) else "the server did not answer in time"
    if isinstance(error, http.client.HTTPException):
        return f"the response was truncated or damaged ({type(error).__name__})"
    if isinstance(error, OSError) and error.errno == errno.ECONNREFUSED:
        return "the connection was refused"
    return without_controls(error) or type(error).__name__
