"""Suggestions for an unknown setting: first the settings that other frameworks call so, then similar spellings."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

MAX_SUGGESTIONS = 4  # suggestions in one message

# Name of a setting in other frameworks and papers -> last word of the setting here.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "learning_rate": ("lr",),
    "base_lr": ("lr",),
    "lr0": ("lr",),
    "epoch": ("epochs",),
    "num_epochs": ("epochs",),
    "max_epochs": ("epochs",),
    "iterations": ("steps",),
    "max_iter": ("steps",),
    "max_steps": ("steps",),
    "num_steps": ("steps",),
    "batch": ("batch_size",),
    "ims_per_batch": ("batch_size",),
    "images_per_batch": ("batch_size",),
    "samples_per_gpu": ("batch_size",),
    "num_workers": ("workers",),
    "workers_per_gpu": ("workers",),
    "optim": ("optimizer",),
    "lr_steps": ("milestones",),
    "step_size": ("milestones",),
    "gamma": ("decay",),
    "lr_decay": ("decay",),
    "warmup": ("warmup_steps",),
    "warmup_iters": ("warmup_steps",),
    "wd": ("weight_decay",),
    "clip_grad": ("clip_norm",),
    "grad_clip": ("clip_norm",),
    "clip_gradients": ("clip_norm",),
    "amp": ("bf16",),
    "fp16": ("bf16",),
    "mixed_precision": ("bf16",),
    "grad_accumulation": ("accumulate",),
    "hflip": ("flip",),
    "horizontal_flip": ("flip",),
    "mirror": ("flip",),
    "color_jitter": ("jitter",),
    "checkpoint_period": ("checkpoint_every",),
    "save_every": ("checkpoint_every",),
    "eval_period": ("evaluate_every",),
    "eval_every": ("evaluate_every",),
    "log_period": ("log_every",),
    "random_seed": ("seed",),
    "classes": ("num_classes",),
    "n_classes": ("num_classes",),
    "nc": ("num_classes",),
    "image_size": ("min_size", "max_size"),
    "img_size": ("min_size", "max_size"),
    "imgsz": ("min_size", "max_size"),
    "min_size_test": ("min_size",),
    "max_size_test": ("max_size",),
    "mean": ("pixel_mean",),
    "std": ("pixel_std",),
    "score_thresh": ("score_threshold",),
    "score_thr": ("score_threshold",),
    "confidence": ("score_threshold",),
    "conf": ("score_threshold",),
    "nms": ("nms_iou",),
    "nms_thresh": ("nms_iou",),
    "nms_threshold": ("nms_iou",),
    "iou_threshold": ("nms_iou",),
    "detections_per_img": ("max_detections",),
    "detections_per_image": ("max_detections",),
    "max_per_img": ("max_detections",),
    "max_dets": ("max_detections",),
    "topk": ("max_detections",),
    "anchor_sizes": ("sizes",),
    "anchor_scales": ("sizes",),
    "aspect_ratios": ("ratios",),
    "anchor_ratios": ("ratios",),
    "pooler_resolution": ("size",),
    "roi_size": ("size",),
    "background_iou": ("min_negative_iou",),
    "layers": ("depth",),
}


def near_settings(path: str, known: Sequence[str]) -> list[str]:
    """Up to MAX_SUGGESTIONS `known` settings (`rpn.proposals.nms_iou`, ...) that `path` may stand for, best first.

    First come settings whose last word is that of `path` or a synonym. If there are none: settings of the same part
    with a similar last word, then those of other parts. Whole paths are not compared, because the part's name would
    outweigh the last word (`train.learning_rate` would be near `train.padding`).
    """
    given = path.lower().replace("-", "_")
    part, _, word = given.rpartition(".")

    def likeness(candidate: str) -> float:
        return difflib.SequenceMatcher(None, given, candidate).ratio()

    def spelt_like(names: Sequence[str], cutoff: float) -> list[str]:
        words = difflib.get_close_matches(word, list(dict.fromkeys(map(_last, names))), n=2, cutoff=cutoff)
        return [name for near in words for name in names if _last(name) == near]

    words = (word, *SYNONYMS.get(word, ()))
    same = sorted((name for name in known if _last(name) in words), key=likeness, reverse=True)
    in_part = [name for name in same if part and name.startswith(f"{part}.")]
    if same:
        return (in_part or same)[:MAX_SUGGESTIONS]
    siblings = [name for name in known if name.rpartition(".")[0] == part]
    joined = [name for name in known if name.replace(".", "_") == given]
    near = [*joined, *spelt_like(siblings, 0.6), *spelt_like(known, 0.75)]
    near += difflib.get_close_matches(given, known, n=2, cutoff=0.8)
    return list(dict.fromkeys(near))[:MAX_SUGGESTIONS]


def _last(path: str) -> str:
    return path.rpartition(".")[2]
