"""Inputs of `rcnn predict`: files, folders and URLs, downloaded from a local server."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import pytest
from typing_extensions import override

from rcnn.cli.image_outcomes import ImageOptions, read_source
from rcnn.cli.scores import Filter
from rcnn.cli.sources import Source, Sources
from rcnn.cli.sources import expand as expand_into
from rcnn.data.images import ImageError
from rcnn.download.http import DownloadError
from rcnn.download.memory import download
from rcnn.outputs import OutputFolder
from rcnn.predictor import Predictor


class Server(BaseHTTPRequestHandler):
    """Answers /ok, /moved (to /ok), /ftp (to ftp://), /file (to file://), /large, /slow, ...; else 404."""

    def do_GET(self) -> None:
        """One answer."""
        moved = {"/moved": "/ok", "/ftp": "ftp://localhost/x.jpg", "/file": "file:///etc/hostname"}
        if self.path in moved:
            self.send_response(302)
            self.send_header("Location", moved[self.path])
            self.end_headers()
        elif self.path == "/busy":
            self.send_error(503, "Busy \x1b[31m")
        elif self.path == "/slow":
            time.sleep(1.5)
        elif self.path == "/dripping":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b"x")
                time.sleep(0.2)
        elif self.path in ("/huge", "/gzip"):
            self.send_response(200)
            self.send_header("Content-Length", "9" * 20 if self.path == "/huge" else "100")
            self.send_header("Content-Encoding", "identity" if self.path == "/huge" else "gzip")
            self.end_headers()
            self.wfile.write(b"x" * 100)
        elif self.path in ("/ok", "/large", "/short", "/endless", "/my%20photo%C3%A9.jpg?size=a%20b"):
            body = b"x" * (5000 if self.path == "/large" else 100)
            self.send_response(200)
            if self.path != "/endless":
                self.send_header("Content-Length", str(200 if self.path == "/short" else len(body)))
            self.end_headers()
            for _ in range(50 if self.path == "/endless" else 1):
                self.wfile.write(body)
        else:
            self.send_error(404)

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of the server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("path", ["/ok", "/moved", "/my photoé.jpg?size=a b#top", "/my%20photo%C3%A9.jpg?size=a%20b"])
def test_a_download(address: str, path: str) -> None:
    assert download(address + path) == b"x" * 100


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/nothing", r"no such file \(HTTP 404\); check the URL"),
        ("/busy", r"HTTP 503 \(Busy \\x1b\[31m\); try again later"),
        ("/ftp", r"the server redirects to ftp://.*, which is not followed; .*check the URL"),
        ("/file", r"HTTP 302 \(Found - Redirection to url 'file:.*' is not allowed\); check the URL"),
        ("/large", "larger than"),
        ("/endless", "larger than"),
        ("/huge", "larger than"),
        ("/gzip", r"the server sent it compressed \(gzip\), expected the file as it is"),
        ("/slow", r"no answer within 0\.5 seconds"),
        ("/short", "ended after 100 of 200 bytes"),
    ],
)
def test_a_failed_download_gives_the_reason(address: str, path: str, said: str) -> None:
    with pytest.raises(DownloadError, match=said):
        download(address + path, longest=4000, timeout=0.5 if path == "/slow" else 30)


def test_a_dripping_server_does_not_get_around_the_deadline(address: str) -> None:
    start = time.monotonic()
    with pytest.raises(DownloadError, match=r"took longer than 0\.5 seconds"):
        download(address + "/dripping", timeout=5, deadline=0.5)
    assert time.monotonic() - start < 10  # the server sends for 20 seconds


def test_a_server_that_sends_too_slowly_is_given_up(address: str) -> None:
    start = time.monotonic()
    with pytest.raises(DownloadError, match=r"only \d+ bytes within 0\.5 seconds"):
        download(address + "/dripping", timeout=0.5)
    assert time.monotonic() - start < 10  # the server sends for 20 seconds


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(DownloadError, match="check the URL and the network"):
        download("http://127.0.0.1:9/x.jpg", timeout=2)


def expand(words: list[str], output: Path) -> Sources:
    """The images of `words`, for an output folder."""
    with OutputFolder(output) as folder:
        return expand_into(words, folder)


