"""The figures, from small tables: files exist and show something, empty systems say so, numbers are right."""

from pathlib import Path
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

import plot_crystals
import plot_hull_distribution
import plot_reward_audit
import plot_training_curves
from hullseeker.report.drawing import named
from hullseeker.tables.parquet import TableError, write_table

SETTINGS = {"stable_below_ev_per_atom": 0.1, "strict_below_ev_per_atom": 0.02, "n_bootstrap": 1000}

SYSTEMS = [{"system": "sft", "label": "SFT"}, {"system": "none", "label": "Nothing"}]
SALT = {
    "lattice_ang": [4.1, 0, 0, 0, 4.1, 0, 0, 0, 4.1],
    "atomic_numbers": [55, 17],
    "frac_coords": [0, 0, 0, 0.5, 0.5, 0.5],
}
N = 9


class Files(dict):
    __getattr__ = dict.__getitem__


def fake(folder: Path, inputs: dict, **params) -> SimpleNamespace:
    out = Files({kind: str(folder / f"figure.{kind}") for kind in ("pdf", "png", "csv")})
    return SimpleNamespace(input=Files(inputs), output=out, params=SimpleNamespace(**params), log=[str(folder / "log")])


def energies(n: int = N) -> np.ndarray:
    return np.r_[np.random.default_rng(1).normal(0.1, 0.1, n - 2), 5.0, -3.0]


def write_tables(folder: Path) -> dict:
    """Write a system with N good rows and two bad ones, and a system with three bad ones."""
    paths = {name: [] for name in ("samples", "relaxed", "hull", "matches", "audit")}
    for system, n_ok, n_bad in (("sft", N, 2), ("none", 0, 3)):
        ids = [f"{system}-{i:06d}" for i in range(n_ok + n_bad)]
        tables = {
            name: [{"structure_id": i, "status": "not_attempted", "error": "no"} for i in ids[n_ok:]] for name in paths
        }
        for row in tables["samples"]:
            row |= {"status": "parse_failed", "prompt_formula": "CsCl"}
        for i, e in zip(ids[:n_ok], energies(), strict=False):
            ok = {"structure_id": i, "status": "ok"}
            tables["samples"].append({**ok, **SALT, "formula": "CsCl", "prompt_formula": "CsCl"})
            tables["relaxed"].append({**ok, **SALT, "initial_energy_ev_per_atom": -3.0, "energy_ev_per_atom": -3.25})
            tables["hull"].append({**ok, "e_above_hull_ev_per_atom": e})
            tables["matches"].append({**ok, "matched": True})
            tables["audit"].append(audit_row(i, evaluator=e, chgnet=e, energy=-3.0, reference=-2.9, e_hull=e))
        for name, rows in tables.items():
            extra = {"samples": {"system": system}, "relaxed": {"potential": "sevennet"}}.get(name, {})
            path = folder / name / f"{system}.parquet"
            write_table(path, [{**row, **extra} for row in rows], "reward_audit" if name == "audit" else name)
            paths[name].append(str(path))
    return paths


def audit_row(structure_id, evaluator, chgnet, energy, reference, e_hull, status="ok") -> dict:
    return {
        "structure_id": structure_id,
        "status": status,
        "evaluator_formation_energy_ev_per_atom": evaluator,
        "chgnet_formation_energy_ev_per_atom": chgnet,
        "chgnet_energy_ev_per_atom": energy,
        "chgnet_reference_energy_ev_per_atom": reference,
        "e_above_hull_ev_per_atom": e_hull,
        "unreliable": None,
    }


def write_curves(folder: Path) -> list[str]:
    sft = [("sft", s, "loss", 1 / (s + 1)) for s in range(20)] + [("sft", s, "eval_loss", 0.5) for s in (0, 10)]
    grpo = [("grpo", s, "reward_mean", float(s)) for s in range(20)] + [
        ("grpo", s, "parse_share", 0.9) for s in range(20)
    ]
    paths = []
    for key, rows in (("sft", sft), ("sft-grpo", grpo), ("grpo", [])):
        paths.append(str(folder / "curves" / f"{key}.parquet"))
        columns = ("stage", "step", "quantity", "value")
        write_table(paths[-1], [dict(zip(columns, row, strict=True)) for row in rows], "training_curve")
    return paths


def run(what: str, inputs: Path, folder: Path, systems=SYSTEMS) -> Files:
    folder.mkdir()
    settings = {**SETTINGS, "n_rows": 1}
    paths = write_curves(inputs) if what == "curves" else write_tables(inputs)
    keep = [SYSTEMS.index(s) for s in systems]
    if what == "curves":
        stages = [{"key": k, "label": k} for k in ("sft", "sft-grpo", "grpo")]
        snakemake, script = fake(folder, {"curves": paths}, curves=stages), plot_training_curves
    else:
        paths = {name: [files[i] for i in keep] for name, files in paths.items()}
        figure = what if what.startswith("figure") else "figure1"
        snakemake = fake(folder, paths, systems=systems, settings=settings, seed=3, figure=figure, before_rl={})
        script = {"hull": plot_hull_distribution, "audit": plot_reward_audit}.get(what, plot_crystals)
    script.main(snakemake)
    return snakemake.output


