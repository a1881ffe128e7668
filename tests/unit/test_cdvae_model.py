"""CDVAE's networks and losses: symmetries, noise, values by hand, and a score that points back to the crystal."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cdvae_examples import BOUNDS, graph_of, make, settings, some_structures
from hullseeker.cdvae.cells import shortest_vectors_ang
from hullseeker.cdvae.data import (
    BondGraph,
    Crystal,
    DataError,
    collate,
    crystals_of_rows,
    lattice_scale,
    lattice_targets,
)
from hullseeker.cdvae.model import Cdvae, Draws, coordinate_loss, kl_divergence
from hullseeker.cdvae.noise import drawn_types, noise_levels, noisy_positions, type_probabilities
from hullseeker.cdvae.periodic_graph import nearest_neighbours, possible_pairs
from hullseeker.tables.structures import from_structure

CLOSE = 1e-4


@pytest.fixture(scope="module")
def model() -> Cdvae:
    """An untrained model whose encoder says something: its output layers start at zero."""
    torch.manual_seed(0)
    model = Cdvae(settings(), BOUNDS).double().eval()
    for output in model.encoder.outputs:
        torch.nn.init.normal_(output.lin.weight)
    return model


@pytest.fixture(scope="module")
def crystals() -> list[Crystal]:
    return [make(s, name) for name, s in some_structures().items()]


def decode(model, lattice, n_atoms, frac, types, z):
    with torch.no_grad():
        return model.scores(z, frac, types, possible_pairs(lattice, n_atoms, model.settings["decoder"]["cutoff_ang"]))


def decoder_input(crystals, model):
    batch = collate(crystals)
    generator = torch.Generator().manual_seed(5)
    frac = (batch.frac + 0.05 * torch.rand(batch.frac.shape, generator=generator, dtype=torch.float64)) % 1.0
    z = torch.randn(len(crystals), model.settings["latent_size"], generator=generator, dtype=torch.float64)
    return batch, frac, z


def encoded(model, crystals):
    with torch.no_grad():
        return model.encoder(*graph_of(crystals, model.settings))


def moved(crystal: Crystal, frac: np.ndarray, order=None) -> Crystal:
    order = np.arange(len(frac)) if order is None else order
    return Crystal("x", crystal.lengths_ang, crystal.angles_deg, frac[order] % 1.0, crystal.atomic_numbers[order])


def test_the_encoder_tells_crystals_apart(model, crystals):
    values = encoded(model, crystals)
    for i in range(len(crystals)):
        for j in range(i):
            assert (values[i] - values[j]).abs().max() > 0.01


def test_the_encoder_does_not_see_translation_images_and_order(model, crystals):
    rng = np.random.default_rng(0)
    expected = encoded(model, crystals)
    shifted = [moved(c, c.frac + rng.random(3)) for c in crystals]
    whole = [moved(c, c.frac + rng.integers(-2, 3, size=c.frac.shape)) for c in crystals]
    permuted = [moved(c, c.frac, rng.permutation(len(c.frac))) for c in crystals]
    for others in (shifted, whole, permuted):
        torch.testing.assert_close(encoded(model, others), expected, atol=CLOSE, rtol=0)


def test_the_encoder_does_not_see_rotation(model, crystals):
    batch, graph = graph_of(crystals, model.settings)
    turned = torch.tensor(Rotation.random(random_state=0).as_matrix()) @ torch.diag(torch.tensor([1, 1, -1.0]).double())
    other = BondGraph(**{**vars(graph), "vector_ang": graph.vector_ang @ turned.T})
    with torch.no_grad():
        torch.testing.assert_close(model.encoder(batch, other), model.encoder(batch, graph), atol=CLOSE, rtol=0)


def test_the_encoder_does_not_see_which_cell(model):
    structure = some_structures()["triclinic"]
    double = structure.copy()
    double.make_supercell([[2, 0, 0], [0, 1, 0], [1, 0, 1]])
    torch.testing.assert_close(*encoded(model, [make(structure), make(double)]).unbind(), atol=CLOSE, rtol=0)


def test_the_decoder_turns_with_the_crystal(model, crystals):
    batch, frac, z = decoder_input(crystals, model)
    vectors, logits = decode(model, batch.lattice, batch.n_atoms, frac, batch.atomic_numbers, z)
    assert vectors.norm(dim=-1).max() > 1e-3
    turned = torch.tensor(Rotation.random(random_state=1).as_matrix())
    lattice = batch.lattice @ turned.T
    other, same = decode(model, lattice, batch.n_atoms, frac, batch.atomic_numbers, z)
    torch.testing.assert_close(other, vectors @ turned.T, atol=CLOSE, rtol=0)
    torch.testing.assert_close(same, logits, atol=CLOSE, rtol=0)


def test_the_decoder_goes_with_translation_images_and_order(model, crystals):
    batch, frac, z = decoder_input(crystals, model)
    rng = np.random.default_rng(2)
    expected = decode(model, batch.lattice, batch.n_atoms, frac, batch.atomic_numbers, z)
    shift = torch.tensor(rng.random((len(crystals), 3)))[batch.crystal]
    whole = torch.tensor(rng.integers(-2, 3, size=tuple(frac.shape)))
    for other in ((frac + shift) % 1.0, frac + whole):
        found = decode(model, batch.lattice, batch.n_atoms, other, batch.atomic_numbers, z)
        for one, two in zip(found, expected, strict=True):
            torch.testing.assert_close(one, two, atol=CLOSE, rtol=0)
    order = torch.cat([torch.tensor(rng.permutation(int(n))) for n in batch.n_atoms])
    order += (torch.cumsum(batch.n_atoms, 0) - batch.n_atoms)[batch.crystal]
    found = decode(model, batch.lattice, batch.n_atoms, frac[order], batch.atomic_numbers[order], z)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two[order], atol=CLOSE, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_a_symmetric_site_has_no_vector(seed):
    """In rocksalt every site is a centre of inversion, in 32 bits too, with shells that the cap cuts."""
    torch.manual_seed(seed)
    single, z = Cdvae(settings(), BOUNDS).eval(), torch.randn(1, 16)
    batch = collate([make(some_structures()["rocksalt"])]).to("cpu")
    displaced = batch.frac.clone()
    displaced[0] += 0.05
    symmetric, broken = (
        decode(single, batch.lattice, batch.n_atoms, frac, batch.atomic_numbers, z)[0].abs().max()
        for frac in (batch.frac, displaced)
    )
    # Rounding in 32 bits leaves 2e-3 of it at most in twelve seeds.
    assert symmetric < 0.01 * broken


def test_coincident_atoms_give_finite_numbers(model):
    batch, _, z = decoder_input([make(some_structures()["triclinic"])], model)
    frac = torch.zeros(4, 3).double()
    for value in decode(model, batch.lattice, batch.n_atoms, frac, batch.atomic_numbers, z):
        assert value.isfinite().all()


def test_noise_levels_are_geometric():
    levels = noise_levels(10.0, 0.01, 50)
    assert levels[0].item() == pytest.approx(10.0)
    assert levels[-1].item() == pytest.approx(0.01)
    ratios = (levels[1:] / levels[:-1]).numpy()
    np.testing.assert_allclose(ratios, (0.01 / 10) ** (1 / 49))
    with pytest.raises(ValueError, match="they must decrease"):
        noise_levels(0.01, 10.0, 5)


def test_the_noise_of_positions_is_cartesian_and_stays_in_the_cell():
    batch = collate([make(some_structures()["triclinic"])] * 500)
    normal = torch.randn(len(batch.frac), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigma = torch.full((len(batch.frac),), 0.1, dtype=torch.float64)
    noisy = noisy_positions(batch.frac, batch.lattice, batch.crystal, sigma, normal)
    assert ((noisy >= 0) & (noisy < 1)).all()
    back = shortest_vectors_ang(noisy, batch.frac, batch.lattice, batch.crystal)
    torch.testing.assert_close(back, -0.1 * normal)


def test_noisy_elements_are_drawn_as_the_paper_says():
    """A quarter of the mass is the head's where sigma is 1/3; the draws follow it."""
    logits = torch.zeros(100, dtype=torch.float64)
    logits[:3] = torch.log(torch.tensor([0.5, 0.3, 0.2]))
    logits[3:] = -1e9
    n = 40_000
    probabilities = type_probabilities(torch.full((n,), 8), logits.expand(n, -1), torch.full((n,), 1 / 3).double())
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(n).double())
    drawn = drawn_types(probabilities, torch.rand(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    shares = torch.bincount(drawn, minlength=10)[[8, 1, 2, 3]] / n
    np.testing.assert_allclose(shares.numpy(), [0.75, 0.125, 0.075, 0.05], atol=0.01)
    assert drawn_types(probabilities[:1], torch.tensor([0.9999999]).double()).item() == 8


def test_the_losses_are_those_of_the_formulas(model):
    """Every term again in NumPy, loops and all, from the model's raw outputs."""
    crystals = [make(some_structures()[name]) for name in ("rocksalt", "triclinic")]
    batch, graph = graph_of(crystals, model.settings)
    draws = Draws.make(batch, 16, 10, torch.Generator().manual_seed(3))
    draws = Draws(*(v.double() if v.is_floating_point() else v for v in vars(draws).values()))
    with torch.no_grad():
        found = {k: v.item() for k, v in model.losses(batch, graph, draws, teacher_forcing=True).items()}
        mean, log_variance = model.encode(batch, graph)
        z = mean + draws.latent * log_variance.exp().sqrt()
        lattices, heads = model.lattice(z).numpy(), (model.n_atoms(z).numpy(), model.composition(z).numpy())
        sigma = model.coordinate_sigmas[draws.coordinate_level].numpy()
        sigma_type = model.type_sigmas[draws.type_level].numpy()
        noisy = noisy_positions(
            batch.frac, batch.lattice, batch.crystal, torch.tensor(sigma)[batch.crystal], draws.positions
        )
        types = drawn_types(
            type_probabilities(
                batch.atomic_numbers, model.composition(z)[batch.crystal], torch.tensor(sigma_type)[batch.crystal]
            ),
            draws.types,
        )
        vectors, logits = (x.numpy() for x in decode(model, batch.lattice, batch.n_atoms, noisy, types, z))

    def nats(scores, wanted):
        return np.log(np.exp(scores).sum()) - scores[wanted]

    expected = dict.fromkeys(found, 0.0)
    first = 0
    for b, crystal in enumerate(crystals):
        n = len(crystal.atomic_numbers)
        expected["n_atoms"] += nats(heads[0][b], n) / 2
        wanted = np.concatenate([crystal.lengths_ang / n ** (1 / 3), crystal.angles_deg])
        expected["lattice"] += ((lattices[b] - wanted) ** 2).mean() / 2
        matrix = batch.lattice[b].numpy()
        for i in range(first, first + n):
            delta = batch.frac[i].numpy() - noisy[i].numpy()
            images = [(delta + [x, y, w]) @ matrix for x in range(-2, 3) for y in range(-2, 3) for w in range(-2, 3)]
            d = min(images, key=np.linalg.norm)
            rest = d / sigma[b] ** 2 - vectors[i] / sigma[b]
            expected["coordinates"] += 0.5 * sigma[b] ** 2 * (rest**2).sum() / n / 2
            element = int(batch.atomic_numbers[i]) - 1
            expected["composition"] += nats(heads[1][b], element) / n / 2
            expected["types"] += nats(logits[i], element) / sigma_type[b] / n / 2
        first += n
        mu, variance = mean[b].numpy(), log_variance[b].exp().numpy()
        expected["kl"] += 0.5 * (mu**2 + variance - 1 - np.log(variance)).sum() / 2
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5), name
    weights = model.settings["loss_weights"]
    total = model.total({k: torch.tensor(v) for k, v in found.items()})
    assert total.item() == pytest.approx(sum(weights[k] * v for k, v in expected.items()), rel=1e-5)


def test_the_best_vector_has_no_loss_and_the_prior_no_divergence():
    batch = collate([make(some_structures()["rocksalt"])])
    sigma, back = torch.tensor([0.5, 0.5]), torch.tensor([[0.1, 0, 0], [0, 0.2, 0.0]])
    assert coordinate_loss(back, back / 0.5, sigma, batch).item() == 0.0
    assert coordinate_loss(back, 0 * back, sigma, batch).item() == pytest.approx((0.5 * 0.04 + 0.5 * 0.16) / 2)
    assert kl_divergence(torch.zeros(3, 4), torch.zeros(3, 4)).item() == 0.0


def test_predicted_cells_that_are_absurd_give_way_to_the_true_ones(model):
    crystals = [make(some_structures()["rocksalt"])]
    batch, graph = graph_of(crystals, model.settings)
    draws = Draws.make(batch, 16, 10, torch.Generator().manual_seed(3))
    draws = Draws(*(v.double() if v.is_floating_point() else v for v in vars(draws).values()))
    with torch.no_grad():  # an untrained head predicts a cell of a few hundredths of an angstrom
        one, other = (model.losses(batch, graph, draws, forced)["coordinates"] for forced in (True, False))
    assert one.item() == other.item()


def test_lattices_are_scaled_by_the_number_of_atoms():
    rows = torch.tensor([[8.0, 8.0, 4.0]]), torch.tensor([[90.0, 80.0, 70.0]])
    targets = lattice_targets(*rows, torch.tensor([8]))
    torch.testing.assert_close(targets, torch.tensor([[4.0, 4.0, 2.0, 90.0, 80.0, 70.0]]))
    mean, deviation = lattice_scale([make(some_structures()["rocksalt"])] * 2)
    assert deviation.tolist() == [1.0] * 6
    with pytest.raises(DataError, match="no crystal to train CDVAE on"):
        lattice_scale([])


def test_what_cdvae_cannot_take_is_refused_by_name():
    structures = some_structures()
    rows = [{"structure_id": name, **from_structure(s)} for name, s in structures.items()]
    rows.append({**rows[0], "structure_id": "heavy", "atomic_numbers": [11, 103]})
    rows.append({**rows[0], "structure_id": "flat", "lattice_ang": [1.0, 0, 0, 1, 0, 0, 0, 0, 1]})
    crystals, refused = crystals_of_rows(rows, max_atoms=4)
    assert [c.structure_id for c in crystals] == ["rocksalt", "copper", "triclinic"]
    assert "5 atoms; cdvae.max_atoms is 4" in refused["perovskite"]
    assert "atomic number 103 is not among the 100 elements" in refused["heavy"]
    assert "cannot be reduced" in refused["flat"]


def test_neighbours_need_no_gradient():
    batch = collate([make(some_structures()["rocksalt"])])
    frac = batch.frac.requires_grad_()
    near = nearest_neighbours(possible_pairs(batch.lattice, batch.n_atoms, 4.0), frac, 12)
    assert not near.vector_ang.requires_grad
