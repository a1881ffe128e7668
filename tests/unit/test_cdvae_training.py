"""CDVAE's training and sampling: a loss that falls, a kill that changes nothing, a crystal that comes back."""

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from cdvae_examples import BOUNDS, graph_of, make, settings, some_structures
from hullseeker.cdvae.cells import to_fractional
from hullseeker.cdvae.data import Prepared, bonds_of_crystals, collate
from hullseeker.cdvae.periodic_graph import possible_pairs
from hullseeker.cdvae.sampling import draw_composition, draw_crystals, draw_latents, generators_for
from hullseeker.cdvae.saved_model import load_model, save_model
from hullseeker.cdvae.training import Training, curve_rows
from hullseeker.metrics.matching import match
from hullseeker.tables.structures import to_structure


@pytest.fixture(autouse=True)
def short_validations(monkeypatch):
    monkeypatch.setattr("hullseeker.cdvae.training.VALIDATION_DRAWS", 30)


def prepared(crystals) -> Prepared:
    return Prepared(crystals, bonds_of_crystals(crystals, "radius", 5.0, 12))


@pytest.fixture(scope="module")
def few() -> Prepared:
    rng = np.random.default_rng(0)
    found = []
    for i in range(24):
        a = rng.uniform(4.0, 6.0)
        pair = [int(z) for z in rng.choice([3, 11, 19, 9, 17, 35], size=2, replace=False)]
        found.append(make(Structure(Lattice.cubic(a), pair, [[0, 0, 0], rng.normal(0.5, 0.02, 3)]), f"c-{i}"))
    return prepared(found)


def training(few, folder, how=None, identity="mine", val=None) -> Training:
    how = how or settings()
    return Training(how, BOUNDS, few, val or few, 7, folder / "checkpoint.safetensors", identity)


def test_the_loss_falls(few, tmp_path):
    run = training(few, tmp_path, settings(training={"n_epochs": 30, "teacher_forcing_epochs": 20}))
    run.run()
    losses = [entry["loss"] for entry in run.state.history]
    assert np.mean(losses[-3:]) < 0.5 * np.mean(losses[:3])
    rows = curve_rows(run.state.history)
    assert [r["step"] for r in rows if r["quantity"] == "loss"] == [3 * (i + 1) for i in range(30)]
    assert {r["quantity"] for r in rows} >= {"loss", "eval_loss", "kl_loss", "coordinates_loss", "learning_rate"}


def test_an_untrained_model_does_not_stand_as_a_trained_one(few, tmp_path):
    run = training(few, tmp_path, settings(training={"learning_rate": 0.0}))
    with pytest.raises(RuntimeError, match="the weights of the best epoch, 1, are those from the start"):
        run.run()


class KilledError(Exception):
    pass


def test_a_killed_training_goes_on_as_if_nothing_had_been(few, tmp_path):
    whole = training(few, tmp_path / "whole")
    expected = whole.run()

    def kill(entry):
        if entry["epoch"] == 2:
            raise KilledError

    with pytest.raises(KilledError):
        training(few, tmp_path / "killed").run(kill)
    torch.rand(7)  # the state of torch's own generator must not matter
    again = training(few, tmp_path / "killed")
    assert again.resumed
    assert again.state.epoch == 2
    found = again.run()
    assert again.state.history == whole.state.history
    assert again.weight_change() == whole.weight_change() > 1e-3
    for one, two in zip(found.state_dict().values(), expected.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_a_checkpoint_of_another_run_or_cut_short_is_not_taken(few, tmp_path):
    training(few, tmp_path).run()
    assert training(few, tmp_path).resumed
    assert not training(few, tmp_path, identity="another").resumed
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert not training(few, tmp_path).resumed
    path.write_bytes(b"")
    assert not training(few, tmp_path).resumed


def test_the_best_weights_are_kept(few, tmp_path):
    run = training(few, tmp_path, settings(training={"n_epochs": 6, "learning_rate": 2.0e-2}))
    model = run.run()
    assert run.state.best == min(entry["eval_loss"] for entry in run.state.history)
    run.model = model
    assert run._validate() == pytest.approx(run.state.best, rel=1e-6)


def test_without_a_validation_set_training_judges_itself(few, tmp_path):
    run = training(few, tmp_path, settings(training={"n_epochs": 1}), val=Prepared([], []))
    run.run()
    (entry,) = run.state.history
    assert entry["eval_loss"] == pytest.approx(10 * entry["coordinates"] + entry["types"])


def test_a_loss_that_is_no_number_ends_the_run(few, tmp_path):
    run = training(few, tmp_path)
    with torch.no_grad():
        run.model.mean.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="lower cdvae.training.learning_rate"):
        run.run()


