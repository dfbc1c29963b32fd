"""Training with several processes: averaged gradients, batch norm over all images, and stopping together.

Each process computes the losses of its own images, divided by counts over the images of all processes
(ops/processes.py), and DistributedDataParallel averages the gradients. So N processes with b images each take the same
steps as one process with N b images.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from rcnn.data.messages import counted
from rcnn.models import Detector
from rcnn.models.layers import SyncBatchNorm2d
from rcnn.runtime.processes import LostProcessError, Processes
from rcnn.training.settings import TrainConfig
from rcnn.training.sharding import shard, without_reducing
from rcnn.training.signals import StopRequested, StopRequests

WITH_ACTIVATION = "BatchNormAct2d"  # timm's class; timm is not always installed
BUCKET_MB = 25  # gradients averaged in one exchange: torch's default; docs/results.md compares it on CPUs


def parallel(detector: Detector, settings: TrainConfig, processes: Processes) -> nn.Module:
    """`detector`, wrapped so that the backward pass averages the gradients over the processes.

    Every process gets the weights of the first. With one process, or where the weights are divided (`train.shard`), the
    result is `detector` itself.
    """
    if processes.count == 1:
        return detector
    if settings.shard:
        shard(detector, processes.count)
        return detector
    with warnings.catch_warnings():
        # newer versions of torch call the option forward_sync_buffers
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
        return DistributedDataParallel(detector, broadcast_buffers=False, bucket_cap_mb=BUCKET_MB)


def without_averaging(model: nn.Module) -> AbstractContextManager[None]:
    """A block in which a backward pass adds to the gradients of this process only, to be averaged by a later one."""
    if isinstance(model, FSDPModule):
        return without_reducing(model)
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def synchronize_norms(detector: nn.Module) -> None:
    """Replace batch norms by those that compute their statistics over all processes, in place, weights included.

    Only torch's BatchNorm2d and timm's BatchNormAct2d: a class of the user may compute something else.
    """
    for module in detector.modules():
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, _synchronized(child))
            elif isinstance(child, nn.BatchNorm2d) and type(child).__name__ == WITH_ACTIVATION:
                setattr(module, name, _SynchronizedAct(child))


def _synchronized(norm: nn.BatchNorm2d) -> SyncBatchNorm2d:
    new = SyncBatchNorm2d(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    for kind in ("_parameters", "_buffers"):
        getattr(new, kind).update(getattr(norm, kind))
    return new.train(norm.training)


class _SynchronizedAct(SyncBatchNorm2d):
    """A synchronized batch norm, then the dropout and activation of timm's BatchNormAct2d."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        for kind in ("_parameters", "_buffers", "_modules"):
            getattr(self, kind).update(getattr(norm, kind))
        self.train(norm.training)

    @override
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        x = super().forward(input)
        for child in self.children():
            x = child(x)
        return x


def batch_norm_warnings(detector: nn.Module, settings: TrainConfig, processes: Processes) -> Iterator[str]:
    """Warnings if the model trains batch norm with accumulated batches, or unsynchronized in several processes."""
    norms = [m for m in detector.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    if not norms:
        return
    if settings.accumulate > 1:
        yield (
            f"train.accumulate={settings.accumulate}: batch norm uses the images of one forward pass, so a step "
            "differs from a step with one large batch. Frozen batch norm and group norm do not have this difference"
        )
    if processes.count > 1 and not settings.sync_bn:
        yield (
            f"train.sync_bn=false: batch norm uses the {counted(settings.batch_size, 'image')} of its own process; "
            "checkpoints contain the statistics of the first process"
        )
    if processes.count > 1 and settings.sync_bn:
        synchronized = SyncBatchNorm2d, nn.SyncBatchNorm
        kinds = sorted({type(norm).__name__ for norm in norms if not isinstance(norm, synchronized)})
        if kinds:
            yield (
                f"{', '.join(kinds)}: train.sync_bn=true does not apply to this batch norm, which uses the images of "
                "its own process; checkpoints contain the statistics of the first process"
            )


def share_buffers(detector: nn.Module, processes: Processes) -> None:
    """Copy the running statistics of the first process to all others; with `train.sync_bn=false` they differ."""
    if processes.count > 1:
        for buffer in detector.buffers():
            dist.broadcast(buffer, src=0)


@contextmanager
def together(processes: Processes, stop: StopRequests) -> Iterator[None]:
    """A block that all processes leave together: all of them normally, or all of them with an exception.

    A stop request, the end of the time limit, or an error in one process ends the block in all processes, with
    StopRequested, or with LostProcessError where another process failed. In the block, no process may wait for another
    one, because a stop request interrupts it.
    """
    problem: BaseException | None = None
    try:
        with stop.interrupting():
            yield
    except (Exception, StopRequested) as error:
        problem = error
    # one number for the signal and the process, the highest of which has both
    own = stop.signal * processes.count + processes.count - 1 - processes.rank if stop.signal else 0
    asked, expired, failed = processes.most(own, stop.expired, isinstance(problem, Exception))
    if isinstance(problem, Exception):
        raise problem
    if failed:
        raise LostProcessError("another process of the run has failed; its message says why")
    if asked or expired:
        number, place = divmod(int(asked), processes.count)
        stop.signal, stop.process = number or None, processes.count - 1 - place
        raise StopRequested


def stop_together(processes: Processes, stop: StopRequests) -> None:
    """Raise StopRequested in all processes if one of them has a stop request or is at its time limit."""
    with together(processes, stop):
        pass