def touch(*paths: Path) -> None:
    """Empty files."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_folders_are_searched_in_order_for_images(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    touch(folder / "b.JPG", folder / "a.png", folder / "notes.txt", folder / "deep" / "er" / "c.webp")
    touch(folder / ".hidden.jpg", folder / ".cache" / "d.jpg")
    with OutputFolder(folder / "out") as output:
        output.write_text("a.jpg", "a picture of an earlier call")
        output.write_text("deep/b.jpg", "another")
        touch(output.claim("pictures") / "1" / "step-2.jpg")  # a folder of a training run
    found = expand([str(folder)], folder / "out")
    sources, wrong = found.images, found.failed
    assert found.skipped == [str(folder / "notes.txt")]
    assert found.written == [str(folder / "out" / name) for name in ("a.jpg", "deep/b.jpg", "pictures/1/step-2.jpg")]
    assert [Path(source.name).relative_to(folder).as_posix() for source in sources] == [
        "a.png",
        "b.JPG",
        "deep/er/c.webp",
    ]
    assert [source.picture for source in sources] == ["a.jpg", "b.jpg", "deep/er/c.jpg"]
    assert not wrong


def test_a_pattern_names_images_at_any_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photos/b.jpg", "photos/a.jpg", "photos/c.txt", "photos/in/deep/d.jpg", "photos/.e.jpg", "f[1].jpg"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"x")
    with OutputFolder("photos/found") as output:
        output.write_text("g.jpg", "a picture of an earlier run")
    sources = expand(["photos/*", "photos/**/*.jpg", "f[1].jpg", "photos/*.gif"], tmp_path / "out")
    names = ["photos/a.jpg", "photos/b.jpg", "photos/a.jpg", "photos/b.jpg", "photos/in/deep/d.jpg", "f[1].jpg"]
    assert [source.name for source in sources.images] == names
    assert [source.picture for source in sources.images][2:5] == ["a-2.jpg", "b-2.jpg", "in/deep/d.jpg"]
    assert sources.skipped == ["photos/c.txt"]
    assert sources.failed == [("photos/*.gif", "matches no image")]


def test_no_two_pictures_have_one_name(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg", tmp_path / "a.png", tmp_path / "other" / "A.jpg")
    words = [str(tmp_path / "a.jpg"), str(tmp_path / "a.png"), str(tmp_path / "other"), "http://host/x/a.jpeg?size=2"]
    found = expand(words, tmp_path / "out")
    sources, wrong = found.images, found.failed
    assert not wrong
    assert [source.picture for source in sources] == ["a.jpg", "a-2.jpg", "A-3.jpg", "a-4.jpg"]
    assert [source.url for source in sources] == [False, False, False, True]


def test_a_link_in_the_way_of_a_picture_is_an_error_of_the_output(tmp_path: Path) -> None:
    touch(tmp_path / "photos" / "a.jpg", tmp_path / "photos" / "day1" / "b.jpg", tmp_path / "out" / "mine.txt")
    (tmp_path / "out" / "day1").symlink_to(tmp_path / "photos", target_is_directory=True)
    with pytest.raises(FileExistsError, match="day1 is a symbolic link, which rcnn does not follow: choose another"):
        expand([str(tmp_path / "photos")], tmp_path / "out")


def test_a_name_without_folders_has_room_for_the_suffix_of_a_label_file(tmp_path: Path) -> None:
    touch(tmp_path / "photos" / ("d" * 150) / ("e" * 120 + ".png"))
    [source] = expand([str(tmp_path / "photos")], tmp_path / "out").images
    assert len(source.flat) == 254
    assert source.flat.startswith("d" * 150 + "-eee")


def test_a_url_cannot_leave_the_output_folder(tmp_path: Path) -> None:
    sources = expand(["http://host/..%2F..%2Fetc%2Fpasswd.jpg", "http://host/", "https://host/.."], tmp_path).images
    for source in sources:
        assert (tmp_path / source.picture).resolve().parent == tmp_path.resolve(), source


def test_inputs_that_are_not_images_are_reported_and_the_rest_is_kept(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg", tmp_path / "empty" / "readme.md", tmp_path / "links" / "b.jpg")
    (tmp_path / "links" / "loop.jpg").symlink_to("loop.jpg")
    words = [
        str(tmp_path / "gone.jpg"),
        str(tmp_path / "empty"),
        "ftp://host/a.jpg",
        "file:///a.jpg",
        str(tmp_path / "a.jpg"),
        str(tmp_path / "links"),
    ]
    found = expand(words, tmp_path / "out")
    sources, wrong = found.images, found.failed
    # the link that leads to itself is reported when it is read
    names = [str(tmp_path / name) for name in ("a.jpg", "links/b.jpg", "links/loop.jpg")]
    assert [source.name for source in sources] == names
    reasons = dict(wrong)
    assert "does not exist" in reasons[words[0]]
    assert "no image" in reasons[words[1]]
    assert "http:// or https://" in reasons[words[2]]
    assert "http:// or https://" in reasons[words[3]]


def test_a_file_may_have_any_name(tmp_path: Path) -> None:
    touch(tmp_path / "photo")
    found = expand([str(tmp_path / "photo")], tmp_path / "out")
    sources, wrong = found.images, found.failed
    assert [source.picture for source in sources] == ["photo.jpg"]
    assert not wrong


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://[::1/a.jpg", "is not a URL"),
        ("http://host:99999/a.jpg", "is not a URL"),
        ("http:///a.jpg", "has no valid host name"),
        ("http://my host/a.jpg", "has no valid host name"),
    ],
)
def test_a_wrong_url_is_reported_before_any_download(tmp_path: Path, url: str, said: str) -> None:
    [(name, reason)] = expand([url], tmp_path / "out").failed
    assert name == url
    assert said in reason


def test_videos_in_folders_and_patterns_of_images_must_be_named(tmp_path: Path) -> None:
    touch(tmp_path / "videos" / "a.mp4")
    words = [str(tmp_path / "videos"), str(tmp_path / "videos" / "*.mp4")]
    for word, (name, reason) in zip(words, expand(words, tmp_path / "out").failed, strict=True):
        assert name == word
        video = tmp_path / "videos" / "a.mp4"
        advice = "give the path of each, or a pattern such as '*.mp4'"
        assert reason.endswith(f"no image; to predict on its videos ({video}), {advice}")


def test_a_pattern_of_images_that_rcnn_wrote_says_so(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "found") as folder:
        folder.write_text("a.jpg", "picture")
    word = str(tmp_path / "found" / "*.jpg")
    [(name, reason)] = expand([word], tmp_path / "out").failed
    assert name == word
    picture = tmp_path / "found" / "a.jpg"
    assert reason == (
        f"matches no image apart from those that rcnn wrote ({picture}); to predict on one of them, give its path"
    )


def test_patterns_do_not_go_round_a_loop_of_links(tmp_path: Path) -> None:
    touch(tmp_path / "photos" / "in" / "a.jpg", tmp_path / "photos" / "b.jpg")
    (tmp_path / "photos" / "in" / "up").symlink_to("..")
    photos = str(tmp_path / "photos")

    def found(pattern: str) -> list[str]:
        return [source.name.removeprefix(photos) for source in expand([photos + pattern], tmp_path / "out").images]

    assert found("/**/*.jpg") == ["/b.jpg", "/in/a.jpg"]
    assert found("/**") == found("")
    assert found("/*/*.jpg") == ["/in/a.jpg"]
    assert found("/*/up/*.jpg") == ["/in/up/b.jpg"]  # a link that the pattern names
    assert found("/**/in/*") == ["/in/a.jpg"]


def test_a_damaged_list_of_files_among_images_costs_only_its_damaged_lines(tmp_path: Path) -> None:
    """It is not the list of the output, which must be sound."""
    touch(tmp_path / "in" / "a.jpg", tmp_path / "in" / "drawn.jpg", tmp_path / "in" / "b.jpg")
    marker = tmp_path / "in" / ".rcnn-files"
    marker.write_text('{"file": "drawn.jpg", "sha256": "any"}\ndamaged\n')
    sources = expand([str(tmp_path / "in")], tmp_path / "out")
    assert [Path(source.name).name for source in sources.images] == ["a.jpg", "b.jpg"]
    assert sources.damaged == [f"{marker}:2"]
    with pytest.raises(FileExistsError, match=r"line 2, is not an entry.*choose another output \(--output\)"):
        expand([str(tmp_path / "in")], tmp_path / "in")


def test_each_list_of_files_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(*(tmp_path / "photos" / f"{number}.jpg" for number in range(9)))
    read: list[str] = []

    def files_of(folder: Path) -> tuple[set[str], list[int]]:
        read.append(str(folder))
        return {"3.jpg"}, []

    monkeypatch.setattr("rcnn.cli.sources.readable_entries", files_of)
    assert len(expand([str(tmp_path / "photos" / "*.jpg")], tmp_path / "out").images) == 8
    assert read == [str(tmp_path / "photos")]


def test_a_download_that_is_no_image_is_named_by_its_url(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://127.0.0.1/notes.txt"
    source = Source(name=url, picture="notes.jpg", url=True)

    def read(source: Source) -> bytes:
        return source.name.encode()

    monkeypatch.setattr(Source, "read", read)
    with pytest.raises(ImageError, match=f"^{re.escape(url)} is not an image that can be read: save it as JPEG"):
        read_source(cast("Predictor", None), ImageOptions(keep=Filter(score=0.5)), source)
