"""The schemas of the Parquet tables that pass between rules.

Needs: pyarrow.

One row per attempted structure. `structure_id` is unique and sorted; `status` and `error` describe a failure, for which
the numeric columns are null. A structure takes three columns: `lattice_ang` (9 floats, row vectors), `atomic_numbers`
and `frac_coords`.
"""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = "1"

STATUSES = (
    "ok",
    "parse_failed",
    "cut",
    "generation_failed",
    "relax_failed",
    "too_large",
    "atoms_collided",
    "volume_exploded",
    "forces_exploded",
    "energy_out_of_range",
    "not_converged",
    "not_settled",
    "no_reference",
    "match_failed",
    "energy_failed",
    "fingerprint_failed",
    "not_attempted",
)


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


def _optional(name: str, kind: pa.DataType) -> pa.Field:
    """Return a field that may be missing in a file; it is then read as null."""
    return pa.field(name, kind, metadata={"optional": "true"})


_ID = [_required("structure_id", pa.string())]
_OUTCOME = [_required("status", pa.string()), pa.field("error", pa.string())]
_CELL = [
    ("lattice_ang", pa.list_(pa.float64())),
    ("atomic_numbers", pa.list_(pa.int32())),
    ("frac_coords", pa.list_(pa.float64())),
]
_STRUCTURE = [_required(name, kind) for name, kind in _CELL]
_MAYBE_STRUCTURE = [pa.field(name, kind) for name, kind in _CELL]


def _floats(*names: str) -> list[pa.Field]:
    return [pa.field(name, pa.float64()) for name in names]


SCHEMAS: dict[str, pa.Schema] = {
    "candidates": pa.schema([*_ID, *_STRUCTURE, _required("formula", pa.string()), pa.field("prototype", pa.string())]),
    "materials": pa.schema(
        [
            *_ID,
            *_STRUCTURE,
            _required("formula", pa.string()),
            pa.field("prototype", pa.string()),
            *_floats("energy_ev_per_atom", "e_above_hull_ev_per_atom"),
            pa.field("energy_source", pa.string()),
            pa.field("split", pa.string()),
            # Why the material is not used for training and testing (selection.py); null if it is.
            _optional("left_out", pa.string()),
            # DFT energies of the source database, with and without the MP2020 corrections.
            *(
                _optional(name, pa.float64())
                for name in (
                    "corrected_energy_ev_per_atom",
                    "uncorrected_energy_ev_per_atom",
                    "formation_energy_ev_per_atom",
                    "database_e_above_hull_ev_per_atom",
                )
            ),
            _optional("run_type", pa.string()),
            _optional("is_theoretical", pa.bool_()),
        ]
    ),
    # The split of the file that the entry comes from; null if the data are not split into files.
    "refusals": pa.schema([*_ID, _required("error", pa.string()), _optional("split", pa.string())]),
    "samples": pa.schema(
        [
            *_ID,
            *_OUTCOME,
            *_MAYBE_STRUCTURE,
            _required("system", pa.string()),
            pa.field("prompt_formula", pa.string()),
            pa.field("draw", pa.int32()),
            pa.field("formula", pa.string()),
            pa.field("n_tokens", pa.int32()),
            pa.field("text", pa.string()),
            # The id of an imported sample in its file.
            _optional("source_id", pa.string()),
        ]
    ),
    "relaxed": pa.schema(
        [
            *_ID,
            *_OUTCOME,
            *_MAYBE_STRUCTURE,
            *_floats(
                "initial_energy_ev_per_atom",
                "energy_ev_per_atom",
                "max_force_ev_per_ang",
                "max_stress_gpa",
                "volume_ratio",
                "wall_time_s",
            ),
            pa.field("n_steps", pa.int32()),
            pa.field("initial_space_group", pa.int32()),
            pa.field("space_group", pa.int32()),
            # Of settled structures: the cost, and where the relaxation first converged; settling.py.
            _optional("n_settling_evaluations", pa.int32()),
            _optional("plain_energy_ev_per_atom", pa.float64()),
            _optional("plain_space_group", pa.int32()),
            _required("potential", pa.string()),
        ]
    ),
    "hull": pa.schema(
        [
            *_ID,
            *_OUTCOME,
            *_floats(
                "energy_ev_per_atom",
                "hull_energy_ev_per_atom",
                "e_above_hull_ev_per_atom",
                "generated_e_above_hull_ev_per_atom",
                "formation_energy_ev_per_atom",
            ),
            _optional("plain_e_above_hull_ev_per_atom", pa.float64()),
            pa.field("decomposition", pa.string()),
            # Why E_hull is unreliable, null if it is reliable; see hull.py.
            _optional("unreliable", pa.string()),
        ]
    ),
    "matches": pa.schema([*_ID, *_OUTCOME, pa.field("matched", pa.bool_()), *_floats("rmsd_norm", "rmsd_ang")]),
    "reconstructions": pa.schema(
        [
            *_ID,
            *_OUTCOME,
            *_MAYBE_STRUCTURE,
            _required("true_formula", pa.string()),
            pa.field("formula", pa.string()),
            pa.field("composition_matched", pa.bool_()),
            pa.field("matched", pa.bool_()),
            *_floats("rmsd_norm", "rmsd_ang"),
        ]
    ),
    "novelty": pa.schema([*_ID, *_OUTCOME, pa.field("is_unique", pa.bool_()), pa.field("is_novel", pa.bool_())]),
    "reward_audit": pa.schema(
        [
            *_ID,
            *_OUTCOME,
            *_floats(
                "chgnet_energy_ev_per_atom",
                "evaluator_energy_ev_per_atom",
                "chgnet_formation_energy_ev_per_atom",
                "evaluator_formation_energy_ev_per_atom",
                "chgnet_reference_energy_ev_per_atom",
                "e_above_hull_ev_per_atom",
            ),
            # As in `hull`.
            _optional("unreliable", pa.string()),
        ]
    ),
    "fingerprints": pa.schema(
        [
            *_ID,
            *_OUTCOME,
            _required("content_key", pa.string()),
            pa.field("structure_fingerprint", pa.list_(pa.float64())),
            pa.field("composition_fingerprint", pa.list_(pa.float64())),
            pa.field("structure_valid_paper", pa.bool_()),
            pa.field("structure_valid_cdvae", pa.bool_()),
            pa.field("composition_valid", pa.bool_()),
            # As in `materials`.
            _optional("left_out", pa.string()),
        ]
    ),
    # One row per distinct crystal, with the ids of all its duplicates; one row group per job.
    "phases_to_relax": pa.schema(
        [
            _required("content_key", pa.string()),
            _required("structure_ids", pa.list_(pa.string())),
            *_STRUCTURE,
        ]
    ),
    # Reference energies of the reward audit; `kind`: the lowest phase of an element, or a known crystal.
    "audit_references": pa.schema(
        [
            _required("kind", pa.string()),
            _required("formula", pa.string()),
            *_OUTCOME,
            *_floats("energy_ev_per_atom"),
        ]
    ),
    # Hull energy of each prompted formula, from the energies of the reward's potential.
    "reward_reference": pa.schema(
        [
            _required("formula", pa.string()),
            *_OUTCOME,
            *_floats("hull_energy_ev_per_atom", "lowest_energy_ev_per_atom"),
            pa.field("decomposition", pa.string()),
            _required("potential", pa.string()),
        ]
    ),
    "training_curve": pa.schema(
        [
            _required("stage", pa.string()),
            _required("step", pa.int32()),
            _required("quantity", pa.string()),
            _required("value", pa.float64()),
        ]
    ),
}
