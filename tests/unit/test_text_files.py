"""Encodings of text files, and YAML with aliases."""

from __future__ import annotations

import codecs
import time
from pathlib import Path

import pytest
import yaml

from rcnn.text_files import (
    NotUnicodeError,
    as_given,
    contains_key,
    lines_of,
    missing_text,
    read_json,
    read_text,
    yaml_value,
)
from rcnn.weights.systems.settings import plain_yaml

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(9 * [f'*{old}'])}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)  # 9 ** 9 values


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks_are_removed(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes("Äpfel\r\n\r\n cup \r".encode(encoding))
    assert lines_of(tmp_path / "classes.txt") == ["Äpfel", "cup"]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("Äpfel".encode("latin-1"), r"not a text file in UTF-8 \(byte 0xc4 at offset 0\); save it as UTF-8"),
        ("cup".encode("utf-16-le"), "UTF-16 without a byte order mark"),
        (codecs.BOM_UTF16_LE + b"a", "not a text file in UTF-16"),
        (codecs.BOM_UTF16_LE + b"a\0b", "not a text file in UTF-16"),
        (b"\x89PNG\r\n\x1a\n\0", r"not a text file: it is binary \(byte 0x89 at offset 0\)$"),
    ],
)
def test_other_encodings_are_refused(content: bytes, what: str, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(ValueError, match=f"classes.txt is .*{what}"):
        read_text(tmp_path / "classes.txt")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_is_read_in_each_encoding_of_unicode(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes('{"Äpfel": 1}'.encode(encoding))
    assert read_json(tmp_path / "a.json") == {"Äpfel": 1}
    assert contains_key((tmp_path / "a.json").read_bytes(), "Äpfel")
    assert not contains_key((tmp_path / "a.json").read_bytes(), "pfel")


def test_json_in_another_encoding_and_binary_files_are_refused(tmp_path: Path) -> None:
    for encoding in ("latin-1", "cp1252"):
        (tmp_path / "a.json").write_bytes('{"Äpfel": 1}'.encode(encoding))
        with pytest.raises(NotUnicodeError, match=r"a\.json is text in another encoding than UTF-8; save it as UTF-8$"):
            read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    with pytest.raises(ValueError, match=r"a\.json is not JSON: it is a binary file; it may be") as error:
        read_json(tmp_path / "a.json")
    assert not isinstance(error.value, NotUnicodeError)


def test_aliases_are_bounded() -> None:
    assert yaml_value("a: &a [1, 2]\nb: [*a, *a]") == {"a": [1, 2], "b": [[1, 2], [1, 2]]}
    start = time.process_time()
    with pytest.raises(yaml.YAMLError, match="expand to more than 1,000,000 values"):
        yaml_value(BOMB)
    with pytest.raises(yaml.YAMLError, match="refers to the list or mapping that contains it"):
        yaml_value("a: &a [*a]")
    with pytest.raises(yaml.YAMLError, match="more than 100 brackets are open"):  # at once, not after seconds
        yaml_value("[" * 5000)
    for nested in ("- " * 5000 + "1", "\n".join(" " * level + "a:" for level in range(700))):
        with pytest.raises(yaml.YAMLError, match="lists and mappings are nested too deeply; expected lists and mappi"):
            yaml_value(nested)
    comments = "# x in [0, 1)\n" * 101 + 'a: "' + "[" * 101 + '"'
    assert yaml_value(comments) == {"a": "[" * 101}, "brackets in comments and quotes are text"
    assert yaml_value("[[1], " * 90 + "2" + "]" * 90)[1][0] == [1]
    with pytest.raises(ValueError, match=r"settings.yaml is not plain YAML .*expand"):
        plain_yaml(BOMB, "settings.yaml")
    assert time.process_time() - start < 1


def test_why_a_file_is_missing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    assert missing_text(tmp_path / "a" / "b") == "does not exist"
    assert missing_text(tmp_path / "file" / "b") == f"does not exist: {tmp_path / 'file'} is a file, not a folder"
    assert missing_text(tmp_path / "loop").startswith("is a broken symbolic link")
    assert missing_text(tmp_path / "loop" / "b").startswith(f"does not exist: {tmp_path / 'loop'} is a broken symbolic")
    assert as_given(Path("https://x.y/a.pth")) == as_given("https://x.y/a.pth") == "https://x.y/a.pth"
    assert missing_text(Path("https://x.y/a.pth")).startswith("is a URL, and only images are read from URLs")
