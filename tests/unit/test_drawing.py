"""The drawing of unit cells: which atoms, which bonds, what hides what; and files that are the same each time."""

import matplotlib
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hullseeker.report.drawing import (
    COLOURS,
    atoms_in_cell,
    bonded_pairs,
    camera,
    draw_picture,
    empty_panel,
    named,
    paper_style,
    project_crystal,
    save_figure,
)


def caesium_chloride() -> Atoms:
    return Atoms("CsCl", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[4.12] * 3, pbc=True)


def test_rock_salt_cell_shows_fourteen_and_thirteen_atoms():
    _, numbers = atoms_in_cell(bulk("NaCl", "rocksalt", a=5.64, cubic=True))
    assert sorted(np.unique(numbers, return_counts=True)[1]) == [13, 14]  # 8 corners + 6 faces; 12 edges + middle


@pytest.mark.parametrize("corner", [0.0, 0.01, 0.99])
def test_corner_atom_is_drawn_on_eight_corners_wherever_it_was_wrapped(corner):
    atoms = Atoms("Po", scaled_positions=[[corner] * 3], cell=[3.3] * 3, pbc=True)
    fractions, _ = atoms_in_cell(atoms)
    assert len(fractions) == 8
    assert np.abs(fractions - np.round(fractions)).max() < 0.011


def test_caesium_chloride_has_eight_bonds_and_an_alloy_none():
    fractions, numbers = atoms_in_cell(caesium_chloride())
    assert len(bonded_pairs(fractions * 4.12, numbers)) == 8
    fractions, numbers = atoms_in_cell(Atoms("CuZn", caesium_chloride().positions * 0.7, cell=[2.95] * 3, pbc=True))
    assert bonded_pairs(fractions * 2.95, numbers) == []


def test_camera_is_a_rotation_that_shows_a_b_and_c_as_promised():
    view = camera()
    assert np.allclose(view @ view.T, np.eye(3)) and np.isclose(np.linalg.det(view), 1)
    towards_a, right_b, up_c = view[2, 0], view[0, 1], view[1, 2]
    assert min(towards_a, right_b, up_c) > 0.9


def test_picture_does_not_depend_on_how_the_crystal_was_turned():
    quartz = crystal(
        ["Si", "O"], [(0.47, 0, 0), (0.41, 0.27, 0.12)], spacegroup=152, cellpar=[4.9, 4.9, 5.4, 90, 90, 120]
    )
    turned = quartz.copy()
    turned.rotate(71, (1, 2, 3), rotate_cell=True)
    one, other = project_crystal(quartz), project_crystal(turned)
    assert np.allclose(one.box_ang, other.box_ang, atol=1e-6)
    assert one.n_balls == other.n_balls and len(one.paths) == len(other.paths)


def test_nearer_ball_is_painted_over_the_farther():
    view = camera()
    atoms = Atoms("CsF", positions=[4 - 2.9 * view[2], 4 + 2.9 * view[2] * 0.3], cell=[8] * 3, pbc=True)
    atoms.positions += 4 - atoms.positions.mean(axis=0)
    figure = Figure(figsize=(2, 2), dpi=50)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-2, 2), ylim=(-2, 2))
    axes.set_axis_off()
    picture = project_crystal(atoms)
    x0, y0, x1, y1 = picture.box_ang
    draw_picture(axes, picture, (x0 + x1) / 2, (y0 + y1) / 2)
    canvas.draw()
    red, green, blue = np.asarray(canvas.buffer_rgba())[50, 50, :3].astype(int)
    assert green > red + 20 and green > blue + 20  # fluorine's green, not caesium's violet


def test_left_handed_and_flat_cells_are_drawn():
    for cell in ([[0, 4, 0], [4, 0, 0], [0, 0, 4]], [[4, 0, 0], [4, 0.001, 0], [0, 0, 4]]):
        picture = project_crystal(Atoms("Na", cell=cell, pbc=True))
        assert (
            picture.n_balls == 8 and np.isfinite(picture.box_ang).all() and len(picture.colours) == len(picture.paths)
        )


def test_colour_goes_with_the_position():
    assert [n.colour for n in named([{"key": "a", "label": "A"}, "b"])] == [COLOURS[0], COLOURS[1]]
    assert named([{"key": "b", "label": "B", "position": 1}])[0].colour == COLOURS[1]
    assert named(["b"])[0].label == "b" and named([{"system": "s", "label": "S"}])[0].key == "s"


def test_style_leaves_the_users_settings_alone_and_files_are_whole(tmp_path):
    before = matplotlib.rcParams["pdf.fonttype"]
    with paper_style():
        figure = Figure(figsize=(2, 1))
        empty_panel(figure.subplots(), "no relaxed samples")
        save_figure(figure, tmp_path / "a.pdf", tmp_path / "a.png")
        save_figure(figure, tmp_path / "b.pdf", tmp_path / "b.png")
    assert matplotlib.rcParams["pdf.fonttype"] == before
    pdf = (tmp_path / "a.pdf").read_bytes()
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf and b"CreationDate" not in pdf
    assert pdf == (tmp_path / "b.pdf").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pdf", "a.png", "b.pdf", "b.png"]
