"""Checks and chooses the device and the precision, the same way for every command and function."""

from __future__ import annotations

from typing import Literal, TypeAlias, cast, get_args

import torch

from rcnn.arguments import is_one_of, is_whole_number, plain, require_one_of, shown

Precision = Literal["float32", "bfloat16", "auto"]
Device: TypeAlias = str | int | torch.device

DEVICES = "auto, cpu, cuda, cuda:N or mps"


def choose_device(device: Device = "auto") -> torch.device:
    """The device to use: `auto` is the GPU if there is one, else the CPU; an integer N is `cuda:N`.

    Raises ValueError if the device is not known or not available.
    """
    if is_one_of(device, ("auto",)):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        is_number = isinstance(device, bool) or is_whole_number(device)  # True is no device, but one for torch
        chosen = torch.device(f"cuda:{plain(device)}" if is_number else cast("str", device))
    except (RuntimeError, TypeError, ValueError) as error:  # ValueError: a number of thousands of digits
        raise ValueError(f"device {shown(device, 60)} is not known; expected {DEVICES}") from error
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device {device!r} is not supported; expected {DEVICES}")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device}: torch finds no GPU here; use cpu, or run `rcnn doctor`")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        names = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise ValueError(f"device {device}: torch finds {count} GPU{'s' if count > 1 else ''}; expected {names}")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device {device}: torch finds no Apple GPU here; use cpu, or run `rcnn doctor`")
    return chosen


def choose_precision(precision: Precision, device: torch.device) -> Literal["float32", "bfloat16"]:
    """The precision of the network: `auto` is bfloat16 if the hardware has instructions for it, else float32.

    Raises ValueError if `precision` is not known.
    """
    require_one_of("precision", precision, get_args(Precision))
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "mps":
        return "float32"
    return "bfloat16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "float32"
