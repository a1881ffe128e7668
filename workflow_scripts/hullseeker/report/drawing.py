"""Common appearance of the figures: matplotlib style, one colour per system, unit cells as balls and sticks.

Needs: matplotlib, numpy, ase.

Crystals are drawn here because ASE's `plot_atoms` draws balls without bonds, and pymatviz draws with plotly, which
needs a browser to write a PDF or PNG.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import product
from pathlib import Path as FilePath

import matplotlib.style
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from ase.data.colors import jmol_colors
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.transforms import Affine2D

from hullseeker.runtime.atomic_writes import replacing

COLUMN_WIDTH_IN, PAGE_WIDTH_IN = 3.4, 7.1  # widths of one and of two columns in a two-column journal
INK, GREY, ALARM = "#222222", "#8a8a8a", "#c8102e"
# Palette of Okabe and Ito 2008, without yellow, which is too pale for thin lines.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#5b3a8c", "#4d4d4d")
STYLE = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so figures are the same on every machine
    "mathtext.fontset": "dejavusans",
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,  # TrueType: accepted by journals, editable in vector graphics programs
    "savefig.dpi": 200,
    "figure.dpi": 200,
}

BOND_TOLERANCE = 1.15  # longest bond, as a multiple of the sum of covalent radii
BALL_SCALE = 0.45  # radius of a drawn atom, as a multiple of its covalent radius
BOND_RADIUS_ANG = 0.11
BOUNDARY_FRACTION = 0.04  # an atom nearer than this to a cell face is drawn on the opposite face too
SEGMENTS_PER_EDGE = 40
AZIMUTH_DEG, ELEVATION_DEG = 22.0, 13.0  # a points to the viewer, b to the right, c up
LIGHT = np.array([-0.38, 0.46])  # position of the highlight on a sphere of radius 1
NOT_METALS = {1, 2, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 32, 33, 34, 35, 36, 51, 52, 53, 54, 85, 86}


@dataclass(frozen=True)
class Named:
    """The key, label and colour of a system or training stage in a figure; the colour follows from its position."""

    key: str
    label: str
    colour: str


def named(entries: Iterable[Mapping | str]) -> list[Named]:
    """Return the key, label and colour of each entry: a key, or a mapping with "system" or "key" and "label".

    `"position"` in an entry selects its colour; by default that is the index of the entry.
    """
    named_entries = []
    for index, entry in enumerate(entries):
        entry = {"key": entry} if isinstance(entry, str) else entry
        colour = COLOURS[int(entry.get("position", index)) % len(COLOURS)]
        key = entry["system"] if "system" in entry else entry["key"]
        named_entries.append(Named(key, entry.get("label", key), colour))
    return named_entries


def paper_style() -> AbstractContextManager:
    """Return a context manager that applies the style of all figures in place of the user's matplotlibrc."""
    return matplotlib.style.context(["default", STYLE])


def save_figure(figure: Figure, pdf: str | FilePath, png: str | FilePath) -> None:
    """Write the figure atomically as PDF and PNG, without dates, so that equal figures give equal files."""
    with replacing(pdf) as beside:
        figure.savefig(beside, format="pdf", metadata={"Creator": "Hullseeker", "Producer": None, "CreationDate": None})
    with replacing(png) as beside:
        figure.savefig(beside, format="png", metadata={"Software": None})


def empty_panel(axes: Axes, message: str) -> None:
    """Clear the axes and print a message that says why there is nothing to plot."""
    axes.set(xticks=[], yticks=[])
    axes.minorticks_off()
    axes.spines[:].set_visible(False)
    axes.text(0.5, 0.5, message, transform=axes.transAxes, ha="center", va="center", color=GREY, fontsize=7)


@dataclass(frozen=True)
class CrystalPicture:
    """A projected unit cell: filled paths in Å, sorted from back to front, and their bounding box (x0, y0, x1, y1)."""

    paths: list[Path]
    colours: np.ndarray
    box_ang: tuple[float, float, float, float]
    atomic_numbers: tuple[int, ...]
    n_balls: int


def camera(azimuth_deg: float = AZIMUTH_DEG, elevation_deg: float = ELEVATION_DEG) -> np.ndarray:
    """Return the view rotation (3, 3): its rows point right, up, and towards the viewer."""
    azimuth, elevation = np.radians([azimuth_deg, elevation_deg])
    right = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
    towards = np.array([*(np.cos(elevation) * np.array([np.cos(azimuth), np.sin(azimuth)])), np.sin(elevation)])
    return np.array([right, np.cross(towards, right), towards])


