"""The variants of the region proposal network, each against a loop over anchors or the paper."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rcnn.models.box_rules import HALF_OPEN, BoxRules
from rcnn.models.build import FeatureMaps, build_rpn
from rcnn.models.config import RPN_SAMPLING, AnchorConfig, ProposalConfig, RPNConfig
from rcnn.models.legacy.boxes import build_box_rules
from rcnn.models.overrides import override
from rcnn.models.rpn import RPN
from rcnn.ops.boxes import box_iou
from rcnn.ops.deltas import MAX_LOG_SCALE, decode_deltas, encode_deltas
from rcnn.structures import Proposals, Targets
from tests.compiled import BACKWARD, FORWARD
from tests.narrow import present
from tests.unit import legacy_formulas as legacy
from tests.unit.random_batches import images_of

SIZES = torch.tensor([[64, 80], [50, 61]])
STRIDES = {"p3": 8, "p4": 16}
SEED = torch.tensor(4)
BASE = RPNConfig(
    anchors=AnchorConfig(sizes=((16,), (32,))),
    proposals=ProposalConfig(pre_nms=40, pre_nms_train=40, post_nms=15, post_nms_train=15),
    sampling=replace(RPN_SAMPLING, batch_size=64),
)
ONES = (1.0, 1.0, 1.0, 1.0)


def rpn(*settings: str, rules: BoxRules | None = None, strides: dict[str, int] | None = None) -> RPN:
    """A small RPN with outputs far from zero."""
    torch.manual_seed(0)
    strides = strides or STRIDES
    maps = FeatureMaps(rpn_strides=strides, pooled_strides={}, channels=6)
    network = build_rpn(override(BASE, settings), maps, rules or HALF_OPEN)
    for layer in (network.objectness, network.deltas):
        torch.nn.init.normal_(layer.weight, std=0.3)
        torch.nn.init.normal_(present(layer.bias), std=0.3)
    return network.eval()


def maps(strides: dict[str, int] | None = None, height: int = 64, width: int = 80) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(2, 6, -(-height // stride), -(-width // stride), generator=generator)
        for name, stride in (strides or STRIDES).items()
    }


def some_targets(crowds: Tensor | None = None) -> Targets:
    boxes = torch.tensor(
        [[[10.0, 12, 40, 40], [50, 5, 75, 60], [0, 0, 0, 0]], [[5, 5, 21, 20], [0, 0, 0, 0], [0, 0, 0, 0]]]
    )
    valid = torch.tensor([[True, True, False], [True, False, False]])
    return Targets(boxes=boxes, labels=torch.zeros(2, 3).long(), valid=valid, crowds=crowds)


def assert_same_proposals(a: Proposals, b: Proposals) -> None:
    assert a.valid.any()
    assert torch.equal(a.valid, b.valid)
    torch.testing.assert_close(a.boxes, b.boxes)


def test_the_hidden_layers_may_have_another_width() -> None:
    network = rpn("width=10", "convs=2")
    assert [tuple(network.get_parameter(f"convs.{place}.weight").shape[:2]) for place in (0, 1)] == [(10, 6), (10, 10)]
    assert network.objectness.weight.shape[:2] == (3, 10)
    assert network.predict(maps(), images_of(SIZES)).valid.any()


def as_softmax(network: RPN) -> RPN:
    """The same network with two logits per anchor; their difference is the original logit."""
    twin = rpn("legacy.objectness=softmax")
    shift = torch.randn_like(network.objectness.weight)
    with torch.no_grad():
        twin.convs.load_state_dict(network.convs.state_dict())
        twin.deltas.load_state_dict(network.deltas.state_dict())
        twin.objectness.weight[0::2], twin.objectness.weight[1::2] = shift, network.objectness.weight + shift
        bias = present(twin.objectness.bias)
        bias[0::2], bias[1::2] = 0.3, present(network.objectness.bias) + 0.3
    return twin


def test_softmax_of_two_logits_is_the_sigmoid_of_their_difference() -> None:
    one = rpn()
    two = as_softmax(one)
    features = maps()
    assert_same_proposals(two.predict(features, images_of(SIZES)), one.predict(features, images_of(SIZES)))
    _, expected = one.losses(features, images_of(SIZES), some_targets(), SEED)
    _, found = two.losses(features, images_of(SIZES), some_targets(), SEED)
    torch.testing.assert_close(found, expected)


def test_softmax_loss_is_the_cross_entropy_of_background_and_object() -> None:
    network = rpn(
        "legacy.objectness=softmax",
        "legacy.normalizer=sampled",
        "sampling.batch_size=10000",
        "sampling.positive_fraction=0.5",
    )
    features, targets = maps(), some_targets()
    _, losses = network.losses(features, images_of(SIZES), targets, SEED)
    total, count = 0.0, 0
    labels = network.label(torch.cat([level.anchors for level in network.head(features)]), images_of(SIZES), targets)[1]
    pairs = [
        network.objectness(network.convs(features[name])).permute(0, 2, 3, 1).reshape(2, -1, 2) for name in STRIDES
    ]
    for image in range(2):
        for pair, label in zip(torch.cat(pairs, 1)[image], labels[image], strict=True):
            if label >= 0:
                total += F.cross_entropy(pair, label).item()
                count += 1
    assert {-1, 0, 1} <= set(labels.flatten().tolist())
    np.testing.assert_allclose(losses["rpn_objectness"].item(), total / count, rtol=1e-5)


def test_proposals_may_be_ranked_by_the_objects_own_logit() -> None:
    network = rpn("legacy.objectness=object_logit", "proposals.nms_iou=1.0")
    features = maps()
    proposals = network.predict(features, images_of(SIZES))
    logits = [network.objectness(network.convs(features[n])).permute(0, 2, 3, 1).reshape(2, -1, 2) for n in STRIDES]
    expected = torch.cat([logit[..., 1].topk(40 if logit.shape[1] > 40 else logit.shape[1])[0] for logit in logits], 1)
    for image in range(2):
        found = proposals.objectness[image][proposals.valid[image]]
        assert set(found.tolist()) <= set(expected[image].tolist())
    plain = rpn("legacy.objectness=softmax", "proposals.nms_iou=1.0").predict(features, images_of(SIZES))
    assert not torch.equal(plain.boxes, proposals.boxes)


def test_anchors_may_be_offset_by_half_a_stride() -> None:
    [plain, shifted] = [network.head(maps()) for network in (rpn(), rpn("anchors.offset=0.5"))]
    for level, other, stride in zip(plain, shifted, STRIDES.values(), strict=True):
        torch.testing.assert_close(other.anchors, level.anchors + stride / 2)


def label_slowly(
    anchors: Tensor, boxes: Tensor, size: Tensor, straddle: float, overruled: bool, crowds: Tensor, ioa: float
) -> list[int]:
    """Detectron's and tensorpack's rules for one image, anchor by anchor."""
    inside = []
    for x1, y1, x2, y2 in anchors.tolist():
        within = x1 >= -straddle and y1 >= -straddle and x2 <= size[1] + straddle and y2 <= size[0] + straddle
        inside.append(straddle < 0 or bool(within))
    iou = box_iou(boxes, anchors).tolist()
    highest = [max(value for value, within in zip(row, inside, strict=True) if within) for row in iou]  # of each box
    labels = []
    for i in range(len(anchors)):
        best = max((row[i] for row in iou), default=0.0)
        forced = any(row[i] == most for row, most in zip(iou, highest, strict=True))
        label = 1 if best >= 0.7 or forced else 0 if best < 0.3 else -1
        if overruled and best < 0.3:
            label = 0
        x1, y1, x2, y2 = anchors[i].tolist()
        for c1, d1, c2, d2 in crowds.tolist():
            part = max(0.0, min(x2, c2) - max(x1, c1)) * max(0.0, min(y2, d2) - max(y1, d1))
            if part / ((x2 - x1) * (y2 - y1)) > ioa:
                label = -1
        labels.append(label if inside[i] else -1)
    return labels


@pytest.mark.parametrize("straddle", [-1.0, 0.0, 5.0])
@pytest.mark.parametrize("low_quality", ["kept", "overruled"])
@pytest.mark.parametrize("crowd_ioa", [2.0, 0.6])
def test_labels_of_anchors_equal_a_loop(straddle: float, low_quality: str, crowd_ioa: float) -> None:
    crowds = torch.tensor([[[40.0, 20, 80, 64], [0, 0, 20, 20]], [[0, 0, 0, 0], [0, 0, 0, 0]]])
    targets = some_targets(crowds)
    targets = replace(targets, boxes=targets.boxes.clone())
    targets.boxes[0, 2], targets.valid[0, 2] = torch.tensor([30.0, 50, 33, 53]), True  # its best anchor has IoU < .3
    network = rpn(f"legacy.straddle={straddle}", f"legacy.low_quality={low_quality}", f"legacy.crowd_ioa={crowd_ioa}")
    anchors = torch.cat([level.anchors for level in network.head(maps())])
    _, labels = network.label(anchors, images_of(SIZES), targets)
    for image in range(2):
        boxes = targets.boxes[image][targets.valid[image]]
        overruled = low_quality == "overruled"
        expected = label_slowly(anchors, boxes, SIZES[image], straddle, overruled, crowds[image], crowd_ioa)
        assert labels[image].tolist() == expected
    assert (labels == 1).any()


def test_missing_crowds_are_refused_where_they_are_needed() -> None:
    with pytest.raises(ValueError, match=r"crowd_ioa=0.6 needs Targets.crowds"):
        rpn("legacy.crowd_ioa=0.6").losses(maps(), images_of(SIZES), some_targets(), SEED)


def propose_slowly(network: RPN, sizes: Tensor, drop: float, decode: Any, clip: Any) -> list[np.ndarray]:
    """Decode, clip, drop small boxes, NMS: one anchor at a time, in inclusive boxes, all levels together."""
    found = []
    levels = network.head(maps())
    for image in range(2):
        anchors = np.concatenate([level.anchors.numpy() - np.array([0, 0, 1, 1]) for level in levels])
        deltas = torch.cat([level.deltas[image] for level in levels]).detach().numpy()
        scores = torch.cat([level.logits[image] for level in levels]).detach().numpy()
        order = np.argsort(-scores, kind="stable")[: network.config.proposals.pre_nms]
        boxes = [clip(decode(anchors[i], deltas[i]), *sizes[image].tolist()) for i in order]
        keep = [i for i, box in enumerate(boxes) if min(box[2] - box[0], box[3] - box[1]) + 1 >= drop]
        left = legacy.suppress(
            np.stack([boxes[i] for i in keep]), scores[order][keep], network.config.proposals.nms_iou
        )
        found.append(np.stack([boxes[keep[i]] for i in left])[: network.config.proposals.post_nms])
    return found


@pytest.mark.parametrize(
    ("kind", "decode"),
    [
        ("inclusive", legacy.decode_detectron),
        ("inclusive", legacy.decode_fcis),
        ("inclusive_loose", legacy.decode_loose),
    ],
)
@torch.no_grad()
def test_inclusive_proposals_equal_the_old_formulas(kind: Any, decode: Any) -> None:
    """Also: one NMS for all levels, small boxes dropped, no scale limit where the system has none."""
    most = MAX_LOG_SCALE if decode is legacy.decode_detectron else 100.0
    network = rpn(
        "legacy.anchors=detectron",
        "legacy.joint_levels=true",
        "proposals.pre_nms=60",
        "proposals.min_size=9.0",
        f"max_log_scale={most}",
        rules=build_box_rules(kind),
    )
    proposals = network.predict(maps(), images_of(SIZES))
    expected = propose_slowly(network, SIZES, 9.0, decode, legacy.clip)
    for image in range(2):
        found = network.rules.to_inclusive(proposals.boxes[image][proposals.valid[image]][None])[0]
        assert len(expected[image]) > 5
        np.testing.assert_allclose(found, expected[image], atol=2e-3)


@torch.no_grad()
def test_nms_is_per_level_unless_joint() -> None:
    features = maps()
    many = ["proposals.post_nms=500", "proposals.pre_nms=500"]
    apart, joint = rpn(*many), rpn(*many, "legacy.joint_levels=true")
    alone = [
        rpn("anchors.sizes=[[16]]", *many, strides={"p3": 8}),
        rpn("anchors.sizes=[[32]]", *many, strides={"p4": 16}),
    ]
    for network in alone:
        network.load_state_dict(apart.state_dict())
    counts = [network.predict(features, images_of(SIZES)).valid.sum(1) for network in alone]
    assert torch.equal(apart.predict(features, images_of(SIZES)).valid.sum(1), counts[0] + counts[1])
    assert (joint.predict(features, images_of(SIZES)).valid.sum(1) < counts[0] + counts[1]).all()


@torch.no_grad()
def test_small_proposals_may_be_measured_in_file_pixels() -> None:
    features, scales = maps(), torch.tensor([2.0, 0.5])
    found = rpn("proposals.min_size=12.0", "legacy.min_size_original=true", "proposals.post_nms=200").predict(
        features, images_of(SIZES, scales)
    )
    for image, least in enumerate((24.0, 6.0)):
        alone = rpn(f"proposals.min_size={least}", "proposals.post_nms=200").predict(features, images_of(SIZES))
        assert torch.equal(found.valid[image], alone.valid[image])
        torch.testing.assert_close(found.boxes[image], alone.boxes[image])
    assert found.valid.sum(1)[0] < found.valid.sum(1)[1]


@torch.no_grad()
def test_small_proposals_may_be_dropped_before_the_best_are_taken() -> None:
    settings = ["legacy.joint_levels=true", "proposals.min_size=14", "proposals.post_nms=20", "proposals.nms_iou=1"]
    settings += ["proposals.pre_nms=20"]
    after = rpn(*settings).predict(maps(), images_of(SIZES))
    found = rpn(*settings, "legacy.min_size_first=true").predict(maps(), images_of(SIZES))
    assert found.valid.all()  # as many as are wanted, for large ones there are
    assert (after.valid.sum(1) < 20).all()
    # takes all, then drops: the best 20 of the large
    network = rpn(*settings, "proposals.pre_nms=10000", "proposals.post_nms=20")
    assert_same_proposals(found, network.predict(maps(), images_of(SIZES)))


@torch.no_grad()
def test_proposals_of_whole_cells_only() -> None:
    words = "legacy.whole_cells=true proposals.nms_iou=1.0 proposals.post_nms=500 proposals.pre_nms=500"
    network = rpn(*words.split(), "proposals.min_size=-1000000000")
    proposals = network.predict(maps(), images_of(SIZES))
    counts = [sum(3 * (h // stride) * (w // stride) for stride in STRIDES.values()) for h, w in SIZES.tolist()]
    assert proposals.valid.sum(1).tolist() == counts


@pytest.mark.parametrize("most", [MAX_LOG_SCALE, 100.0])
@torch.no_grad()
def test_scales_are_clipped_as_configured(most: float) -> None:
    network = rpn(f"max_log_scale={most}", "proposals.nms_iou=1.0")
    present(network.deltas.bias).fill_(4.3)
    level = network.head(maps())[0]
    box = decode_deltas(level.deltas, level.anchors, ONES, most)
    unlimited = level.deltas[..., 2].exp() * (level.anchors[:, 2] - level.anchors[:, 0])
    widths = box[..., 2] - box[..., 0]
    assert torch.allclose(widths, unlimited, rtol=1e-4) == (most == 100.0)


@pytest.mark.parametrize("normalizer", ["batch_size", "sampled", "sampled_objectness"])
@pytest.mark.parametrize("beta", [0.0, 1 / 9])
def test_losses_are_divided_as_each_system_does(normalizer: str, beta: float) -> None:
    network = rpn(
        f"legacy.normalizer={normalizer}",
        f"smooth_l1_beta={beta}",
        "sampling.batch_size=10000",
        "sampling.positive_fraction=0.5",
    )
    features, targets = maps(), some_targets()
    _, losses = network.losses(features, images_of(SIZES), targets, SEED)
    levels = network.head(features)
    anchors = torch.cat([level.anchors for level in levels])
    matched, labels = network.label(anchors, images_of(SIZES), targets)
    scores, boxes, sampled = 0.0, 0.0, 0
    for image in range(2):
        logits = torch.cat([level.logits[image] for level in levels])
        deltas = torch.cat([level.deltas[image] for level in levels])
        for i, label in enumerate(labels[image].tolist()):
            if label < 0:
                continue
            sampled += 1
            scores += F.binary_cross_entropy_with_logits(logits[i], torch.tensor(float(label))).item()
            if label:
                expected = encode_deltas(targets.boxes[image, matched[image, i]], anchors[i], ONES)
                boxes += F.smooth_l1_loss(deltas[i], expected, reduction="sum", beta=beta).item()
    constant = 2 * 10**4
    by = {"batch_size": (constant, constant), "sampled": (sampled, sampled)}
    divisors = by.get(normalizer, (sampled, constant))
    np.testing.assert_allclose(losses["rpn_objectness"].item(), scores / divisors[0], rtol=1e-4)
    np.testing.assert_allclose(losses["rpn_box"].item(), boxes / divisors[1], rtol=1e-4)
    assert boxes > 0


CHOICES = (
    "width=8 legacy.objectness=softmax legacy.normalizer=sampled",
    "legacy.objectness=object_logit anchors.offset=0.5 max_log_scale=100",
    "legacy.anchors=detectron legacy.straddle=0 legacy.low_quality=overruled legacy.normalizer=sampled_objectness",
    "legacy.joint_levels=true legacy.crowd_ioa=0.7 proposals.min_size=3 legacy.min_size_original=true "
    "legacy.whole_cells=true",
    "proposals.min_size=6 legacy.min_size_first=true legacy.min_size_original=true",
    "legacy.anchors=torchvision proposals.score_threshold=0.4",
)


GRAPHS = [
    *(("half_open", settings) for settings in CHOICES),  # box rules change a few operations, whatever else is set
    *(("inclusive", settings) for settings in CHOICES[2:4]), ("inclusive_loose", CHOICES[2]),
]  # fmt: skip
CROWDS = torch.tensor([[[40.0, 20, 80, 64]], [[0, 0, 0, 0]]])
SCALES = torch.tensor([1.5, 0.7])


@pytest.mark.compile
@pytest.mark.parametrize(("kind", "settings"), GRAPHS)
def test_every_choice_is_one_graph(kind: Any, settings: str) -> None:
    torch._dynamo.reset()
    network, features, targets = rpn(*settings.split(), rules=build_box_rules(kind)), maps(), some_targets(CROWDS)

    def both(x: dict[str, Tensor], sizes: Tensor, scales: Tensor) -> tuple[Proposals, dict[str, Tensor]]:
        return network.losses(x, images_of(sizes, scales), targets, SEED)

    expected, losses = both(features, SIZES, SCALES)
    # the other choices concern proposals and labels, which have no gradient
    run = torch.compile(both, fullgraph=True, backend=BACKWARD if (kind, settings) in GRAPHS[:3] else FORWARD)
    found, compiled = run(features, SIZES, SCALES)
    assert_same_proposals(found, expected)
    torch.testing.assert_close(compiled, losses)


@pytest.mark.parametrize("kind", ["half_open", "inclusive", "inclusive_loose"])
@pytest.mark.parametrize("settings", CHOICES)
def test_a_batch_equals_its_images(settings: str, kind: Any) -> None:
    network, features = rpn(*settings.split(), rules=build_box_rules(kind)), maps()
    expected, _ = network.losses(features, images_of(SIZES, SCALES), some_targets(CROWDS), SEED)
    for image in range(2):
        one = slice(image, image + 1)
        alone = network.predict({name: x[one] for name, x in features.items()}, images_of(SIZES[one], SCALES[one]))
        assert torch.equal(alone.valid[0], expected.valid[image])
        torch.testing.assert_close(alone.boxes[0], expected.boxes[image], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("anchors.sizes=[[16]]", "has 1 levels; expected 2"),
        ("anchors.sizes=[[16],[32,64]]", "same number of sizes on each level"),
        ("legacy.anchors=detectron anchors.offset=0.5", "sets the centres itself"),
        ("head=fbnet width=8", "no effect with rpn.head=fbnet"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rpn(*settings.split())