def ink(path: str) -> float:
    """The share of pixels that are not white."""
    return float((matplotlib.image.imread(path)[..., :3].min(axis=-1) < 0.97).mean())


@pytest.mark.parametrize("what", ["figure1", "figure3", "hull", "audit", "curves"])
def test_figures_show_something_and_have_the_same_bytes_each_time(what, tmp_path):
    one, two = (run(what, tmp_path / "in", tmp_path / name) for name in ("one", "two"))
    assert ink(one.png) > 0.02
    assert len(np.unique(matplotlib.image.imread(one.png)[..., :3].reshape(-1, 3), axis=0)) > 50
    assert Path(one.pdf).read_bytes() == Path(two.pdf).read_bytes()
    assert Path(one.png).read_bytes() == Path(two.png).read_bytes()


@pytest.mark.parametrize("what", ["figure1", "hull", "audit"])
def test_a_system_without_relaxed_samples_says_so(what, tmp_path):
    empty = run(what, tmp_path / "in", tmp_path / "empty", SYSTEMS[1:])
    full = run(what, tmp_path / "in", tmp_path / "full", SYSTEMS[:1])
    assert 0.0005 < ink(empty.png) < ink(full.png)


def test_csv_of_figure2_has_numpys_quantiles_and_empty_cells_for_an_empty_system(tmp_path):
    table = pd.read_csv(run("hull", tmp_path / "in", tmp_path / "out").csv)
    assert list(table) == [
        "system",
        "label",
        "n",
        "q05",
        "q25",
        "median",
        "q75",
        "q95",
        "n_beyond_axis",
        "n_unreliable_hull",
    ]
    names = ["q05", "q25", "median", "q75", "q95"]
    assert np.allclose(table.loc[0, names].astype(float), np.quantile(energies(), [0.05, 0.25, 0.5, 0.75, 0.95]))
    assert table["n"].tolist() == [N, 0]
    assert table["n_beyond_axis"].tolist() == [2, 0]  # 5 and -3 eV/atom, by hand
    assert table.loc[1, names].isna().all()


def test_cumulative_share_and_its_band():
    block = plot_hull_distribution.Block(named(SYSTEMS)[0], np.array([0.0, 0.0, 0.1, 0.4]), 9)
    shares = plot_hull_distribution.cumulative_share(block, np.array([-0.1, 0.0, 0.1, 0.3]))
    assert shares.tolist() == [0, 0.5, 0.75, 0.75]
    rows = [{"status": "ok", "e_above_hull_ev_per_atom": e, "unreliable": None} for e in (0.4, 0.0)]
    rows += [{"status": "ok", "e_above_hull_ev_per_atom": -2.0, "unreliable": "no_competing_compound"}] * 2
    rows += [{"status": "relax_failed", "e_above_hull_ev_per_atom": None, "unreliable": None}]
    half = plot_hull_distribution.block_of(named(SYSTEMS)[0], rows)
    assert (half.energies.tolist(), half.n, half.n_unreliable, half.n_drawn) == ([0.0, 0.4], 4, 2, 5)
    # A sample on an unreliable hull is relaxed and not stable: of four, one is below 0.1 eV/atom.
    assert plot_hull_distribution.cumulative_share(half, np.array([-3.0, 0.1, 0.5])).tolist() == [0, 0.25, 0.5]
    low, high = plot_hull_distribution.bootstrap_band(np.array([0.0, 0.5, 1.0]), 400, seed=1, n_resamples=1000)
    # Independent: the binomial's 2.5% and 97.5% points of 400 throws at one half are 180 and 220.
    assert abs(low[1] * 400 - 180) <= 3 and abs(high[1] * 400 - 220) <= 3
    assert (low[0], high[0], low[2], high[2]) == (0, 0, 1, 1)


def test_examples_do_not_depend_on_the_order_of_rows_and_figure3_goes_on_where_figure1_ended():
    rows = [{"sample": {"status": "ok", "structure_id": f"s-{i}"}, "relaxed": {"status": "ok"}} for i in range(7)]
    rows += [{"sample": {"status": "ok", "structure_id": "bad"}, "relaxed": {"status": "not_converged"}}]

    def ids(rows, n, offset, seed=1):
        return [r["sample"]["structure_id"] for r in plot_crystals.choose_examples(rows, "s", seed, n, offset)]

    assert ids(rows, 3, 0) == ids(rows[::-1], 3, 0)
    assert sorted(ids(rows, 3, 0) + ids(rows, 3, 3) + ids(rows, 3, 6)) == [f"s-{i}" for i in range(7)]
    assert len({tuple(ids(rows, 3, 0, seed)) for seed in range(10)}) > 1