def test_the_score_points_back_to_a_crystal_that_was_learned(learned):
    """After overfitting one crystal the vectors lead back: cosine above 0.9 with the way home.

    The part that all atoms share is left out of both: a crystal that moves as a whole is the same crystal.
    """
    model, crystal, z = learned
    n, copies = len(crystal.atomic_numbers), 30
    batch = collate([crystal] * copies).to("cpu")
    generator = torch.Generator().manual_seed(11)
    for sigma in (0.05, 0.2):
        noise = sigma * torch.randn(len(batch.frac), 3, generator=generator)
        frac = (batch.frac + to_fractional(noise, batch.lattice, batch.crystal)) % 1.0
        pairs = possible_pairs(batch.lattice, batch.n_atoms, model.settings["decoder"]["cutoff_ang"])
        with torch.no_grad():
            vectors, logits = model.scores(z.expand(copies, -1), frac, batch.atomic_numbers, pairs)
        own = (vectors.view(copies, n, 3), -noise.view(copies, n, 3))
        one, other = ((x - x.mean(dim=1, keepdim=True)).flatten() for x in own)
        assert torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.9, sigma
        assert (logits.argmax(-1) + 1 == batch.atomic_numbers).float().mean() > 0.95


def test_langevin_dynamics_finds_a_learned_crystal(learned):
    model, crystal, z = learned
    batch, _ = graph_of([crystal], model.settings, torch.float32)
    drawn = draw_crystals(model, z.expand(6, -1), generators_for(range(6)))
    wanted = Structure(batch.lattice[0].double().numpy(), crystal.atomic_numbers, crystal.frac)
    found = [match(wanted, to_structure(d.columns)) for d in drawn if not d.error]
    assert sum(f.matched for f in found) >= 5
    assert np.median([f.rmsd_norm for f in found if f.matched]) < 0.1


def test_what_else_is_drawn_changes_nothing(learned, monkeypatch):
    model, _, _ = learned
    monkeypatch.setitem(model.settings, "sampling", model.settings["sampling"] | {"n_levels": 2, "steps_per_level": 2})
    together = draw_crystals(model, draw_latents(model, generators_for([1, 2, 3])), generators_for([4, 5, 6]))
    alone = draw_crystals(model, draw_latents(model, generators_for([2])), generators_for([5]))
    assert together[1].error == alone[0].error
    if not alone[0].error:
        assert together[1].columns["atomic_numbers"] == alone[0].columns["atomic_numbers"]
        np.testing.assert_allclose(together[1].columns["frac_coords"], alone[0].columns["frac_coords"], atol=1e-3)


def test_absurd_cells_and_numbers_are_refused_with_an_error():
    torch.manual_seed(0)
    model = untrained()
    (drawn,) = draw_crystals(model, torch.zeros(1, 16), generators_for([1]), n_atoms=[2])
    assert "outside" in drawn.error and not drawn.columns
    (drawn,) = draw_crystals(model, torch.full((1, 16), float("nan")), generators_for([1]), n_atoms=[2])
    assert "not finite" in drawn.error
    cubic(model)
    (drawn,) = draw_crystals(model, torch.zeros(1, 16), generators_for([1]), n_atoms=[0])
    assert "no atoms" in drawn.error
    with torch.no_grad():
        model.decoder.gate[-1].bias.fill_(float("nan"))
    (drawn,) = draw_crystals(model, torch.zeros(1, 16), generators_for([1]), n_atoms=[2])
    assert "positions are no longer finite" in drawn.error and not drawn.columns


def untrained():
    from hullseeker.cdvae.model import Cdvae

    return Cdvae(settings(sampling={"n_levels": 2, "steps_per_level": 1}), BOUNDS)


def cubic(model) -> None:
    with torch.no_grad():
        model.lattice[-1].weight.zero_()
        model.lattice[-1].bias.copy_(torch.tensor([3.0, 3.0, 3.0, 90.0, 90.0, 90.0]))


def test_compositions_are_expected_counts():
    probabilities = torch.zeros(100)
    probabilities[[10, 16]] = torch.tensor([0.26, 0.74])
    drawn = draw_composition(probabilities, 4, generators_for([0])[0])
    assert sorted(drawn.tolist()) == [11, 17, 17, 17]
    probabilities = torch.full((100,), 0.01)
    drawn = draw_composition(probabilities, 5, generators_for([0])[0])
    assert len(drawn) == 5
    assert 1 <= drawn.min() <= drawn.max() <= 100


def test_a_saved_model_is_the_model(tmp_path):
    torch.manual_seed(1)
    model = untrained()
    cubic(model)
    save_model(model, tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    again = load_model(tmp_path / "model", "cpu")
    one, other = (draw_crystals(m, torch.zeros(1, 16), generators_for([3]), [2])[0].columns for m in (model, again))
    assert one == other and one
    assert load_model(tmp_path / "model", "cpu", {"n_levels": 9}).settings["sampling"] == {"n_levels": 9}
    with pytest.raises(FileNotFoundError, match="run the rule train_cdvae"):
        load_model(tmp_path, "cpu")


def test_crystals_for_the_tests_are_those_meant():
    assert make(some_structures()["perovskite"]).atomic_numbers.tolist() == [38, 22, 8, 8, 8]
