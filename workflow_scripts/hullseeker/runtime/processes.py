"""What the processes of one training tell each other; with one process, nothing happens here.

Needs: torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist


def _together() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def n_processes() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if _together() else 1


def process_index() -> int:
    """Return which of them this one is, from 0."""
    return dist.get_rank() if _together() else 0


def gathered(items: Sequence) -> list:
    """Return the items of all processes, in the order of the processes; every process gets them all."""
    if not _together():
        return list(items)
    parts: list = [None] * n_processes()
    dist.all_gather_object(parts, list(items))
    return [item for part in parts for item in part]


def from_first_process(value):
    """Return the first process's value in every process; the others' is not used."""
    if not _together():
        return value
    held = [value]
    dist.broadcast_object_list(held, src=0)
    return held[0]


def wait_for_all() -> None:
    """Return when every process has come here."""
    if _together():
        dist.barrier()
