"""`rcnn predict video.mp4 --format`: the frames of videos in other formats, like images NAME/000012.jpg."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from PIL import Image

from rcnn.cli.formats import WITH_IMAGES, copy_image, files_of_image, names_of_outputs, write_tables
from rcnn.cli.predict_images import remove_stale_files
from rcnn.cli.sources import Source
from rcnn.data.video import VideoFrame
from rcnn.outputs import OutputFolder

if TYPE_CHECKING:
    from rcnn.predictor import Predictor
    from rcnn.results import ImageDetections

QUALITY = 95  # of the copies of frames, JPEG


def require_copies(formats: Sequence[str], *, copies: bool) -> None:
    """Raise ValueError if labels would be written without the frames, which are in no other file."""
    if not copies and any(name in WITH_IMAGES for name in formats):
        raise ValueError(
            "--no-copy-images cannot be used with videos, because their frames are not image files: leave it out"
        )


@dataclass(kw_only=True)
class FrameFormats:
    """The files of --format for all videos of a command."""

    folder: OutputFolder
    formats: tuple[str, ...]
    sources: list[Source] = field(default_factory=list)
    entries: list[dict[str, Any]] = field(default_factory=list)  # of the frames, like those of predictions.json

    def __post_init__(self) -> None:
        """Raises FileExistsError if a file that is written at the end belongs to the user."""
        self.folder.require_free(*names_of_outputs(self.formats, (), copies=True))

    def add(self, name: str, frame: VideoFrame, result: ImageDetections, entry: dict[str, Any]) -> None:
        """Write the files about a frame of the video whose picture is called `name`; `entry` is its line of .jsonl."""
        if not self.formats:
            return
        place = f"{PurePosixPath(name).stem}/{frame.index:06d}.jpg"
        source = Source(name=place, picture=place, flat=place.replace("/", "-"))
        for path, content in files_of_image(result, source, self.formats, self.folder.path, copies=True).items():
            with self.folder.writing(path) as file:
                file.write_bytes(content)
        copied = [one for one in self.formats if one in WITH_IMAGES]
        content = _jpeg(frame) if copied else b""
        for one in copied:
            copy_image(self.folder, one, source, content)
        self.sources.append(source)
        self.entries.append(entry | {"file": place})

    def finish(self, predictor: Predictor) -> None:
        """Write the files about all frames, and remove those of an earlier call on other videos."""
        if self.entries:
            keypoint = predictor.config.keypoint
            names = () if keypoint is None else keypoint.names
            write_tables(self.folder, self.formats, self.entries, predictor.classes, names, self.sources)
            remove_stale_files(self.folder, self.formats, self.sources, copies=True)


def _jpeg(frame: VideoFrame) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame.pixels.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