def test_a_child_table_of_other_samples_is_refused():
    with pytest.raises(TableError, match="1 missing"):
        plot_crystals.join_tables([{"structure_id": "a"}, {"structure_id": "b"}], hull=[{"structure_id": "a"}])


def test_title_tells_formula_energy_gain_and_match():
    example = {
        "sample": {"formula": "Li2O", "prompt_formula": "LiO2"},
        "relaxed": {"initial_energy_ev_per_atom": -3.0, "energy_ev_per_atom": -3.25},
        "hull": {"e_above_hull_ev_per_atom": -0.0421, "unreliable": None},
        "matches": {"matched": None},
    }
    title = plot_crystals.title_of(example)
    assert title.startswith("Li$_{2}$O (prompted: LiO$_{2}$)\n")
    assert "−0.042 eV/atom · gain 0.250 eV/atom · match: not computed" in title
    marked = {**example, "hull": {**example["hull"], "unreliable": "no_competing_compound"}}
    assert "−0.042 eV/atom (unreliable hull) ·" in plot_crystals.title_of(marked)
    example["hull"]["e_above_hull_ev_per_atom"] = None
    assert "no hull reference" in plot_crystals.title_of(example)
    assert plot_crystals.signed(-0.0002) == "0.000"


def test_audit_shows_a_system_with_rl_beside_the_model_it_started_from():
    known = {"energy": -5.0, "reference": -4.0, "e_hull": 0.5}
    start = [audit_row(i, float(e), float(e) - 0.5, **{**known, "energy": -3.0}) for i, e in enumerate("123")]
    end = [audit_row(i, float(e), 1.0 - float(e), **known) for i, e in enumerate("13")] + [
        audit_row(9, 80.0, 1.0, **known)
    ]
    one, other = named([{"system": "sft", "label": "SFT"}, {"system": "sft_rl", "label": "SFT+RL"}])
    before = plot_reward_audit.Block(one, plot_reward_audit.audit_frame(start, 0.1), 4)
    after = plot_reward_audit.Block(other, plot_reward_audit.audit_frame(end, 0.1), 4, before)
    words = plot_reward_audit.panel_text(after, (-10.0, 50.0)).split("\n")
    assert words[:2] == ["n = 3 of 4, 1 beyond the axes", "fooled 0 → 3 of 4 (3 judged)"]
    assert words[2:] == ["Spearman ρ 1.00 → 0.50", "median gap −0.50 → −5.00 eV/atom"]
    assert "→" not in plot_reward_audit.panel_text(before, (-10.0, 50.0))
    axes = [a for a in plot_reward_audit.draw_figure([before, after]).axes if a.get_title()]
    assert [a.get_title() for a in axes] == ["SFT", "SFT+RL, from SFT"]
    drawn = [sum(len(points.get_offsets()) for points in a.collections) for a in axes]
    assert drawn == [3, 6]


def test_audit_counts_the_fooled_among_the_judged_only():
    rows = [
        audit_row("a", 0.0, -1.0, energy=-5.0, reference=-4.0, e_hull=0.1),  # fooled, just at the threshold
        audit_row("b", 1.0, 0.5, energy=-5.0, reference=-4.0, e_hull=0.05),  # better, and stable
        audit_row("c", 2.0, 2.0, energy=-3.0, reference=-4.0, e_hull=0.5),  # reward is not fooled
        audit_row("d", 3.0, 2.0, energy=-5.0, reference=None, e_hull=0.5),  # no known structure
        audit_row("e", 4.0, None, energy=-5.0, reference=-4.0, e_hull=0.5),  # no formation energy
        audit_row("f", 5.0, 9.0, energy=-5.0, reference=-4.0, e_hull=0.5, status="relax_failed"),
    ]
    rows += [
        {**audit_row("g", 0.0, -1.0, energy=-5.0, reference=-4.0, e_hull=-2.0), "unreliable": "no_competing_compound"}
    ]
    known = plot_reward_audit.audit_numbers(plot_reward_audit.audit_frame(rows, 0.1))
    assert (known.n, known.n_judged, known.n_fooled) == (5, 3, 1)  # stable on a hull of elements: not judged
    frame = plot_reward_audit.audit_frame(rows[:-1], 0.1)
    assert plot_reward_audit.audit_numbers(frame) == plot_reward_audit.Audit(4, 3, 1, pytest.approx(0.9486833), -0.75)
    nothing = plot_reward_audit.audit_numbers(plot_reward_audit.audit_frame([], 0.1))
    assert (nothing.n, nothing.n_judged, nothing.n_fooled) == (0, 0, 0) and np.isnan(nothing.spearman_rho)


