"""CrystalNN coordination numbers and order parameters for all sites of a crystal at once.

Needs: numpy, scipy, pymatgen, matminer.

The results equal those of matminer's CrystalNNFingerprint, preset "ops" (matminer.featurizers.site), which uses
pymatgen's CrystalNN, VoronoiNN and LocalStructOrderParams (pymatgen.core.local_env): Pan et al., Inorg. Chem. 60, 1590
(2021); Zimmermann & Jain, RSC Adv. 10, 6063 (2020). A site's Voronoi cell is the polar dual of the convex hull of the
points p / |p|^2 of its neighbours p, which takes a tenth of the time of a tessellation.

If rounding errors decide a result, the original code computes it. pymatgen computes order parameters with an angle at a
limit, and the order of neighbours with equal weights (relevant for the body-centred motif). matminer computes sites
with a weight halfway between two rounded values, with coincident atoms, or with a Voronoi cell that a rounding error
opens or closes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

import numpy as np
from matminer.featurizers.site import CrystalNNFingerprint
from matminer.featurizers.site.fingerprint import load_cn_motif_op_params, load_cn_target_motif_op
from pymatgen.core import Element, Structure
from pymatgen.core.local_env import DEFAULT_OP_PARAMS, CovalentRadius, LocalStructOrderParams
from pymatgen.optimization.neighbors import find_points_in_spheres
from scipy.spatial import ConvexHull, QhullError

MAX_CN, N_FEATURES = 24, 61
SEARCH_RADIUS_ANG = 7.0  # doubled if the Voronoi cell is open, as in VoronoiNN
MAX_POINTS = 1_000_000  # largest number of periodic points per search, about 100 MB
_PAIRS_AT_ONCE = 300_000
_CUTOFFS_ANG, _X_DIFF_WEIGHT, _LARGEST_X_DIFF = (0.5, 1.0), 3.0, 3.3  # CrystalNN's defaults
_PARALLEL = 1e-12  # LocalStructOrderParams: smaller projections have no azimuth
# Larger than rounding errors (1e-15), smaller than the precision of coordinates of real crystals (1e-8).
_TIE, _OVERLAP_ANG = 1e-10, 1e-2


class OpenCellError(ValueError):
    """A site has no closed Voronoi cell within the largest radius that CrystalNN searches."""


class UnsureSiteError(Exception):
    """Rounding errors decide this site's fingerprint; matminer must compute it."""


@cache
def _featurizer() -> CrystalNNFingerprint:
    return CrystalNNFingerprint.from_preset("ops")


def site_fingerprints(structure: Structure) -> tuple[np.ndarray, int]:
    """Return the (n, 61) fingerprints of all sites, and the number of sites for which matminer or pymatgen was used.

    Raises OpenCellError if a site has no closed Voronoi cell, ValueError for elements without a radius and for crystals
    with more than MAX_POINTS periodic points within the search radius.
    """
    if not structure.is_ordered or not all(
        isinstance(e, Element) and e is Element.from_Z(e.Z) for e in structure.elements
    ):
        return np.array([_by_matminer(structure, site) for site in range(len(structure))]), len(structure)
    environments = _Environments(structure)
    fingerprints, delegated = np.zeros((len(structure), N_FEATURES)), set()
    groups: dict[int, list[tuple[int, float, np.ndarray, np.ndarray]]] = {}
    for site, weights, vectors_ang in environments.of_sites():
        for cn, likelihood, tied in _coordination(weights):
            if cn > MAX_CN:
                break
            fingerprints[site, _FIRST[cn]] = likelihood
            if cn in _MOTIFS:
                groups.setdefault(cn, []).append((site, likelihood, vectors_ang[:cn], tied))
    for cn, group in groups.items():
        sites, likelihoods, vectors_ang, tied = (np.array(column) for column in zip(*group, strict=True))
        if cn == _BCC_CN:
            for i in np.flatnonzero(_order_matters(vectors_ang, tied)):
                vectors_ang[i] = _as_pymatgen_orders(structure, int(sites[i]))
                delegated.add(int(sites[i]))
        parameters, is_delegated = _order_parameters(cn, vectors_ang)
        first = _FIRST[cn] + 1
        fingerprints[sites, first : first + parameters.shape[1]] = likelihoods[:, None] * parameters
        delegated.update(sites[is_delegated].tolist())
    for site in environments.unsure:
        fingerprints[site] = _by_matminer(structure, site)
    return fingerprints, len(delegated.union(environments.unsure))


