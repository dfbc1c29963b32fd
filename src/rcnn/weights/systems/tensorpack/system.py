"""tensorpack's checkpoints (`.npz`): Faster, Mask and Cascade R-CNN on C4 and FPN; frozen, synchronized or group norm.

Kernels are (height, width, in, out), deconvolutions (height, width, out, in), fully connected layers (in, out) over
maps in our order. Background is the first class, with a box that nothing uses. Images are BGR. The names
show the network; everything else is in the settings.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rcnn.models import DetectorConfig
from rcnn.models.config import ResNetConfig
from rcnn.weights.readers.state_dict import Found
from rcnn.weights.systems.classes import class_names, given_names
from rcnn.weights.systems.converted import Assumption
from rcnn.weights.systems.layout import background_last, kernel_from_hwio
from rcnn.weights.systems.renaming import Rules
from rcnn.weights.systems.settings import SettingsSource, typed_settings
from rcnn.weights.systems.system import Export, Plan, System, all_of
from rcnn.weights.systems.tensorpack.config import config_of
from rcnn.weights.systems.tensorpack.export import as_bgr, settings_of, to_tensorpack
from rcnn.weights.systems.tensorpack.settings import TRAINING, Settings

VALUES = {
    "W": "weight", "b": "bias",
    "bn/gamma": "norm.weight", "bn/beta": "norm.bias",
    "bn/mean/EMA": "norm.running_mean", "bn/variance/EMA": "norm.running_var",
    "gn/gamma": "norm.weight", "gn/beta": "norm.bias",
    "gamma": "weight", "beta": "bias",
}  # fmt: skip
VALUE = f"({'|'.join(VALUES)})(?::0)?"
STAGE = r"cascade_rcnn_stage(\d)"
RULES = Rules(
    (
        (rf"conv0/{VALUE}", "backbone.stem.conv1.{1:value}"),
        (rf"group(\d)/block(\d+)/conv([123])/{VALUE}", "backbone.res{1+2}.{2}.conv{3}.{4:value}"),
        (rf"group(\d)/block(\d+)/convshortcut/{VALUE}", "backbone.res{1+2}.{2}.shortcut.{3:value}"),
        (rf"fpn/lateral_1x1_c(\d)/{VALUE}", "fpn.lateral{1}.{2:value}"),
        (rf"fpn/posthoc_3x3_p(\d)/{VALUE}", "fpn.output{1}.{2:value}"),
        (rf"fpn/gn_c(\d)/{VALUE}", "fpn.lateral{1}.norm.{2:value}"),
        (rf"fpn/gn_p(\d)/{VALUE}", "fpn.output{1}.norm.{2:value}"),
        (rf"rpn/conv0/{VALUE}", "rpn.convs.0.{1:value}"),
        (rf"rpn/class/{VALUE}", "rpn.objectness.{1:value}"),
        (rf"rpn/box/{VALUE}", "rpn.deltas.{1:value}"),
        (rf"fastrcnn/fc6?/{VALUE}", "box_head.trunk.fc1.{1:value}"),
        (rf"fastrcnn/fc7/{VALUE}", "box_head.trunk.fc2.{1:value}"),
        (rf"fastrcnn/conv(\d)/{VALUE}", "box_head.trunk.conv{1+1}.{2:value}"),
        (rf"fastrcnn/gn(\d)/{VALUE}", "box_head.trunk.conv{1+1}.norm.{2:value}"),
        (rf"fastrcnn(?:/outputs)?/(class|box)/{VALUE}", "box_head.{1:output}.{2:value}"),
        (rf"{STAGE}/head/fc6?/{VALUE}", "box_head.stages.{1-1}.trunk.fc1.{2:value}"),
        (rf"{STAGE}/head/fc7/{VALUE}", "box_head.stages.{1-1}.trunk.fc2.{2:value}"),
        (rf"{STAGE}/head/conv(\d)/{VALUE}", "box_head.stages.{1-1}.trunk.conv{2+1}.{3:value}"),
        (rf"{STAGE}/head/gn(\d)/{VALUE}", "box_head.stages.{1-1}.trunk.conv{2+1}.norm.{3:value}"),
        (rf"{STAGE}/outputs/(class|box)/{VALUE}", "box_head.stages.{1-1}.{2:output}.{3:value}"),
        (rf"maskrcnn/fcn(\d)/{VALUE}", "mask_head.trunk.conv{1+1}.{2:value}"),
        (rf"maskrcnn/gn(\d)/{VALUE}", "mask_head.trunk.conv{1+1}.norm.{2:value}"),
        (rf"maskrcnn/deconv/{VALUE}", "mask_head.deconv.{1:value}"),
        (rf"maskrcnn/conv/{VALUE}", "mask_head.logits.{1:value}"),
    ),
    # the state of the training, and the ImageNet classifier
    skip=r"(?:learning_rate|global_step|apply_gradients.*|EMA/.*|(?:.*/)?(?:Momentum|AccumGrad[^/]*)(?:_\d+)?(?:/.*)?"
    r"|AccumGrad.*|beta[12]_power|linear/(?:W|b))(?::0)?",
    words={"value": VALUES, "output": {"class": "logits", "box": "deltas"}},
)
DEFAULT = "tensorpack's default"
# settings that the tensors do not show, by tensorpack's key
ASSUMED = {
    "BACKBONE.STRIDE_1X1": Assumption("stride of the blocks", DEFAULT, ("backbone.stride_in_1x1",)),
    "BACKBONE.TF_PAD_MODE": Assumption("padding", DEFAULT, ("backbone.padding",)),
    "PREPROC.PIXEL_MEAN": Assumption("pixel mean", DEFAULT, ("input.pixel_mean",)),
    "PREPROC.PIXEL_STD": Assumption("pixel deviation", DEFAULT, ("input.pixel_std",)),
    "PREPROC.TEST_SHORT_EDGE_SIZE": Assumption("image size", DEFAULT, ("input.min_size",)),
    "PREPROC.MAX_SIZE": Assumption("image size", DEFAULT, ("input.max_size",)),
    "RPN.ANCHOR_SIZES": Assumption("anchors", DEFAULT, ("rpn.anchors.sizes",)),
    "FPN.PROPOSAL_MODE": Assumption("proposals per level or over all levels", DEFAULT, ("rpn.legacy.joint_levels",)),
    "TEST.RESULT_SCORE_THRESH": Assumption("detections", DEFAULT, ("box.score_threshold",)),
    "DATA.CLASS_NAMES": Assumption("class names: COCO's for 80 classes", DEFAULT, ()),
}


def in_our_layout(name: str, value: Tensor, config: DetectorConfig | None = None) -> Tensor:
    """A tensor of tensorpack in our layout; tensorpack's masks have no background."""
    value = kernel_from_hwio(value.float())
    return value if name.startswith("mask_head.") else background_last(name, value)