def atoms_in_cell(atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Return fractional coordinates (n, 3) and atomic numbers (n,), with periodic images of atoms on the boundary."""
    fractions, numbers = [], []
    for fraction, number in zip(atoms.get_scaled_positions(wrap=True), atoms.numbers, strict=True):
        near, far = fraction < BOUNDARY_FRACTION, fraction > 1 - BOUNDARY_FRACTION
        for shift in product(*[(0, 1) if n else (0, -1) if f else (0,) for n, f in zip(near, far, strict=True)]):
            fractions.append(fraction + shift)
            numbers.append(number)
    return np.reshape(fractions, (-1, 3)), np.array(numbers, dtype=int)


def bonded_pairs(points: np.ndarray, numbers: np.ndarray) -> list[tuple[int, int]]:
    """Return index pairs nearer than 1.15 times the sum of their covalent radii, without metal-metal pairs."""
    radii = covalent_radii[numbers]
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    near = distances < BOND_TOLERANCE * (radii[:, None] + radii[None])
    covalent = np.isin(numbers, list(NOT_METALS))
    near &= covalent[:, None] | covalent[None]
    return [(int(i), int(j)) for i, j in np.argwhere(np.triu(near, k=1))]


def project_crystal(atoms: Atoms) -> CrystalPicture:
    """Project a unit cell orthographically: edges, bonds and balls, in Å, sorted by depth.

    The cell is first rotated so that a lies along x and b in the xy plane: all crystals are seen from one direction.
    """
    cell = atoms.cell.standard_form()[0].array
    view = camera()
    fractions, numbers = atoms_in_cell(atoms)
    points = (fractions - 0.5) @ cell @ view.T
    radii = BALL_SCALE * covalent_radii[numbers]
    corners = (np.array(list(product((0, 1), repeat=3))) - 0.5) @ cell @ view.T
    edge_width = 0.010 * float(np.ptp(corners[:, :2], axis=0).max())
    items = [
        (point[2], _ball(point[:2], r, _element_colour(z))) for point, r, z in zip(points, radii, numbers, strict=True)
    ]
    for pair in bonded_pairs(points, numbers):
        items += _bond(points[list(pair)], radii[list(pair)], numbers[list(pair)])
    items += _edges(cell, view, points, radii, edge_width)
    depths = np.array([depth for depth, _ in items])
    haze = (depths.max() - depths) / max(float(np.ptp(depths)), 1e-9) * 0.28
    paths, colours = [], []
    for index in np.argsort(depths, kind="stable"):
        for path, colour in items[index][1]:
            paths.append(path)
            colours.append(_mix(colour, 1.0, haze[index]))
    low = np.vstack([points[:, :2] - radii[:, None], corners[:, :2]]).min(axis=0)
    high = np.vstack([points[:, :2] + radii[:, None], corners[:, :2]]).max(axis=0)
    return CrystalPicture(
        paths, np.array(colours), (*low, *high), tuple(dict.fromkeys(atoms.numbers.tolist())), len(points)
    )


def draw_picture(axes: Axes, picture: CrystalPicture, x_ang: float, y_ang: float) -> None:
    """Draw the picture centred at (x, y) in axes with equal aspect and data in Å."""
    x0, y0, x1, y1 = picture.box_ang
    moved = Affine2D().translate(x_ang - (x0 + x1) / 2, y_ang - (y0 + y1) / 2)
    drawn = PathCollection(picture.paths, facecolors=picture.colours, edgecolors="none", linewidths=0)
    drawn.set_transform(moved + axes.transData)
    axes.add_collection(drawn, autolim=False)


def draw_element_key(axes: Axes, numbers: Sequence[int], x_ang: float, y_ang: float, ang_per_in: float) -> None:
    """Draw a legend of the elements in one row centred at (x, y): a ball in the element's colour, then its symbol."""
    step = 0.31 * ang_per_in
    for index, number in enumerate(numbers):
        x = x_ang + (index - (len(numbers) - 1) / 2) * step - 0.05 * ang_per_in
        paths, colours = zip(*_ball(np.array([x, y_ang]), 0.045 * ang_per_in, _element_colour(number)), strict=True)
        axes.add_collection(PathCollection(paths, facecolors=colours, linewidths=0), autolim=False)
        axes.text(x + 0.07 * ang_per_in, y_ang, chemical_symbols[number], va="center_baseline", ha="left", fontsize=6.5)


def _mix(colour, grey: float, share: float) -> np.ndarray:
    return (1 - share) * np.asarray(colour, dtype=float) + share * grey


def _element_colour(number: int) -> np.ndarray:
    # Jmol colours are meant for a black background; on white they are printed less saturated.
    colour = jmol_colors[number]
    return np.clip(0.88 * colour + 0.12 * colour.mean(), 0, 1)


def _ball(centre: np.ndarray, radius: float, colour: np.ndarray) -> list[tuple[Path, np.ndarray]]:
    """Return a shaded sphere as discs that shrink and brighten towards the highlight; the first disc is the outline."""
    unit = Path.unit_circle()
    vertices = np.asarray(unit.vertices)
    discs = [(0.0, 1.0, _mix(colour, 0.0, 0.62))]
    for t in np.linspace(0, 1, 14):
        tone = _mix(colour, 0.0, 0.36 * (1 - 2 * t) ** 1.1) if t < 0.5 else _mix(colour, 1.0, 0.85 * (2 * t - 1) ** 2.2)
        discs.append((t, 0.94 * (1 - t) ** 0.75 + 0.06 * t, tone))
    return [(Path(centre + radius * (t * LIGHT + r * vertices), unit.codes), tone) for t, r, tone in discs]


def _strip(start: np.ndarray, end: np.ndarray, low: float, high: float) -> Path:
    """Return the quadrilateral along a line between two distances from it, in the plane of the picture."""
    along = end - start
    across = np.array([-along[1], along[0]]) / max(float(np.hypot(*along)), 1e-9)
    return Path(
        [start + low * across, end + low * across, end + high * across, start + high * across, start], closed=True
    )


def _bond(ends: np.ndarray, radii: np.ndarray, numbers: np.ndarray) -> list[tuple[float, list]]:
    """Return a bond as two half cylinders from the balls to the middle, each in the colour of its atom."""
    length = float(np.linalg.norm(ends[1] - ends[0]))
    if length <= 1.05 * radii.sum():
        return []
    halves = []
    for here, there in ((0, 1), (1, 0)):
        direction = (ends[there] - ends[here]) / length
        start, middle = ends[here] + 0.92 * radii[here] * direction, ends.mean(axis=0)
        colour, strips = _element_colour(numbers[here]), []
        flip = 1 if direction[0] >= 0 else -1  # light both halves from the same side
        for low, high, tone in (
            (-1, 1, -0.5),
            (-0.82, 0.82, -0.22),
            (-0.5, 0.78, 0.0),
            (-0.1, 0.6, 0.25),
            (0.12, 0.42, 0.5),
        ):
            shade = _mix(colour, 1.0 if tone > 0 else 0.0, abs(tone))
            band = sorted((flip * low * BOND_RADIUS_ANG, flip * high * BOND_RADIUS_ANG))
            strips.append((_strip(start[:2], middle[:2], *band), shade))
        halves.append(((start[2] + middle[2]) / 2, strips))
    return halves


def _edges(
    cell: np.ndarray, view: np.ndarray, points: np.ndarray, radii: np.ndarray, width_ang: float
) -> list[tuple[float, list]]:
    """Return the twelve cell edges in short pieces, each with its own depth; edges behind the cell are thinner."""
    cell = cell * (1 if np.linalg.det(cell) >= 0 else -1)  # outward normals need a right-handed cell
    normals = np.array([np.cross(cell[1], cell[2]), np.cross(cell[2], cell[0]), np.cross(cell[0], cell[1])]) @ view[2]
    pieces = []
    for axis in range(3):
        first, second = (i for i in range(3) if i != axis)
        for p, q in product((0, 1), repeat=2):
            behind = normals[first] * (2 * p - 1) < 0 and normals[second] * (2 * q - 1) < 0
            ends = np.zeros((2, 3))
            ends[:, first], ends[:, second], ends[1, axis] = p, q, 1
            start, end = (ends - 0.5) @ cell @ view.T
            line = start + np.linspace(0, 1, SEGMENTS_PER_EDGE + 1)[:, None] * (end - start)
            half = width_ang * (0.22 if behind else 0.5)
            colour = np.array(to_rgb(GREY if behind else INK))
            for a, b in zip(line, line[1:], strict=False):
                # A piece inside a ball is not drawn, even where it lies in front of the centre of the ball.
                if not (np.linalg.norm(points - (a + b) / 2, axis=1) < radii).any():
                    overlap = 0.15 * (b - a)[:2]
                    pieces.append(
                        ((a[2] + b[2]) / 2, [(_strip(a[:2] - overlap, b[:2] + overlap, -half, half), colour)])
                    )
    return pieces
