"""Structure and composition fingerprints of CDVAE's evaluation, and their cache.

Needs: numpy, scipy, pymatgen, matminer, pyarrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np
import pyarrow as pa
from matminer.featurizers.composition import ElementProperty
from pymatgen.core import Composition, Element, Structure

from hullseeker.metrics.crystal_nn import site_fingerprints
from hullseeker.runtime.time_limits import TimeLimitError, time_limit
from hullseeker.tables.content_cache import ContentCache
from hullseeker.tables.structures import to_structure

# Names the cache folder: change it whenever the fingerprint of a crystal changes.
FEATURIZER_VERSION = f"2-matminer{metadata.version('matminer')}-pymatgen{metadata.version('pymatgen')}"
NEIGHBOUR_REACH_ANG, MAX_IMAGE_SITES = 14.0, 300_000  # CrystalNN searches 7 Å, then 14 Å
COLUMNS = ("structure_fingerprint", "composition_fingerprint")


@cache
def _magpie() -> dict[str, np.ndarray]:
    """Return the 22 properties (22,) of matminer's ElementProperty, preset "magpie", by element symbol."""
    # impute_nan=False: properties that Magpie lacks stay NaN, as in the MP-20 scaler constants.
    featurizer = ElementProperty.from_preset("magpie", impute_nan=False)
    property_of, names = featurizer.data_source.get_elemental_property, featurizer.features
    elements = [Element.from_Z(z) for z in range(1, 119)]
    return {e.symbol: np.array([property_of(e, name) for name in names], dtype=float) for e in elements}


def structure_fingerprint(structure: Structure) -> np.ndarray:
    """Return the (61,) mean over all sites of matminer's CrystalNNFingerprint, preset "ops".

    Symmetry-equivalent sites are computed separately: matminer's values differ between them if neighbours are tied, and
    by up to 0.02 if spglib considers them equivalent within 1e-3 Å; finding them costs as much time as it saves.
    Raises ValueError if a site has no closed Voronoi cell (OpenCellError), an element has no radius, a number is not
    finite, or the cell is so thin that the neighbour search would exhaust the memory before a time limit could stop it.
    """
    if not np.isfinite(structure.frac_coords).all():
        raise ValueError("the coordinates are not finite")
    heights_ang = 1.0 / np.linalg.norm(structure.lattice.inv_matrix, axis=0)
    n_image_sites = len(structure) * np.prod(2 * NEIGHBOUR_REACH_ANG / heights_ang + 1)
    if not n_image_sites <= MAX_IMAGE_SITES:
        raise ValueError(f"{n_image_sites:.0f} periodic images within reach of a site: the cell is too thin")
    per_site, _ = site_fingerprints(structure)
    fingerprint = per_site.mean(axis=0)
    if not np.isfinite(fingerprint).all():
        raise ValueError("the structure fingerprint is not finite")
    return fingerprint


def composition_fingerprint(composition: Composition) -> np.ndarray:
    """Return the (132,) raw, unscaled features of matminer's ElementProperty, preset "magpie".

    Minimum, maximum, range, mean, mean deviation and mode of each property; NaN if an element lacks the property.
    ValueError if all are NaN, because Magpie has no data for an element.
    """
    amounts = sorted(composition.element_composition.items(), key=lambda item: item[0].Z)
    properties = np.array([_magpie()[element.symbol] for element, _ in amounts])
    weights = np.array([amount for _, amount in amounts])
    low, high = properties.min(axis=0), properties.max(axis=0)
    mean = np.average(properties, axis=0, weights=weights)
    deviation = np.average(np.abs(properties - mean), axis=0, weights=weights)
    mode = properties[np.isclose(weights, weights.max())].min(axis=0)
    features = np.stack([low, high, high - low, mean, deviation, mode], axis=1).ravel()
    if np.isnan(features).all():
        raise ValueError(f"Magpie lacks an element of {composition.reduced_formula}")
    return features


def fingerprint_columns(row: Mapping, time_limit_s: float | None) -> dict:
    """Return status, error and both fingerprints (lists) of a row with a structure; errors become status and error."""
    try:
        with time_limit(time_limit_s):
            structure = to_structure(row)
            composition = composition_fingerprint(structure.composition)
            fingerprints = (structure_fingerprint(structure), composition)
    except (TimeLimitError, Exception) as error:  # noqa: BLE001  every error becomes this row's error
        return {"status": "fingerprint_failed", "error": f"{type(error).__name__}: {error}"}
    return {"status": "ok", "error": None} | {c: _nulls_for_nan(v) for c, v in zip(COLUMNS, fingerprints, strict=True)}


def _nulls_for_nan(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


class FingerprintCache(ContentCache):
    """Fingerprints by content key, for the current FEATURIZER_VERSION."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(Path(folder) / FEATURIZER_VERSION, [pa.field(c, pa.list_(pa.float64())) for c in COLUMNS])

    def load(self, content_keys: Iterable[str]) -> dict[str, dict]:
        """Return the cached columns of these keys."""
        return {key: {"status": "ok", "error": None} | row for key, row in super().load(content_keys).items()}

    def save(self, found: Mapping[str, Mapping]) -> None:
        """Add the successful rows of `found` (content key -> columns); failures are not cached."""
        super().save({key: columns for key, columns in found.items() if columns["status"] == "ok"})