def _as_pymatgen_orders(structure: Structure, site: int) -> np.ndarray:
    """Return the vectors (8, 3) in Å to the eight neighbours with the largest weights, in the order of CrystalNN."""
    neighbours = _featurizer().cnn.get_nn_data(structure, site).cn_nninfo[_BCC_CN]
    return np.array([neighbour["site"].coords for neighbour in neighbours]) - structure[site].coords


def _by_matminer(structure: Structure, site: int) -> np.ndarray:
    return np.array(_featurizer().featurize(structure, site), dtype=float)


# Neighbours and their weights


@dataclass(frozen=True)
class _Cell:
    """A closed Voronoi cell: neighbours (n, 3) and vertices (v, 3), in Å from the site.

    `sites` (n,) are the neighbours' indices in the structure; `edge_vertices` (m, 2) the end points of each edge and
    `edge_faces` (m, 2) the two neighbours whose faces share it.
    """

    vectors_ang: np.ndarray
    sites: np.ndarray
    vertices_ang: np.ndarray
    edge_vertices: np.ndarray
    edge_faces: np.ndarray


class _Environments:
    """The weighted neighbours of a structure's sites; `unsure` are the sites that matminer must compute."""

    def __init__(self, structure: Structure) -> None:
        self._lattice = np.ascontiguousarray(structure.lattice.matrix, dtype=float)
        self._pbc = np.array(structure.lattice.pbc, dtype=np.int64)
        self._frac = np.ascontiguousarray(structure.frac_coords, dtype=float)
        self._cart_ang = np.ascontiguousarray(structure.cart_coords, dtype=float)
        self._numbers = np.array(structure.atomic_numbers)
        corners = np.array([[1, 1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]]) @ self._lattice
        self._largest_radius_ang = np.linalg.norm(corners, axis=1).max() + 0.01
        self._volume_ang3 = abs(np.linalg.det(self._lattice))
        self.unsure: list[int] = []
        self._cells: dict[int, _Cell] = {}
        all_sites = np.arange(len(self._frac))
        for chunk in np.array_split(
            all_sites, math.ceil(len(all_sites) * self._n_points(SEARCH_RADIUS_ANG) / _PAIRS_AT_ONCE)
        ):
            points_of_sites = self._points(chunk, SEARCH_RADIUS_ANG)
            for site, points in zip(chunk.tolist(), points_of_sites, strict=True):
                try:
                    self._cells[site] = self._cell(site, points)
                except UnsureSiteError:
                    self.unsure.append(site)

    def _n_points(self, radius_ang: float) -> float:
        return len(self._frac) * 4 / 3 * math.pi * radius_ang**3 / self._volume_ang3

    def _points(self, sites: np.ndarray, radius_ang: float) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return for each site the vectors (n, 3) to the periodic points around it, and their sites (n,)."""
        if not len(sites) * self._n_points(radius_ang) <= MAX_POINTS:
            raise ValueError(f"{self._n_points(radius_ang):.0f} periodic points within {radius_ang:.0f} Å of a site")
        centre, other, image, _ = find_points_in_spheres(
            all_coords=self._cart_ang,
            center_coords=self._cart_ang[sites],
            r=float(radius_ang),
            pbc=self._pbc,
            lattice=self._lattice,
            tol=1e-8,
        )
        # Remove the site itself but keep a coincident atom, which makes the site unsure.
        others = (other != sites[centre]) | (image != 0).any(axis=1)
        centre, other, image = centre[others], other[others], image[others]
        # Computed as in PeriodicNeighbor, so that the vectors are bitwise equal.
        vectors = (self._frac[other] + image) @ self._lattice - self._cart_ang[sites[centre]]
        order = np.argsort(centre, kind="stable")
        ends = np.cumsum(np.bincount(centre, minlength=len(sites)))[:-1]
        return list(zip(np.split(vectors[order], ends), np.split(other[order], ends), strict=True))

    def _cell(self, site: int, points: tuple[np.ndarray, np.ndarray]) -> _Cell:
        radius_ang = SEARCH_RADIUS_ANG
        while True:
            cell = _closed_cell(*points)
            if cell is not None:
                return cell
            if radius_ang >= self._largest_radius_ang:
                raise OpenCellError(f"site {site} has no closed Voronoi cell of atoms within {radius_ang:.1f} Å")
            radius_ang = min(2 * radius_ang, self._largest_radius_ang + 0.001)
            (points,) = self._points(np.array([site]), radius_ang)

    def of_sites(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield site, weights (n,) of its neighbours in descending order and vectors (n, 3) in Å, as CrystalNN."""
        if not self._cells:
            return
        sites, cells = list(self._cells), list(self._cells.values())
        n_faces = [len(cell.vectors_ang) for cell in cells]
        first_face = np.concatenate([[0], np.cumsum(n_faces)])
        first_vertex = np.concatenate([[0], np.cumsum([len(cell.vertices_ang) for cell in cells])])
        vectors = np.concatenate([cell.vectors_ang for cell in cells])
        distance = np.linalg.norm(vectors, axis=1)
        solid_angle, area = _faces(
            distance,
            np.concatenate([cell.vertices_ang for cell in cells]),
            np.concatenate([cell.edge_vertices + n for cell, n in zip(cells, first_vertex[:-1], strict=True)]),
            np.concatenate([cell.edge_faces + n for cell, n in zip(cells, first_face[:-1], strict=True)]),
        )
        own = np.repeat(self._numbers[sites], n_faces)
        other = self._numbers[np.concatenate([cell.sites for cell in cells])]
        species, index = np.unique(np.stack([own, other]), return_inverse=True)
        index = index.reshape(2, -1)
        preference, low_ang, high_ang = _pair_tables(tuple(species.tolist()))
        starts = first_face[:-1]
        weight = solid_angle / np.repeat(np.maximum.reduceat(solid_angle, starts), n_faces)
        weight *= np.divide(solid_angle, area, out=np.zeros_like(area), where=area > 0)
        weight *= preference[index[0], index[1]]
        weight /= np.repeat(np.maximum.reduceat(weight, starts), n_faces)
        low, high = low_ang[index[0], index[1]], high_ang[index[0], index[1]]
        fade = (np.cos((distance - low) / (high - low) * math.pi) + 1) * 0.5
        weight *= np.where(distance <= low, 1.0, np.where(distance < high, fade, 0.0))
        on_edge = np.abs(1000 * weight % 1 - 0.5) < 1e-9  # CrystalNN rounds weights to three decimals
        for site, start, end in zip(sites, first_face[:-1], first_face[1:], strict=True):
            if on_edge[start:end].any():
                self.unsure.append(site)
                continue
            order = np.argsort(-weight[start:end], kind="stable")
            yield site, weight[start:end][order], vectors[start:end][order]


