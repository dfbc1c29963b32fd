"""The facts about one published weight file, and the reader of the tables that contain them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

from rcnn.weights.systems.converted import Kind

MD5SUM = "md5sum"  # a digest that is published beside the file
EMPTY = "-"  # a cell without a value
COLUMNS = (
    "model", "tag", "file", "digest", "mib", "settings", "data", "box", "mask", "keypoints", "proposals"
)  # fmt: skip
HEAD = (
    "system",
    "licence",
    "seen",
)  # header lines of every table; `base` or `package` is also required, `kind` is optional


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file of weights that a framework published. AP is in percent, as published; None: not published."""

    model: str  # the model of `rcnn models list` with this network; for a backbone, the name of the network
    tag: str  # publisher and schedule, e.g. detectron2-3x
    system: str  # the framework, as `rcnn convert --list` names it
    url: str  # for a file in a package, only its name
    licence: str  # licence of the file
    seen: str  # public documents that contain these facts
    kind: Kind = "detector"
    # "sha256:" or "md5:" and the first digits of the digest; "md5sum": published at the URL with .md5sum appended;
    # empty: not published
    digest: str = ""
    mib: float = 0.0  # size of the file in MiB; 0: not published
    settings: str = ""  # settings of the framework, as `rcnn convert --config` takes them
    package: str = ""  # the Python package that contains the file, which then needs no download
    data: str = "COCO"  # data set of the training
    box: float | None = None
    mask: float | None = None
    keypoints: float | None = None
    proposals: float | None = None  # average recall of 1000 proposals per image

    @property
    def name(self) -> str:
        """The name that commands accept, e.g. `mask_rcnn_r50_fpn@torchvision`."""
        return f"{self.model}@{self.tag}"

    @property
    def file(self) -> str:
        """The name of the file."""
        return self.url.rpartition("/")[2]

    @property
    def source(self) -> str:
        """Where the file is published: its URL, or the Python package that contains it."""
        return f"the Python package {self.package}" if self.package else self.url

    @property
    def scores(self) -> tuple[float, ...]:
        """The published figures, for a comparison of files of the same model."""
        return tuple(score for score in (self.box, self.mask, self.keypoints, self.proposals) if score is not None)


def read_table(name: str) -> list[Entry]:
    """The entries of `tables/NAME.tsv`: lines `# key<tab>value`, a line with the columns, and one line per file."""
    text = (files("rcnn.weights.catalogue") / "tables" / f"{name}.tsv").read_text(encoding="utf-8")
    lines = text.splitlines()
    head = dict(line.removeprefix("# ").split("\t", 1) for line in lines if line.startswith("# "))
    columns, *rows = (tuple(line.split("\t")) for line in lines if not line.startswith("# "))
    if columns != COLUMNS or not set(HEAD) <= head.keys() or not head.keys() & {"base", "package"}:
        raise ValueError(
            f"tables/{name}.tsv: expected the columns {', '.join(COLUMNS)} and header lines for {', '.join(HEAD)} and "
            "base or package"
        )
    return [_entry(head, dict(zip(COLUMNS, row, strict=True))) for row in rows]


def _entry(head: dict[str, str], row: dict[str, str]) -> Entry:
    cells = {key: "" if value == EMPTY else value for key, value in row.items()}
    return Entry(
        model=cells["model"],
        tag=cells["tag"],
        system=head["system"],
        url=head.get("base", "") + cells["file"],
        licence=head["licence"],
        seen=head["seen"],
        kind="backbone" if head.get("kind") == "backbone" else "detector",
        digest=cells["digest"],
        mib=float(cells["mib"] or 0),
        settings=cells["settings"],
        package=head.get("package", ""),
        data=cells["data"],
        box=_number(cells["box"]),
        mask=_number(cells["mask"]),
        keypoints=_number(cells["keypoints"]),
        proposals=_number(cells["proposals"]),
    )


def _number(text: str) -> float | None:
    return float(text) if text else None
