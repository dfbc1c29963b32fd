"""MMDetection's tensor names (2.0 and later)."""

from __future__ import annotations

from rcnn.models import DetectorConfig
from rcnn.models.config import Norm, ResNetConfig
from rcnn.weights.systems.renaming import Rules
from rcnn.weights.systems.resnets import torch_blocks

ANY = "(?:bn|gn)"
# added by an EMA hook, which replaces dots by underscores
EMA = r"ema_.+"
OTHERS = (
    (
        r".*conv_offset|.*context_block|.*downsample\.2|backbone\.stem",
        "a backbone that is not a plain ResNet or ResNeXt",
    ),
)


def rules(trunk: str = ANY, fpn: str = ANY, box: str = ANY, mask: str = ANY, rpn_convs: int = 0) -> Rules:
    """MMDetection's names -> ours.

    The other direction needs the names of the norms and the number of RPN convolutions.
    """
    one = ((r"rpn_head\.rpn_conv\.(weight|bias)", "rpn.convs.0.{1}"),)
    several = ((r"rpn_head\.rpn_conv\.(\d+)\.conv\.(.+)", "rpn.convs.{1}.{2}"),)
    pairs = [
        (rf"backbone\.{trunk}1\.(.+)", "backbone.stem.conv1.norm.{1}"),
        (r"backbone\.conv1\.(weight)", "backbone.stem.conv1.{1}"),
        *torch_blocks(r"backbone\.layer(\d)\.(\d+)", "backbone.res{1+1}.{2}", trunk),
        *torch_blocks(r"roi_head\.shared_head\.layer(\d)\.(\d+)", "box_head.trunk.res{1+1}.{2}", trunk),
        (rf"neck\.lateral_convs\.(\d)\.{fpn}\.(.+)", "fpn.lateral{1+2}.norm.{2}"),
        (r"neck\.lateral_convs\.(\d)\.conv\.(.+)", "fpn.lateral{1+2}.{2}"),
        (rf"neck\.fpn_convs\.(\d)\.{fpn}\.(.+)", "fpn.output{1+2}.norm.{2}"),
        (r"neck\.fpn_convs\.(\d)\.conv\.(.+)", "fpn.output{1+2}.{2}"),
        *(one if rpn_convs == 1 else several if rpn_convs else (*one, *several)),
        (r"rpn_head\.rpn_cls\.(.+)", "rpn.objectness.{1}"),
        (r"rpn_head\.rpn_reg\.(.+)", "rpn.deltas.{1}"),
    ]
    for stage, ours, first in (("", "", 1), (r"(\d)\.", "stages.{1}.", 2)):  # one head, and the stages of a cascade
        a, b = f"{{{first}}}", f"{{{first + 1}}}"
        conv = f"{{{first}+1}}"
        head, our_head = rf"roi_head\.bbox_head\.{stage}", f"box_head.{ours}"
        pairs += [
            (rf"{head}fc_cls\.(.+)", f"{our_head}logits.{a}"),
            (rf"{head}fc_reg\.(.+)", f"{our_head}deltas.{a}"),
            (rf"{head}shared_fcs\.(\d+)\.(.+)", f"{our_head}trunk.fc{conv}.{b}"),
            (rf"{head}shared_convs\.(\d+)\.{box}\.(.+)", f"{our_head}trunk.conv{conv}.norm.{b}"),
            (rf"{head}shared_convs\.(\d+)\.conv\.(.+)", f"{our_head}trunk.conv{conv}.{b}"),
        ]
        head, our_head = rf"roi_head\.mask_head\.{stage}", f"mask_head.{ours}"
        pairs += [
            (rf"{head}convs\.(\d+)\.{mask}\.(.+)", f"{our_head}trunk.conv{conv}.norm.{b}"),
            (rf"{head}convs\.(\d+)\.conv\.(.+)", f"{our_head}trunk.conv{conv}.{b}"),
            (rf"{head}upsample\.(.+)", f"{our_head}deconv.{a}"),
            (rf"{head}conv_logits\.(.+)", f"{our_head}logits.{a}"),
        ]
    return Rules(tuple(pairs), skip=EMA, others=OTHERS)


def back(config: DetectorConfig) -> Rules:
    """Our names of a detector of `config` -> MMDetection's."""
    assert isinstance(config.backbone, ResNetConfig)
    mask = config.mask.norm if config.mask else "none"
    fpn = config.fpn.norm if config.fpn else "none"
    norms = [_norm(norm) for norm in (config.backbone.norm, fpn, config.box.norm, mask)]
    return rules(*norms, rpn_convs=config.rpn.convs).inverted()


def _norm(norm: Norm) -> str:
    return "gn" if norm == "gn" else "bn"
