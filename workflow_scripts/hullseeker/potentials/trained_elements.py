"""The elements that each potential was trained on: of any other, its numbers come from weights that nothing fixed.

Needs: numpy.

What a network embeds is no proof: CHGNet embeds 94 elements and UMA 99, whatever their data hold.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

POLONIUM_TO_RADIUM = frozenset(range(84, 89))
# MPtrj (Deng et al. 2023), relaxations of the Materials Project: 89 elements, H to Pu without Po, At, Rn, Fr and Ra.
MPTRJ = frozenset(range(1, 95)) - POLONIUM_TO_RADIUM
# OMat24 (Barroso-Luque et al. 2024): the same 89. UMA's references of it (fairchem's uma_v1_2b_hof_lin_refs.yaml) are
# fitted for these, 0 within rounding for 84 to 87, and for 88 and 95 to 99 what all of UMA's data sets have there.
OMAT24 = MPTRJ
# The elemental references (eV) of Po, At, Rn, Fr and Ra in CHGNet's releases 0.3.0 and 0.2.0, which no crystal fixed.
_UNFITTED_EV = dict(zip(sorted(POLONIUM_TO_RADIUM), (-0.1221, -0.3448, -0.4364, -0.1661, -0.3680), strict=True))
_ZERO_EV, _SAME_EV = 1e-6, 1e-4


def with_reference(references_ev: Sequence[float]) -> frozenset[int]:
    """Return the atomic numbers z with a reference energy in references_ev[z] that is finite and not 0."""
    values = np.asarray(references_ev, dtype=float).reshape(-1)
    return frozenset(np.flatnonzero(np.isfinite(values) & (np.abs(values) > _ZERO_EV)).tolist()) - {0}


def chgnet_elements(references_ev: Sequence[float]) -> frozenset[int]:
    """Return the atomic numbers a CHGNet checkpoint was trained on, by its elemental references (AtomRef, H first).

    They are fitted to the training data: 0 for an element that is not among them (Yb in r2scan). A checkpoint tuned
    from 0.3.0 carries the values of Po, At, Rn, Fr and Ra on, which were fitted to nothing.
    """
    values = [0.0, *np.asarray(references_ev, dtype=float).reshape(-1).tolist()]
    carried_on = {z for z, unfitted in _UNFITTED_EV.items() if abs(values[z] - unfitted) < _SAME_EV}
    return with_reference(values) - carried_on


def uma_elements(references_ev: Sequence[float] | None, n_embedded: int) -> frozenset[int]:
    """Return the atomic numbers that a UMA checkpoint covers in OMat24's task: of OMat24, embedded, with a reference.

    `references_ev` by atomic number, from 0; None for a checkpoint that has none.
    """
    covered = OMAT24 & frozenset(range(1, n_embedded))
    return covered if references_ev is None else covered & with_reference(references_ev)