def test_only_panels_with_data_are_drawn(tmp_path):
    keys = ("sft", "sft-grpo", "grpo")
    curves = list(zip(named(keys), map(pd.read_parquet, write_curves(tmp_path)), strict=True))
    panels = plot_training_curves.panels_with_data(curves)
    assert [(p.stage, p.quantity) for p in panels] == [
        ("sft", "loss"),
        ("grpo", "reward_mean"),
        ("grpo", "parse_share"),
    ]
    assert plot_training_curves.panels_with_data(curves[2:]) == []
    assert plot_training_curves.draw_figure(curves[2:]).axes[0].texts[0].get_text() == "no training curves"


def test_a_share_of_nothing_is_drawn_on_the_axis():
    rows = [{"stage": "grpo", "step": step, "quantity": "cut_share", "value": 0.0} for step in (1, 2)]
    (axes,) = (a for a in plot_training_curves.draw_figure([(named(("grpo",))[0], pd.DataFrame(rows))]).axes if a.lines)
    assert axes.get_ylim() == (-0.04, 1.0)


def test_terms_of_a_reward_are_drawn_where_they_are_more_than_the_reward():
    def curve(*quantities):
        rows = [{"stage": "grpo", "step": 1, "quantity": name, "value": 0.5} for name in quantities]
        return named([{"key": "grpo", "label": "RL"}])[0], pd.DataFrame(rows)

    shares = ("clipped_share", "failed_share", "mean")
    paper = curve("reward_mean", "silence_paid_share", *(f"term_energy_{x}" for x in shares))
    stable = curve("reward_mean", *(f"term_{t}_{x}" for t in ("formula_match", "e_hull", "diversity") for x in shares))
    panels = plot_training_curves.panels_with_data
    assert [p.quantity for p in panels([paper])] == ["reward_mean", "silence_paid_share"]
    assert [p.quantity for p in panels([stable])] == ["reward_mean", "term_e_hull_mean", "term_diversity_mean"]


def test_a_stage_is_named_by_its_last_part_and_the_running_mean_is_centred():
    curve = pd.DataFrame(
        {"stage": ["sft-grpo"] * 4, "step": [3, 1, 2, 2], "quantity": ["loss"] * 4, "value": [6.0, 0.0, np.nan, 3.0]}
    )
    values = plot_training_curves.series(curve, "grpo", "loss")
    assert values.to_dict() == {1: 0.0, 2: 3.0, 3: 6.0}
    assert plot_training_curves.smoothed(values).tolist() == [1.5, 3.0, 4.5]
    assert plot_training_curves.series(curve, "sft", "loss").empty
    curve["stage"] = "sft-grpo-mine"
    assert len(plot_training_curves.series(curve, "grpo", "loss")) == len(values)


def test_figure2_of_a_further_evaluator_names_it():
    title = "Evaluator: chgnet"
    assert plot_hull_distribution.draw_figure([], (-0.1, 0.5), SETTINGS, seed=1, title=title).get_suptitle() == title
    assert plot_hull_distribution.draw_figure([], (-0.1, 0.5), SETTINGS, seed=1).get_suptitle() == ""


@pytest.mark.parametrize("caption", sorted((Path(__file__).parents[2] / "report").glob("*.rst")), ids=lambda p: p.stem)
def test_captions_render_as_restructured_text(caption):
    jinja2, core = pytest.importorskip("jinja2"), pytest.importorskip("docutils.core")
    systems = {"base": {"label": "Base", "stages": []}, "mine": {"label": "Mine", "kind": "samples"}}
    systems["both"] = {"label": "Both", "stages": ["sft", "grpo"]}
    config = {
        "experiment": "demo",
        "systems": systems,
        "hull": {"stable_below_ev_per_atom": 0.1, "strict_below_ev_per_atom": 0.02},
    }
    config["relax"] = {"cross_check": [{"potential": "chgnet"}, {"potential": "uma", "rattle_ang": 0.1}]}
    params = SimpleNamespace(
        evaluator="sevennet 7net-0", evaluators={"sevennet": "sevennet 7net-0", "chgnet": "chgnet"}, n_replicates=2
    )
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(caption.read_text())
    text = template.render(snakemake=SimpleNamespace(config=config, params=params))
    html = core.publish_parts(text, writer="html", settings_overrides={"halt_level": 2, "report_level": 2})["body"]
    assert "{{" not in text and "<p>" in html
    if caption.stem == "workflow":
        assert html.count("<li>") == len(systems) and "sft, then grpo" in html
        assert "chgnet and uma (after noise of 0.1 Å);" in html
    if caption.stem in ("table1", "figure2", "cross_evaluator"):
        assert "sevennet 7net-0" in html
