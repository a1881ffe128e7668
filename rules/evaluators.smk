# The evaluators of an experiment: what rules that load one share.
from hullseeker.potentials.evaluators_of_run import evaluator_label, evaluators
from hullseeker.relaxation.engines import env_of, sources_of
from hullseeker.runtime.provenance import sha256_of_file

# The first evaluator, relax.potential, is the one that Table 1, the figures, S.U.N. and the audit are of.
EVALUATORS = evaluators(config["relax"])
EVALUATOR_LABELS = {
    name: evaluator_label(settings) for name, settings in EVALUATORS.items()
}
EVALUATOR, *CROSS_CHECKS = EVALUATORS


def settings_of(wc):
    """The settings of an evaluator; without the wildcard, of the first one."""
    return EVALUATORS[wc.get("evaluator", EVALUATOR)]


def evaluator_env(wc):
    """The environment of an evaluator."""
    return f"../envs/{env_of(settings_of(wc)['potential'], settings_of(wc)['engine'])}"


def evaluator_code(wc):
    """The code that only the table of evaluators names."""
    settings = settings_of(wc)
    return [code(p) for p in sources_of(settings["potential"], settings["engine"])]


@cache
def _content_of_weights(model):
    return sha256_of_file(model) if model and Path(model).is_file() else None


def evaluator_weights(wc):
    """The hash of an evaluator's checkpoint where the config gives a file; a name and a version say it otherwise."""
    return _content_of_weights(settings_of(wc)["model"])


def n_relax_shards(wc):
    """The jobs that relax a system's samples with an evaluator: no more than there are blocks of rows."""
    settings = settings_of(wc)
    return n_jobs(
        n_samples_at_least(wc.system), settings["block_size"], settings["n_shards"]
    )


def of_evaluators_and_systems(folder):
    """The tables of a folder by evaluator, and within it by system."""
    return [path for name in EVALUATORS for path in of_systems(f"{folder}/{name}")]
