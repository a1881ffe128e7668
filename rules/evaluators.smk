# The evaluators of an experiment: settings, environments and hashes for the rules that load one.
from hullseeker.potentials.evaluators_of_run import evaluator_label, evaluators
from hullseeker.relaxation.engines import env_of, sources_of
from hullseeker.runtime.provenance import sha256_of_file

# Table 1, the figures, S.U.N. and the audit use the first evaluator, relax.potential.
EVALUATORS = evaluators(config["relax"])
EVALUATOR_LABELS = {
    name: evaluator_label(settings) for name, settings in EVALUATORS.items()
}
EVALUATOR, *CROSS_CHECKS = EVALUATORS


def settings_of(wc):
    """Return the settings of the wildcard's evaluator; without the wildcard, of the first evaluator."""
    return EVALUATORS[wc.get("evaluator", EVALUATOR)]


def evaluator_env(wc):
    """Return the conda environment file of the evaluator."""
    return f"../envs/{env_of(settings_of(wc)['potential'], settings_of(wc)['engine'])}"


def evaluator_code(wc):
    """Return the hashes of the evaluator's modules, which scripts import by name at run time."""
    settings = settings_of(wc)
    return [
        code(path) for path in sources_of(settings["potential"], settings["engine"])
    ]


@cache
def _content_of_weights(model):
    return sha256_of_file(model) if model and Path(model).is_file() else None


def evaluator_weights(wc):
    """Return the hash of the evaluator's checkpoint where the config gives a file; None where it gives a name."""
    return _content_of_weights(settings_of(wc)["model"])


def n_relax_shards(wc):
    """Return how many jobs relax a system's samples with an evaluator: at most one per block of rows."""
    settings = settings_of(wc)
    return n_jobs(
        n_samples_at_least(wc.system), settings["block_size"], settings["n_shards"]
    )


def of_evaluators_and_systems(folder):
    """Return the paths of a folder's tables, ordered by evaluator and then by system."""
    return [path for name in EVALUATORS for path in of_systems(f"{folder}/{name}")]
