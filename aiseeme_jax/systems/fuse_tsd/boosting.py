"""AdaBoost of small networks: each is trained on the rows that those before it had wrong (Freund and Schapire, 1997).

For more than two classes it is SAMME (Zhu et al., Statistics and Its Interface 2, 2009). scikit-learn is imported where
it is used.
"""

import dataclasses
import warnings
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits

# How scikit-learn says that the first network is no better than a guess.
WORSE_THAN_CHANCE = "worse than random"


@dataclasses.dataclass(frozen=True)
class Boosting:
    """How an ensemble is made.

    Attributes:
      rounds: networks at most. There are fewer if one has no error, or no better one than a guess.
      hidden: units of the hidden layer of a network.
      iterations: of L-BFGS on the whole weighted training set, for each network.
      decay: weight of half the squared weights of a network, beside its mean loss.
    """

    rounds: int
    hidden: int
    iterations: int
    decay: float


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """What `boost` gives.

    Attributes:
      classes: of the training set are all.
      mean, deviation: by which rows are standardised.
      networks: with `predict_proba`, and the classes of the training rows in `classes_`.
      votes: the weight of each network, positive.
    """

    classes: int
    mean: Float[np.ndarray, " d"]
    deviation: Float[np.ndarray, " d"]
    networks: tuple[Any, ...]
    votes: tuple[float, ...]

    def predict(self, rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n c"]:
        """Probabilities: the mean of those of the networks, weighted by their votes. All alike without a network."""
        probs = np.zeros((len(rows), self.classes))
        if not self.networks:
            return np.full_like(probs, 1 / self.classes)
        x = (rows - self.mean) / self.deviation
        for network, vote in zip(self.networks, self.votes, strict=True):
            probs[:, network.classes_] += vote / sum(self.votes) * network.predict_proba(x)
        return probs


def boost(
    rows: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], *, classes: int, settings: Boosting, seed: int
) -> Ensemble:
    """Fits an ensemble. At the start every class has the same weight, however many rows it has.

    In round t the weighted error e of the network gives it the vote log((1 - e) / e) + log(classes - 1), and the rows
    that it has wrong are weighted by exp(vote) more. A network that has no row wrong is the last and has vote 1.

    Without rows, or of rows of one class, it has no networks.

    Args:
      seed: of the first weights of the networks.
    """
    if len(np.unique(labels)) < 2:
        return Ensemble(classes, np.zeros(rows.shape[1:]), np.ones(rows.shape[1:]), (), ())
    from sklearn.ensemble import AdaBoostClassifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    mean, deviation = rows.mean(axis=0), rows.std(axis=0)
    # A column of one value stays 0.
    deviation = np.where(deviation > 1e-8 * (1 + abs(mean)), deviation, 1.0)
    network = MLPClassifier(
        hidden_layer_sizes=(settings.hidden,), solver="lbfgs", alpha=settings.decay, max_iter=settings.iterations
    )
    booster = AdaBoostClassifier(network, n_estimators=settings.rounds, random_state=seed)
    with threadpool_limits(1), warnings.catch_warnings():
        # A weak network is wanted: it ends with its iterations.
        warnings.simplefilter("ignore", ConvergenceWarning)
        try:
            booster.fit((rows - mean) / deviation, labels, sample_weight=balance_rows(labels))
        except ValueError as error:
            if WORSE_THAN_CHANCE not in str(error):
                raise
            return Ensemble(classes, mean, deviation, (), ())
    networks = tuple(booster.estimators_)
    return Ensemble(classes, mean, deviation, networks, tuple(booster.estimator_weights_[: len(networks)]))


def balance_rows(labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Weights of the rows with sum 1, of which every class that is there has the same part."""
    counts = np.bincount(labels)
    return 1 / (counts[labels] * np.count_nonzero(counts))
