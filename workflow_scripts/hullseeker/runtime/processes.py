"""Collective operations between the processes of a distributed training; no-ops in a single process.

Needs: torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def n_processes() -> int:
    """Return the number of processes in the training."""
    return dist.get_world_size() if _is_distributed() else 1


def process_index() -> int:
    """Return the rank of this process, from 0."""
    return dist.get_rank() if _is_distributed() else 0


def gathered(items: Sequence) -> list:
    """Return the items of all processes, in order of rank, in every process."""
    if not _is_distributed():
        return list(items)
    parts: list = [None] * n_processes()
    dist.all_gather_object(parts, list(items))
    return [item for part in parts for item in part]


def from_first_process(value):
    """Return the value of rank 0 in every process; the values of other ranks are ignored."""
    if not _is_distributed():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def wait_for_all() -> None:
    """Block until every process has called this function."""
    if _is_distributed():
        dist.barrier()
