"""The elements that each potential was trained on; predictions for any other come from untrained weights.

Needs: numpy.

The embedded elements are more than the trained ones: CHGNet embeds 94 elements and UMA 99, regardless of their data.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

POLONIUM_TO_RADIUM = frozenset(range(84, 89))
# MPtrj (Deng et al. 2023), relaxations of the Materials Project: 89 elements, H to Pu without Po, At, Rn, Fr and Ra.
MPTRJ = frozenset(range(1, 95)) - POLONIUM_TO_RADIUM
# OMat24 (Barroso-Luque et al. 2024): the same 89. UMA's reference energies for OMat24 (fairchem's
# uma_v1_2b_hof_lin_refs.yaml) are fitted for these and 0 within rounding for 84 to 87; the values for 88 and 95 to 99
# are the same in all data sets of UMA.
OMAT24 = MPTRJ
# Reference energies (eV) of Po, At, Rn, Fr and Ra in CHGNet 0.3.0 and 0.2.0, which are not fitted to any data.
_UNFITTED_EV = dict(zip(sorted(POLONIUM_TO_RADIUM), (-0.1221, -0.3448, -0.4364, -0.1661, -0.3680), strict=True))
_ZERO_EV, _SAME_EV = 1e-6, 1e-4


def with_reference(references_ev: Sequence[float]) -> frozenset[int]:
    """Return the atomic numbers z whose reference energy references_ev[z] is finite and not 0."""
    values = np.asarray(references_ev, dtype=float).reshape(-1)
    return frozenset(np.flatnonzero(np.isfinite(values) & (np.abs(values) > _ZERO_EV)).tolist()) - {0}


def chgnet_elements(references_ev: Sequence[float]) -> frozenset[int]:
    """Return the atomic numbers that a CHGNet checkpoint was trained on, by its reference energies (AtomRef, H first).

    The reference energies are fitted to the training data, and 0 for an element that these lack (Yb in r2scan). A
    checkpoint fine-tuned from 0.3.0 inherits its values of Po, At, Rn, Fr and Ra, which are not fitted to any data.
    """
    values = [0.0, *np.asarray(references_ev, dtype=float).reshape(-1).tolist()]
    inherited = {z for z, unfitted in _UNFITTED_EV.items() if abs(values[z] - unfitted) < _SAME_EV}
    return with_reference(values) - inherited


def uma_elements(references_ev: Sequence[float] | None, n_embedded: int) -> frozenset[int]:
    """Return the atomic numbers that a UMA checkpoint covers: in OMat24, embedded, and with a reference energy.

    `references_ev` is indexed by atomic number; None for a checkpoint without reference energies.
    """
    covered = OMAT24 & frozenset(range(1, n_embedded))
    return covered if references_ev is None else covered & with_reference(references_ev)