def read(found: Found, settings: SettingsSource) -> Plan:
    """The network of a tensorpack file; `settings` are KEY=VALUE text or a file of it; None: its defaults."""
    theirs = typed_settings(Settings, settings)
    placed = RULES.place(found.state, found.source, SYSTEM.name)
    shapes = {name.removesuffix(":0"): found.shape(name) for name in found.state}
    config = config_of(shapes, theirs, found.source)
    names, unused = given_names(theirs.values.data_class_names, config.num_classes, "DATA.CLASS_NAMES")
    return Plan(
        config=config,
        placed=placed if config.fpn is not None else placed.with_res5_in_the_head(),
        tensor=in_our_layout,
        complete=_complete,
        classes=class_names(config.num_classes, names),
        assumed=tuple(assumption for key, assumption in ASSUMED.items() if key not in theirs.given),
        notes=(*theirs.notes(TRAINING), *unused),
    )


def _complete(state: dict[str, Tensor], config: DetectorConfig) -> dict[str, Tensor]:
    """`state` with tensors that only our network has: step counters of SyncBN, and biases of layers without a norm."""
    assert isinstance(config.backbone, ResNetConfig)
    trunk = [name for name in state if name.startswith("backbone.") or ".res5." in name]
    if config.backbone.norm == "none":
        kernels = [name for name in trunk if name.endswith(".weight")]
        state |= {f"{name.removesuffix('weight')}bias": torch.zeros(len(state[name])) for name in kernels}
    if config.backbone.norm == "sync_bn":
        means = [name for name in trunk if name.endswith("running_mean")]
        state |= {name.replace("running_mean", "num_batches_tracked"): torch.tensor(0) for name in means}
    return state


SYSTEM = System(
    name="tensorpack",
    files=".npz",
    settings="its settings, KEY=VALUE or a file of them",
    recognises=all_of("conv0/W(:0)?", "rpn/class/W(:0)?"),
    read=read,
    export=Export(
        option="tensorpack",
        suffixes=(".npz",),
        state=to_tensorpack,
        content=lambda state, classes: state,
        settings=settings_of,
        settings_suffix=".txt",
        prepare=as_bgr,
    ),
)
