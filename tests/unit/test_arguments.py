"""Arguments of a wrong type are refused by every public function, in one sentence that names the argument."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import rcnn
from rcnn.arguments import ArgumentTypeError, as_path, as_text, as_texts

OPTIONAL = {"annotations", "images", "weights", "the data set|evaluate"}  # None is as good as nothing
WRONG: tuple[Any, ...] = (None, 5, 0.5, b"photos", {"train": "photos"}, [], ["photos"], object())
FIRST = {  # public name -> how the message calls its first argument
    "Predictor": "the model",
    "AugmentedPredictor": "the model",
    "best_scores": "the thresholds",
    "browse_dataset": "the data set",
    "build_detector": "the config",
    "check_dataset": "the data set",
    "convert": "the file to convert",
    "describe_dataset": "the data set",
    "download_weights": "the weights",
    "list_recipes": "the recipe",
    "list_runs": "the folder of the runs",
    "load": "the checkpoint",
    "load_checkpoint": "the checkpoint",
    "model_config": "the name of the model",
    "open_dataset": "the data set",
    "plan": "the model",
    "train": "the model",
    "list_weights": "the model",
    "benchmark": "the model",
    "Client": "the URL",
    "download_dataset": "the data set",
}


@pytest.mark.parametrize(
    ("function", "given", "message"),
    [
        (rcnn.train, {"devices": "2"}, "devices='2'; expected 1 or more processes"),
        (rcnn.train, {"max_restarts": "1"}, "max_restarts='1'; expected 0 or more"),
        (rcnn.train, {"trackers": None}, "trackers is None; expected a list of objects"),
        (rcnn.train, {"augment": 5}, "augment is 5; expected a list of steps"),
        (rcnn.plan, {"devices": None}, "devices=None; expected 1 or more processes"),
        (rcnn.evaluate, {"devices": 1.5}, "devices=1.5; expected 1 or more processes"),
    ],
)
def test_another_argument_of_a_wrong_type_is_refused(
    function: Callable[..., object], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentTypeError, match=f"^{re.escape(message)}"):
        function("mask_rcnn_compact", "data", **given)


def test_the_time_of_a_client_is_a_number() -> None:
    with pytest.raises(ArgumentTypeError, match=r"^timeout='5'; expected a number of seconds"):
        rcnn.Client("http://localhost:8000", timeout="5")  # type: ignore[arg-type]


def test_the_token_of_a_client_is_a_text_that_no_message_shows() -> None:
    token: Any = b"secret"
    with pytest.raises(ArgumentTypeError, match=r"^the token is of type bytes; expected a str$"):
        rcnn.Client("http://localhost:8000", token=token)


@pytest.mark.parametrize("name", FIRST)
def test_the_first_argument_of_a_wrong_type_is_refused(name: str) -> None:
    for value in WRONG:
        with pytest.raises(ArgumentTypeError, match=rf"got .* for {FIRST[name]}; expected "):
            getattr(rcnn, name)(value)


def _calls(folder: Path, value: Any) -> dict[str, Callable[[], object]]:
    data = folder / "data"
    return {
        "the model|evaluate": partial(rcnn.evaluate, value, data),
        "the data set|evaluate": partial(rcnn.evaluate, folder, value),
        "the data set|train": partial(rcnn.train, "mask_rcnn_compact", value),
        "the data set|fix": partial(rcnn.fix_dataset, value, folder / "new"),
        "the output folder|fix": partial(rcnn.fix_dataset, data, value),
        "the output folder|split": partial(rcnn.split_dataset, data, (0.8, 0.2), value),
        "the fractions|split": partial(rcnn.split_dataset, data, value, folder / "new"),
        "the first model|compare": partial(rcnn.compare, value, folder),
        "the second model|compare": partial(rcnn.compare, folder, value),
        "the model|export": partial(rcnn.export_model, value, folder / "model.pt2"),
        "the output file|export": partial(rcnn.export_model, folder, value),
        "the checkpoint|push": partial(rcnn.push_to_hub, value, "owner/name"),
        "the repository|push": partial(rcnn.push_to_hub, folder, value),
        "the output folder|save": partial(rcnn.save_checkpoint, value, {}, rcnn.model_config("mask_rcnn_compact")),
        "the predictor|tiles": partial(rcnn.predict_tiled, value, Image.new("RGB", (8, 8))),
        "the predictor|stages": partial(rcnn.draw_stages, value, value),
        "the video|write": partial(rcnn.write_video, value, [Image.new("RGB", (8, 8))], 5),
        "split|open": partial(rcnn.open_dataset, data, value),
        "split|evaluate": partial(rcnn.evaluate, folder, data, split=value),
        "split|train": partial(rcnn.train, "mask_rcnn_compact", data, split=value),
        "split|check": partial(rcnn.check_dataset, data, split=value),
        "annotations|open": partial(rcnn.open_dataset, data, annotations=value),
        "images|open": partial(rcnn.open_dataset, data, images=value),
        "weights|train": partial(rcnn.train, "mask_rcnn_compact", data, weights=value),
    }


@pytest.mark.parametrize("call", _calls(Path(), None))
def test_other_arguments_of_a_wrong_type_are_refused(tmp_path: Path, call: str) -> None:
    name = call.partition("|")[0]
    values = WRONG if name != "the fractions" else WRONG[:5]  # an empty list has the right type
    for value in values[1:] if OPTIONAL & {name, call} else values:
        with pytest.raises(ArgumentTypeError, match=rf"got .* for {name}; expected "):
            _calls(tmp_path, value)[call]()
    assert not any(tmp_path.iterdir())


def test_the_message_is_short_and_says_what_is_expected() -> None:
    with pytest.raises(TypeError, match=r"^got None for split; expected the name of a split, or several joined by \+"):
        rcnn.open_dataset("photos", None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^got \[1, 2, 3, 4, 5, 6, ...\] \(list\) for the data set; expected the fol"):
        rcnn.open_dataset([*range(1, 1000)])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got an empty text for the data set; expected the folder"):
        rcnn.open_dataset("")


def test_names_may_be_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rcnn.list_recipes(Path("tensorpack")) == rcnn.list_recipes("tensorpack")  # type: ignore[arg-type]
    model = "mask_rcnn_r50_fpn"
    assert rcnn.list_weights(Path(model)) == rcnn.list_weights(model)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no data set is called 'photos'; expected one of "):
        rcnn.download_dataset(Path("photos"), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="coco2017 has no split 'x'; expected one of "):
        rcnn.download_dataset(Path("coco2017"), tmp_path, split="x")  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match=r"got 5 \(int\) for split; expected "):
        rcnn.download_dataset("coco2017", tmp_path, split=5)  # type: ignore[arg-type]
    monkeypatch.setenv("RCNN_OFFLINE", "1")
    with pytest.raises(ValueError, match="owner/name cannot be written: RCNN_OFFLINE forbids"):
        rcnn.push_to_hub(tmp_path / "absent", Path("owner/name"))  # type: ignore[arg-type]


def test_paths_and_texts_are_accepted_in_every_form(tmp_path: Path) -> None:
    assert as_path(tmp_path, "it") == as_path(str(tmp_path), "it") == tmp_path
    assert as_text(Path("a/b"), "it") == "a/b"
    assert as_text("", "it") == ""
    assert as_texts("cat", "it") == ("cat",)
    assert as_texts({"cat": 1, "dog": 2}, "it") == ("cat", "dog")