@cache
def _pair_tables(kinds: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, per pair of atomic numbers, CrystalNN's factor and the distances (Å) between which weights fall to 0."""
    elements = [Element.from_Z(z) for z in kinds]
    radii_ang = [CovalentRadius.radius.get(element.symbol, element.atomic_radius) for element in elements]
    for element, radius in zip(elements, radii_ang, strict=True):
        if radius is None:
            raise ValueError(f"CrystalNN knows no radius of {element.symbol}")
    x = np.array([element.X for element in elements], dtype=float)
    preference = 1 + _X_DIFF_WEIGHT * np.sqrt(np.abs(x[:, None] - x) / _LARGEST_X_DIFF)
    bond_ang = np.add.outer(np.array(radii_ang, dtype=float), np.array(radii_ang, dtype=float))
    return np.where(np.isnan(preference), 1.0, preference), bond_ang + _CUTOFFS_ANG[0], bond_ang + _CUTOFFS_ANG[1]


def _closed_cell(vectors_ang: np.ndarray, neighbour_sites: np.ndarray) -> _Cell | None:
    """Return the Voronoi cell among neighbours (n, 3), None if it is open; UnsureSiteError if rounding decides that.

    Raises OpenCellError if the cell has a single vertex, as VoronoiNN does: Qhull lists no faces then.
    """
    squares = np.einsum("ij,ij->i", vectors_ang, vectors_ang)
    if len(squares) and squares.min() < _OVERLAP_ANG**2:
        raise UnsureSiteError("two atoms coincide")
    if len(squares) < 3:
        return None
    # The half-space nearer to the site than to p is x·p / |p|^2 < 1/2.
    nearest_ang = math.sqrt(squares.min())
    try:
        hull = ConvexHull(vectors_ang * (nearest_ang / squares)[:, None])
    except QhullError:  # only three points, or all on one sphere through the site or one plane through it
        if np.linalg.matrix_rank(vectors_ang, tol=1e-10) == 3:
            raise OpenCellError("a site's Voronoi cell has one vertex: too few atoms around it") from None
        return None
    offset = hull.equations[:, 3]
    if offset.max() > 1e-10:
        if len(np.unique(hull.equations[offset < -1e-10], axis=0)) == 1:
            raise OpenCellError("a site's Voronoi cell has one vertex: too few atoms around it")
        return None
    # Rounding errors of Qhull may close an open cell with vertices 1e14 Å away.
    if offset.max() > -1e-6:
        raise UnsureSiteError("a vertex of the cell is almost at infinity")
    vertices = hull.equations[:, :3] * (-0.5 * nearest_ang / offset)[:, None]
    faces = np.unique(hull.simplices)
    simplices = np.searchsorted(faces, hull.simplices)
    simplex = np.repeat(np.arange(len(simplices)), 3)
    neighbour = hull.neighbors.ravel()
    is_first = simplex < neighbour
    # The k-th neighbour of a triangle lies opposite to its k-th corner.
    edge_faces = np.stack([simplices[:, [1, 2, 0]].ravel(), simplices[:, [2, 0, 1]].ravel()], axis=1)[is_first]
    return _Cell(
        vectors_ang[faces],
        neighbour_sites[faces],
        vertices,
        np.stack([simplex, neighbour], axis=1)[is_first],
        edge_faces,
    )


def _faces(
    distance: np.ndarray, vertices: np.ndarray, edge_vertices: np.ndarray, edge_faces: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return solid angle (sr) and area (Å^2) of each face, from the distances (n,) in Å to the neighbours.

    Each face is divided into triangles between its centre and its edges; solid angles of triangles after Van Oosterom &
    Strackee, IEEE Trans. Biomed. Eng. 30, 125 (1983).
    """
    n = len(distance)
    faces = edge_faces.T.ravel()  # each edge bounds two faces
    start, end = np.tile(vertices[edge_vertices[:, 0]], (2, 1)), np.tile(vertices[edge_vertices[:, 1]], (2, 1))
    n_edges = np.bincount(faces, minlength=n)
    centre = np.stack([np.bincount(faces, start[:, k] + end[:, k], n) for k in range(3)], axis=1)
    a, b, c = (centre / (2 * n_edges)[:, None])[faces], start, end
    volume6 = np.abs(
        a[:, 0] * (b[:, 1] * c[:, 2] - b[:, 2] * c[:, 1])
        + a[:, 1] * (b[:, 2] * c[:, 0] - b[:, 0] * c[:, 2])
        + a[:, 2] * (b[:, 0] * c[:, 1] - b[:, 1] * c[:, 0])
    )
    norm_a, norm_b, norm_c = (np.sqrt(np.einsum("ij,ij->i", v, v)) for v in (a, b, c))
    denominator = (
        norm_a * norm_b * norm_c
        + norm_c * np.einsum("ij,ij->i", a, b)
        + norm_b * np.einsum("ij,ij->i", a, c)
        + norm_a * np.einsum("ij,ij->i", b, c)
    )
    solid_angle = np.bincount(faces, 2 * np.arctan2(volume6, denominator), n)
    return solid_angle, np.bincount(faces, volume6, n) / distance


def _coordination(weights: np.ndarray) -> Iterator[tuple[int, float, np.ndarray]]:
    """Yield coordination numbers in ascending order, their likelihoods, and which neighbours are tied with the next.

    Weights are rounded to three decimals. The likelihood of n neighbours is the area under a quarter of the unit circle
    between the n-th weight and the next smaller weight (CrystalNN._semicircle_integral).
    """
    tied = np.zeros(len(weights), dtype=bool)
    tied[:-1] = weights[:-1] - weights[1:] < _TIE
    rounded = np.round(weights, 3)
    rounded = rounded[rounded > 0]
    # Last index of each run of equal weights.
    lasts: np.ndarray | list[int] = np.flatnonzero(np.append(rounded[1:] != rounded[:-1], True)) if len(rounded) else []
    bins = [*rounded[lasts].tolist(), 0.0]
    areas = [math.pi / 4 if x == 1 else 0.5 * (x * math.sqrt(1 - x * x) + math.asin(x)) for x in bins]
    for last, larger, smaller in zip(lasts, areas, areas[1:], strict=False):
        yield int(last) + 1, (larger - smaller) / (math.pi / 4), tied[: last + 1]


# Order parameters


def _motifs() -> dict[int, list[tuple[str, dict]]]:
    """Return, by coordination number, kind and parameters of the motifs in the fingerprint's order."""
    parameters = load_cn_motif_op_params()
    motifs: dict[int, list[tuple[str, dict]]] = {}
    for cn, names in load_cn_target_motif_op().items():
        motifs[cn] = []
        for name in names:
            kind, *own_parameters = parameters.get(cn, {}).get(name, [name])
            motifs[cn].append((kind, dict(own_parameters[0] if own_parameters else DEFAULT_OP_PARAMS[kind] or {})))
    return motifs


_MOTIFS = _motifs()
_BCC_CN = 8
# Column of each coordination number's likelihood; its order parameters follow.
_FIRST = dict(
    zip(
        range(1, MAX_CN + 1),
        np.cumsum([0] + [1 + len(_MOTIFS.get(cn, [])) for cn in range(1, MAX_CN)]).tolist(),
        strict=True,
    )
)


class _Angles:
    """Angles in b sets of n vectors (b, n, 3), as defined by LocalStructOrderParams.

    Vector j is the north pole, k defines the prime meridian, m is any third vector. `polar` (b, n, n) are angles j-k in
    units of π; `azimuth_cos` (b, n, n, n) is the cosine of m's azimuth; `pairs` and `triples` mask the valid entries.
    `unsure` (b,) marks sets in which a rounding error decides on which side of a limit an angle is.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        units = vectors / np.linalg.norm(vectors, axis=2)[..., None]
        n = units.shape[1]
        cos = units @ units.transpose(0, 2, 1)
        self.n = n
        self.unsure = np.zeros(len(units), dtype=bool)
        self.theta = np.arccos(np.clip(cos, -1.0, 1.0))
        self.polar = self.theta * (1 / math.pi)
        self.pairs = ~np.eye(n, dtype=bool)
        if n < 3:
            return
        square = np.diagonal(cos, axis1=1, axis2=2)
        across = units[:, None] - (cos / square[:, :, None])[..., None] * units[:, :, None]
        length = np.sqrt(np.einsum("bjkx,bjkx->bjk", across, across))
        has_azimuth = (length >= _PARALLEL) & self.pairs
        # For almost parallel vectors, rounding errors decide the azimuth.
        self.unsure = ((length > 0.1 * _PARALLEL) & (length < 3e-9) & self.pairs).any(axis=(1, 2))
        across /= np.where(has_azimuth, length, 1.0)[..., None]
        self.azimuth_cos = np.clip(across @ across.transpose(0, 1, 3, 2), -1.0, 1.0)
        self.has_meridian = has_azimuth[..., None] & self.pairs[:, None, :] & self.pairs[None, :, :]
        self.triples = self.has_meridian & has_azimuth[:, :, None, :]

    def below(self, angle: float) -> np.ndarray:
        """Return whether angles j-k (b, n, n) are below `angle` (radians); marks sets with a tie as unsure."""
        self.unsure |= ((np.abs(self.theta - angle) < _TIE) & self.pairs).any(axis=(1, 2))
        return self.theta < angle


def _gauss(x: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * x * x)


def _cos_squared(cos: np.ndarray, factor: float) -> np.ndarray:
    """Return cos²(factor · φ) from cos φ, by the Chebyshev polynomial of degree 2 · factor."""
    return 0.5 * (1 + _chebyshev(cos, round(2 * factor)))


def _chebyshev(x: np.ndarray, degree: int) -> np.ndarray:
    previous, current = np.ones_like(x), x
    for _ in range(degree - 1):
        previous, current = current, 2 * x * current - previous
    return current


def _order_parameters(cn: int, vectors_ang: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the (b, p) order parameters of b sets of vectors (b, cn, 3), and for which sets pymatgen was used."""
    n_sets, delegated = len(vectors_ang), np.zeros(len(vectors_ang), dtype=bool)
    if cn == 1:
        return np.ones((n_sets, 1)), delegated
    angles = _Angles(vectors_ang)
    parallel = angles.unsure
    values = np.zeros((n_sets, len(_MOTIFS[cn])))
    for column, (kind, p) in enumerate(_MOTIFS[cn]):
        angles.unsure = parallel.copy()
        values[:, column] = _KINDS[kind](angles, p)
        for i in np.flatnonzero(angles.unsure):
            values[i, column] = _by_pymatgen(kind, p, vectors_ang[i])
        delegated |= angles.unsure
    return values, delegated


def _by_pymatgen(kind: str, p: dict, vectors_ang: np.ndarray) -> float:
    """Return one order parameter of vectors (n, 3) computed by pymatgen; 0 if pymatgen returns None."""
    sites = [SimpleNamespace(coords=vector) for vector in (np.zeros(3), *vectors_ang)]
    (value,) = LocalStructOrderParams([kind], [p]).get_order_parameters(sites, 0, list(range(1, len(sites))))
    return value or 0.0


def _order_matters(vectors_ang: np.ndarray, tied: np.ndarray) -> np.ndarray:
    """Return whether (b,) the body-centred parameter depends on the order of neighbours with equal weights.

    `vectors_ang` are (b, 8, 3); `tied` (b, 8) marks neighbours with the same weight as the next one.
    """
    (p,) = (p for kind, p in _MOTIFS[_BCC_CN] if kind == "bcc")
    by_pair = _bcc_by_pair(_Angles(vectors_ang), p)
    tie_group = np.cumsum(np.pad(~tied[:, :-1], ((0, 0), (1, 0))), axis=1)
    arbitrary = np.where(tie_group[:, :, None] == tie_group[:, None, :], by_pair - by_pair.transpose(0, 2, 1), 0.0)
    return np.abs(arbitrary).sum(axis=(1, 2)) > 1e-8


def _bent(angles: _Angles, p: dict) -> np.ndarray:
    value = np.where(angles.pairs, _gauss(p["IGW_TA"] * (angles.polar - p["TA"])), 0.0)
    return value.sum(axis=(1, 2)) / (angles.n * (angles.n - 1))


def _best(angles: _Angles, of_k: np.ndarray, n_k: np.ndarray, of_m: np.ndarray, n_m: np.ndarray) -> np.ndarray:
    """Return the maximum over pole j and meridian k of the mean contribution of k and all m."""
    total, norm = of_k + of_m.sum(axis=3), n_k + n_m.sum(axis=3)
    value = np.where(norm > _PARALLEL, total / np.where(norm > _PARALLEL, norm, 1.0), 0.0)
    return np.where(angles.pairs, value, 0.0).max(axis=(1, 2))


def _planar_or_tetrahedral(angles: _Angles, p: dict) -> np.ndarray:
    value = _gauss(p["IGW_TA"] * (angles.polar - p["TA"]))
    of_m = np.where(angles.triples, value[:, :, None] * _cos_squared(angles.azimuth_cos, p["fac_AA"]), 0.0)
    return _best(angles, value, np.ones_like(value), of_m, angles.triples)


def _pyramid(angles: _Angles, p: dict) -> np.ndarray:
    value = _gauss(p["IGW_EP"] * (angles.polar - 0.5))
    of_m = np.where(angles.triples, value[:, :, None] * _cos_squared(angles.azimuth_cos, p["fac_AA"]), 0.0)
    return _best(angles, value, np.ones_like(value), of_m, angles.triples)


def _pentagon(angles: _Angles, p: dict) -> np.ndarray:
    near = angles.below(p["TA"] * math.pi) | (angles.theta == p["TA"] * math.pi)
    value = _gauss(p["IGW_TA"] * (angles.polar - np.where(near, 0.4, 0.8)))
    of_m = np.where(angles.triples, value[:, :, None] * angles.azimuth_cos**2, 0.0)
    return _best(angles, value, np.ones_like(value), of_m, angles.triples)


def _bipyramid(angles: _Angles, p: dict, kind: str = "") -> np.ndarray:
    """Score equatorial neighbours by angle and azimuth, neighbours near the south pole by angle only."""
    north = angles.below(p["min_SPP"])
    deviation = np.abs(angles.polar - 0.5) - p["TA"] if kind == "hexagon" else angles.polar - 0.5
    value = _gauss(p["IGW_TA" if kind == "hexagon" else "IGW_EP"] * deviation)
    south = _gauss(p["IGW_SPP"] * (angles.polar - 1.0))
    is_south = angles.has_meridian & ~north[:, :, None]
    is_equatorial = angles.triples & north[..., None] & north[:, :, None]
    if kind == "see_saw":
        limit = math.cos(0.75 * math.pi)
        near_limit = np.abs(angles.azimuth_cos - limit) < _TIE
        angles.unsure |= (near_limit & is_equatorial).any(axis=(1, 2, 3))
        is_equatorial &= angles.azimuth_cos > limit
    of_m = np.where(is_equatorial, value[:, :, None] * _cos_squared(angles.azimuth_cos, p["fac_AA"]), 0.0)
    of_m += np.where(is_south, south[:, :, None], 0.0)
    return _best(angles, np.where(north, value, 0.0), north, of_m, is_equatorial | is_south)


def _see_saw(angles: _Angles, p: dict) -> np.ndarray:
    return _bipyramid(angles, p, "see_saw")


def _hexagon(angles: _Angles, p: dict) -> np.ndarray:
    return _bipyramid(angles, p, "hexagon")


def _cuboctahedron(angles: _Angles, p: dict) -> np.ndarray:
    north, wide, narrow = angles.below(p["min_SPP"]), angles.below(p[2]), angles.below(p[4])
    middle = wide & ~narrow
    of_k = np.where(north, 0.0, p["w_SPP"] * _gauss(p["IGW_SPP"] * (angles.polar - 1.0)))
    counts = angles.triples & north[:, :, None] & middle[..., None]
    sin = np.sqrt(1 - angles.azimuth_cos**2)
    off_plane = np.where(narrow, _gauss(p[6] * (angles.polar - 1 / 3)), _gauss(p[6] * (angles.polar - 2 / 3)))
    in_plane = _gauss(p[5] * (angles.polar - 0.5))
    of_m = np.where(
        middle[:, :, None],
        angles.azimuth_cos**2 * in_plane[:, :, None],
        _gauss(0.0556 * (sin - 0.81649658)) * off_plane[:, :, None],
    )
    return _best(angles, of_k, np.where(north, 0.0, p["w_SPP"]), np.where(counts, of_m, 0.0), counts)


def _bcc(angles: _Angles, p: dict) -> np.ndarray:
    """Count each pair once, with the neighbour of larger weight as the pole: the order of the neighbours matters."""
    return np.where(np.triu(angles.pairs), _bcc_by_pair(angles, p), 0.0).sum(axis=(1, 2))


def _bcc_by_pair(angles: _Angles, p: dict) -> np.ndarray:
    """Return the contributions (b, n, n) of each pole j and meridian k."""
    n = angles.n
    north = angles.below(p["min_SPP"])
    slope = (angles.theta - math.pi / 2) / math.asin(1 / 3)
    of_m = math.exp(0.5) * slope * _gauss(slope)
    across = np.where(angles.triples, _chebyshev(angles.azimuth_cos, 3) * of_m[:, :, None], 0.0).sum(axis=3)
    # The sign changes at a right angle.
    angles.unsure |= ((np.abs(angles.theta - math.pi / 2) < _TIE) & (np.abs(across) > _TIE)).any(axis=(1, 2))
    value = np.where(angles.theta > math.pi / 2, across, -across)
    value = np.where(north, value, p["w_SPP"] * _gauss(p["IGW_SPP"] * (angles.polar - 1.0)))
    return np.where(angles.pairs, value, 0.0) / (0.5 * n * (6 + (n - 2) * (n - 3)))


def _steinhardt(degree: int):
    """Return the function that computes Steinhardt's q of this degree; Phys. Rev. B 28, 784 (1983).

    By the addition theorem of spherical harmonics it is the square root of the mean Legendre polynomial over all pairs.
    """
    legendre = np.polynomial.legendre.Legendre.basis(degree).convert(kind=np.polynomial.Polynomial)

    def q(angles: _Angles, _p: dict) -> np.ndarray:
        return np.sqrt(np.maximum(legendre(np.cos(angles.theta)).sum(axis=(1, 2)), 0.0)) / angles.n

    return q


_KINDS = {
    "bent": _bent,
    "tri_plan_max": _planar_or_tetrahedral,
    "tet_max": _planar_or_tetrahedral,
    "T": _pyramid,
    "tri_pyr": _pyramid,
    "sq_pyr": _pyramid,
    "pent_pyr": _pyramid,
    "hex_pyr": _pyramid,
    "sq_plan_max": _bipyramid,
    "oct_max": _bipyramid,
    "tri_bipyr": _bipyramid,
    "pent_bipyr": _bipyramid,
    "hex_bipyr": _bipyramid,
    "see_saw_rect": _see_saw,
    "hex_plan_max": _hexagon,
    "pent_plan_max": _pentagon,
    "cuboct_max": _cuboctahedron,
    "bcc": _bcc,
    "q2": _steinhardt(2),
    "q4": _steinhardt(4),
    "q6": _steinhardt(6),
}
