"""One backbone measured by one protocol, on one share of the labels, with one seed."""

import functools
import logging
from pathlib import Path
from typing import Any

from aiseeme_jax import data, weights
from aiseeme_jax.curriculum import protocols
from aiseeme_jax.curriculum.context import Context
from aiseeme_jax.curriculum.pieces import PlannedMeasurement
from aiseeme_jax.evaluate import results
from aiseeme_jax.evaluate.scores import make_scoring
from aiseeme_jax.store import checkpoints
from aiseeme_jax.training.spending import Spending

log = logging.getLogger(__name__)


class Measurer:
    """Measures backbones. It keeps the features of the last backbone, since the next measurement may need them too."""

    def __init__(self, context: Context):
        self.context = context
        self._subject: tuple[Any, protocols.Subject] | None = None

    def measure(self, planned: PlannedMeasurement, directory: Path) -> dict[str, Any]:
        """Runs a protocol, and writes the predictions of test and validation and, if it was trained, the network.

        Returns the record.
        """
        with Spending() as spent:
            return self.measure_and_save(planned, directory, spent)

    def measure_and_save(self, planned: PlannedMeasurement, directory: Path, spent: Spending) -> dict[str, Any]:
        """As `measure`, which begins to measure what it spends."""
        subject = self.find_subject(planned)
        needed = {name: self.context.store.directory(one.artifact) for name, one in planned.needed.items()}
        measurement = protocols.Measurement(planned.target, planned.fraction, planned.seed, needed)
        outcome = protocols.measure(measurement, subject, directory, self.runtime)
        validation = results.save_predictions(directory, outcome.validation, results.VALIDATION)
        written = results.save_predictions(directory, outcome.predictions)
        record = {
            "target": planned.name,
            "fraction": planned.fraction,
            "measurement_seed": planned.seed,
            "backbone_hash": weights.backbone_hash(subject.backbone),
            "predictions_sha256": written,
            "validation_sha256": validation,
            "data_warnings": list(subject.splits["test"].warnings),
            **outcome.chosen,
            # A protocol that trains has a record of that.
            **spent.figures(outcome.chosen if "seconds" in outcome.chosen else None),
        }
        if outcome.classifier is not None:
            record["classifier_hash"] = weights.save_classifier(directory / weights.CLASSIFIER, outcome.classifier)
        if outcome.network is not None:
            record["network_hash"] = outcome.network.save(directory)
        self.tell_metrics(planned, outcome.predictions)
        checkpoints.drop_checkpoints(directory)
        return record

    @functools.cached_property
    def runtime(self) -> protocols.Runtime:
        runtime = self.context.runtime
        return protocols.Runtime(
            evaluation_batch=runtime.evaluation_batch,
            loading=self.context.loading,
            log_every=runtime.log_every,
            checkpoint_every=runtime.checkpoint_every,
            patience=self.context.patience,
        )

    def find_subject(self, planned: PlannedMeasurement) -> protocols.Subject:
        """The backbone that is measured, with the splits of the target's data sets. The last one is kept."""
        needs = protocols.find_protocol(planned.target.protocol).needs
        wanted = (str(planned.start.content()), planned.set, planned.test_set, needs)
        if self._subject is None or self._subject[0] != wanted:
            # Released before the next one is loaded: memory need not hold both.
            self._subject = None
            self._subject = wanted, self.open_subject(planned, needs)
        return self._subject[1]

    def open_subject(self, planned: PlannedMeasurement, needs: data.Needs) -> protocols.Subject:
        return protocols.Subject(
            planned.arm,
            self.context.load_start(planned.start),
            self.context.datasets.target(planned.set, planned.test_set, needs),
        )

    def tell_metrics(self, planned: PlannedMeasurement, predictions: results.AnyPredictions) -> None:
        """Says what the main metrics are."""
        headline = make_scoring(predictions, samples=1, seed=0).headline()
        found = {f"{planned.name}/{name}": value for name, value in headline.items()}
        log.info("%s: %s", planned.title, ", ".join(f"{name} {value:.3f}" for name, value in found.items()))
