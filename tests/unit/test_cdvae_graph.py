"""CDVAE's periodic graph: against ASE, in supercells and other images, at the cap, in skewed and in tiny cells."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list
from pymatgen.core import Lattice, Structure

from cdvae_examples import BOUNDS, make, some_structures
from hullseeker.cdvae.cells import (
    cell_problem,
    lattice_matrix,
    lattice_parameters,
    shortest_vectors_ang,
    sound_cells,
    volume_ang3,
    wrap,
)
from hullseeker.cdvae.data import bonds_of_crystals, collate
from hullseeker.cdvae.periodic_graph import (
    Bonds,
    as_bonds,
    nearest_neighbours,
    possible_pairs,
    smooth_step,
    triplets,
)

SKEWED = Lattice.from_parameters(2.1, 6.5, 9.0, 38, 55, 41)


def batch_of(lattices, fracs, dtype=torch.float64):
    lattice = torch.tensor(np.array(lattices), dtype=dtype)
    n_atoms = torch.tensor([len(f) for f in fracs])
    return lattice, n_atoms, torch.tensor(np.concatenate(fracs), dtype=dtype)


def random_cells():
    rng = np.random.default_rng(0)
    lattices = [
        np.eye(3) * 2.2,
        SKEWED.matrix,
        Lattice.from_parameters(3, 4, 5, 80, 100, 65).matrix,
        rng.normal(size=(3, 3)) * 3 + np.eye(3) * 2,
    ]
    return lattices, [rng.random((n, 3)) for n in (1, 3, 5, 2)]


def test_all_pairs_within_the_cutoff_are_ases():
    lattices, fracs = random_cells()
    lattice, n_atoms, frac = batch_of(lattices, fracs)
    cutoff = 5.0
    near = nearest_neighbours(possible_pairs(lattice, n_atoms, cutoff), frac, 2000)
    first = 0
    for matrix, own in zip(lattices, fracs, strict=True):
        atoms = Atoms(numbers=[1] * len(own), cell=matrix, scaled_positions=own, pbc=True)
        i, j, vectors = neighbor_list("ijD", atoms, cutoff)
        expected = sorted((a, b, *np.round(v, 6) + 0.0) for a, b, v in zip(i, j, vectors, strict=True))
        bonds = as_bonds(near)
        mine = (bonds.receiver >= first) & (bonds.receiver < first + len(own))
        found = sorted(
            (int(a) - first, int(b) - first, *np.round(v.numpy(), 6) + 0.0)
            for a, b, v in zip(bonds.receiver[mine], bonds.sender[mine], bonds.vector_ang[mine], strict=True)
        )
        assert len(found) == len(expected) > 0
        np.testing.assert_allclose(np.array(found), np.array(expected), atol=2e-6)
        first += len(own)


def test_the_cap_keeps_the_nearest_whole_shells():
    structures = some_structures()
    crystals = [make(structures["copper"]), make(structures["triclinic"])]
    batch = collate(crystals)
    pairs = possible_pairs(batch.lattice, batch.n_atoms, 6.0)
    near = nearest_neighbours(pairs, batch.frac, 20)
    # Copper: 12 + 6 are 18; the next shell of 24 does not fit, and is left out whole.
    assert (near.weight[0] > 0).sum() == 18
    everything = nearest_neighbours(pairs, batch.frac, 500)
    kept, all_of = near.distance_ang[1:], everything.distance_ang[1:, :20]
    used = near.weight[1:] > 0
    torch.testing.assert_close(kept[used], all_of[used])
    assert used.sum(dim=1).min() >= 18
    with pytest.raises(ValueError, match="max_neighbours is 6; it must be at least 12"):
        nearest_neighbours(pairs, batch.frac, 6)


def test_a_neighbour_that_changes_places_at_the_cap_changes_nothing():
    """Two shells of nearly equal distance: as one passes the other, weights move by no more than the atoms do."""
    lattice, n_atoms, frac = batch_of([np.eye(3) * 3.0], [np.array([[0, 0, 0.0]])])
    weights = []
    for strain in (-1e-4, 1e-4):
        stretched = lattice.clone()
        stretched[0, 0, 0] *= 1 + strain
        near = nearest_neighbours(possible_pairs(stretched, n_atoms, 6.0), frac, 16)
        weights.append(near.weight.sum().item())
    assert abs(weights[0] - weights[1]) < 1e-2


def test_smooth_step_has_flat_ends():
    x = torch.tensor([0.0, 0.7 + 1e-3, 0.85, 1 - 1e-3, 1.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(smooth_step(x)[[0, 2, 4, 5]], torch.tensor([1.0, 0.5, 0.0, 0.0], dtype=torch.float64))
    assert 1 - smooth_step(x)[1] < 1e-6
    assert smooth_step(x)[3] < 1e-6


def test_edges_of_a_supercell_are_those_of_the_cell_per_atom():
    structure = some_structures()["triclinic"]
    double = structure.copy()
    double.make_supercell([[2, 0, 0], [0, 1, 0], [1, 0, 1]])

    def edges(s):
        lattice, n_atoms, frac = batch_of([s.lattice.matrix], [s.frac_coords])
        near = nearest_neighbours(possible_pairs(lattice, n_atoms, 5.0), frac, 20)
        kinds = [site.specie.Z for site in s]
        rows = []
        for i in range(len(s)):
            used = near.weight[i] > 0
            lengths = [round(x, 6) for x in near.distance_ang[i][used].tolist()]
            senders = [kinds[j] for j in near.sender[i][used].tolist()]
            weights = [round(x, 6) for x in near.weight[i][used].tolist()]
            rows.append((kinds[i], *sorted(zip(lengths, senders, weights, strict=True))))
        return rows

    one, two = edges(structure), edges(double)
    assert len(two) == 2 * len(one)
    assert {str(r) for r in one} == {str(r) for r in two}


def test_images_change_nothing():
    structure = some_structures()["triclinic"]
    lattice, n_atoms, frac = batch_of([structure.lattice.matrix], [structure.frac_coords])
    pairs = possible_pairs(lattice, n_atoms, 5.0)
    moved = frac + torch.tensor([[1, -2, 0], [0, 3, 1], [0, 0, 0], [5, 5, -5]], dtype=frac.dtype)
    one, other = nearest_neighbours(pairs, frac, 16), nearest_neighbours(pairs, moved, 16)
    torch.testing.assert_close(one.vector_ang, other.vector_ang)
    assert torch.equal(one.sender, other.sender)
    for near, at in ((one, frac), (other, moved)):
        whole = at[near.sender] + near.image - at[:, None]
        used = near.weight > 0
        torch.testing.assert_close((whole @ lattice[0])[used], near.vector_ang[used])


def test_a_batch_is_its_crystals():
    crystals = [make(s) for s in some_structures().values()]
    together = bonds_of_crystals(crystals, "radius", 5.0, 12)
    for crystal, bonds in zip(crystals, together, strict=True):
        (alone,) = bonds_of_crystals([crystal], "radius", 5.0, 12)
        rows = [  # the order within a shell is a matter of rounding
            sorted(
                zip(
                    b.receiver.tolist(), b.sender.tolist(), (b.vector_ang.round(decimals=6) + 0.0).tolist(), strict=True
                )
            )
            for b in (alone, bonds)
        ]
        assert [r[:2] for r in rows[0]] == [r[:2] for r in rows[1]]
        np.testing.assert_allclose(*([r[2] for r in one] for one in rows), atol=1e-5)


def test_triplets_walk_on_and_never_back():
    """Two atoms in a chain: i→j→i in another image is a walk, back to where it came from is none."""
    lattice, n_atoms, frac = batch_of([np.diag([4.0, 20.0, 20.0])], [np.array([[0, 0, 0], [0.5, 0, 0.0]])])
    bonds = as_bonds(nearest_neighbours(possible_pairs(lattice, n_atoms, 3.0), frac, 12))
    assert len(bonds.receiver) == 4
    kj, ji = triplets(bonds, 2)
    assert len(kj) == 4
    walked = bonds.vector_ang[ji] + bonds.vector_ang[kj]
    torch.testing.assert_close(walked[:, 0].abs(), torch.full((4,), 4.0, dtype=walked.dtype))
    assert torch.equal(bonds.sender[ji], bonds.receiver[kj])
    nothing = Bonds(*(x[:0] for x in vars(bonds).values()))
    assert triplets(nothing, 2)[0].numel() == 0


def test_crystal_nn_bonds_are_pymatgens():
    crystals = [make(some_structures()["rocksalt"]), make(some_structures()["perovskite"])]
    salt, perovskite = bonds_of_crystals(crystals, "crystal_nn", 7.0, 20)
    assert torch.bincount(salt.receiver).tolist() == [6, 6]
    torch.testing.assert_close(salt.vector_ang.norm(dim=-1), torch.full((12,), 2.82, dtype=salt.vector_ang.dtype))
    titanium = int(np.flatnonzero(crystals[1].atomic_numbers == 22)[0])
    assert (perovskite.receiver == titanium).sum() == 6
    with pytest.raises(ValueError, match="cdvae.graph is 'voronoi'"):
        bonds_of_crystals(crystals, "voronoi", 7.0, 20)


def test_lattices_and_their_parameters():
    lattice = Lattice.from_parameters(3.1, 4.2, 5.3, 71, 95, 112)
    lengths, angles = torch.tensor([lattice.abc]).double(), torch.tensor([lattice.angles]).double()
    matrix = lattice_matrix(lengths, angles)
    assert volume_ang3(matrix).item() == pytest.approx(lattice.volume)
    assert torch.linalg.det(matrix).item() > 0
    back = lattice_parameters(matrix)
    torch.testing.assert_close(back[0], lengths)
    torch.testing.assert_close(back[1], angles)
    assert lattice_matrix(lengths, torch.tensor([[30.0, 30.0, 120.0]]).double()).isnan().any()


def test_shortest_vectors_are_pymatgens():
    rng = np.random.default_rng(1)
    lattice = Lattice.from_parameters(3.1, 4.2, 5.3, 62, 75, 68).get_niggli_reduced_lattice()
    one, other = rng.random((20, 3)), rng.random((20, 3))
    expected = [lattice.get_distance_and_image(a, b)[0] for a, b in zip(one, other, strict=True)]
    vectors = shortest_vectors_ang(
        torch.tensor(one),
        torch.tensor(other),
        torch.tensor(lattice.matrix.copy())[None],
        torch.zeros(20, dtype=torch.long),
    )
    np.testing.assert_allclose(vectors.norm(dim=-1).numpy(), expected, atol=1e-9)


def handedness(structure):
    """Return a number that a mirror turns round: the triple product of the vectors from iron to its nearest others."""
    iron = [i for i, site in enumerate(structure) if site.specie.Z == 26][0]
    near = sorted(structure.get_neighbors(structure[iron], 6), key=lambda n: n.nn_distance)[:3]
    return np.linalg.det([n.coords - structure[iron].coords for n in near])


def test_niggli_cells_keep_the_crystal_and_its_hand():
    structure = some_structures()["triclinic"]
    structure.make_supercell([[1, 1, 0], [0, 1, 2], [0, 0, 1]])
    mirrored = Structure(structure.lattice.matrix * [1, 1, -1], structure.species, structure.frac_coords)
    for one in (structure, mirrored):
        crystal = make(one)
        batch = collate([crystal])
        again = Structure(batch.lattice[0].numpy(), crystal.atomic_numbers, crystal.frac)
        assert again.volume == pytest.approx(one.volume)
        got, want = np.sort(again.distance_matrix.ravel()), np.sort(one.distance_matrix.ravel())
        np.testing.assert_allclose(got, want, atol=1e-6)
        assert np.linalg.det(again.lattice.matrix) > 0
        assert handedness(again) == pytest.approx(handedness(one))


@pytest.mark.parametrize(
    ("lengths", "angles", "n", "words"),
    [
        ([4.0, 4.0, 4.0], [90.0, 90.0, 90.0], 4, None),
        ([4.0, float("nan"), 4.0], [90.0, 90.0, 90.0], 4, "not finite"),
        ([4.0, 4.0, 4.0], [30.0, 30.0, 120.0], 4, "do not close"),
        ([0.5, 4.0, 4.0], [90.0, 90.0, 90.0], 4, "lattice lengths 0.5, 4, 4 are outside 1 to 60"),
        ([4.0, 4.0, 4.0], [90.0, 90.0, 170.0], 4, "lattice angles"),
        ([4.0, 4.0, 4.0], [90.0, 90.0, 90.0], 0, "no atoms"),
        ([4.0, 4.0, 4.0], [90.0, 90.0, 90.0], 40, "1.6 Å^3 per atom, outside 2 to 500"),
    ],
)
def test_absurd_cells_are_named(lengths, angles, n, words):
    one, other, n_atoms = torch.tensor([lengths]), torch.tensor([angles]), torch.tensor([n])
    volume = volume_ang3(lattice_matrix(one, other)).item()
    problem = cell_problem(lengths, angles, volume, n, BOUNDS)
    assert (problem is None) if words is None else (words in problem)
    if n:
        assert sound_cells(one, other, n_atoms, BOUNDS).item() == (words is None)


def test_wrapping_is_half_open():
    frac = wrap(torch.tensor([[-1e-9, 1.0, 2.25]]))
    assert ((frac >= 0) & (frac < 1)).all()
