"""How often 95 % intervals hold the truth, by simulation.

    python -m bench.coverage --patients 80 --simulations 1000
    python -m bench.coverage --seeds 2 3 5 --simulations 10000

Each simulation draws patients with one to five images each. The images of a patient share a class, and most of what a
classifier gets right or wrong in them. The truth is the metric on 100,000 patients. Two classifiers are scored on the
same images. For each metric the table has the share of the intervals that hold the truth: of the value of the better
classifier, and of the difference of both.

With `--seeds` it is about the intervals of a study, which cover pretraining seeds, label seeds and images. Each of
these has normal errors, and the variance of the images is known.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from aiseeme_jax.evaluate import bootstrap, metrics
from aiseeme_jax.evaluate.bootstrap import Draws
from aiseeme_jax.evaluate.over_seeds import Part, estimate
from bench.measure import table

# Share of the patients of each class.
CASES = {"2 classes": (0.7, 0.3), "4 classes": (0.5, 0.25, 0.15, 0.1)}
NAMES = ("balanced_accuracy", "auroc", "average_precision")
TRUTH_PATIENTS = 100_000
Ends = tuple[float, float]


@dataclass(frozen=True)
class Sample:
    """Images of some patients: labels [N], the number of the patient [N], probabilities [N, C] of two classifiers."""

    labels: np.ndarray
    patients: np.ndarray
    probs: tuple[np.ndarray, np.ndarray]


def draw_sample(rng: np.random.Generator, patients: int, shares: tuple[float, ...]) -> Sample:
    """Draws patients until each class has one."""
    classes = np.zeros(0, int)
    while len(set(classes)) < len(shares):
        classes = rng.choice(len(shares), size=patients, p=shares)
    members = np.repeat(np.arange(patients), rng.integers(1, 6, patients))
    labels = classes[members]
    shared, own = rng.normal(size=(patients, len(shares)))[members], rng.normal(size=(len(members), len(shares)))
    truth, prior = np.eye(len(shares))[labels], 0.5 * np.log(shares)
    better = 1.2 * truth + 0.8 * shared + 0.8 * own + prior
    worse = 0.96 * truth + 0.6 * shared + 0.9 * rng.normal(size=own.shape) + prior
    return Sample(labels, members, (special.softmax(better, axis=1), special.softmax(worse, axis=1)))


def percentile(draws: Draws) -> Ends:
    """The 2.5 and 97.5 percentile."""
    return tuple(np.nanpercentile(draws.resampled, [2.5, 97.5]))


def bca(draws: Draws) -> Ends:
    """Bias-corrected and accelerated (Efron 1987), with the jackknife over patients."""
    values, left = draws.resampled[np.isfinite(draws.resampled)], draws.without[np.isfinite(draws.without)]
    below = np.mean(values < draws.value) + np.mean(values == draws.value) / 2
    bias = special.ndtri(np.clip(below, 0.5 / len(values), 1 - 0.5 / len(values)))
    deviations = left.mean() - left
    acceleration = np.sum(deviations**3) / (6 * np.sum(deviations**2) ** 1.5)
    normal = bias + special.ndtri([0.025, 0.975])
    return tuple(np.percentile(values, 100 * special.ndtr(bias + normal / (1 - acceleration * normal))))


def studentised(draws: Draws) -> Ends:
    """The value and t times the standard error of the jackknife."""
    half = _half_width(draws)
    return draws.value - half, draws.value + half


def studentised_logit(draws: Draws) -> Ends:
    """The same on the scale of the logit, on which a difference has no place."""
    if not 0 < draws.value < 1:
        return studentised(draws)
    half = _half_width(draws) / (draws.value * (1 - draws.value))
    centre = special.logit(draws.value)
    return special.expit(centre - half), special.expit(centre + half)


def ours(draws: Draws) -> Ends:
    """That of `evaluate.bootstrap`."""
    return bootstrap.interval([draws], 0)


def _half_width(draws: Draws) -> float:
    left = draws.without[np.isfinite(draws.without)]
    return special.stdtrit(len(left) - 1, 0.975) * np.sqrt((len(left) - 1) * left.var())


METHODS: dict[str, Callable[[Draws], Ends]] = {
    "percentile": percentile,
    "BCa": bca,
    "studentised": studentised,
    "studentised, logit": studentised_logit,
    "ours": ours,
}


def simulate(
    patients: int, shares: tuple[float, ...], samples: int, simulations: int
) -> Iterator[tuple[tuple[str, str], str]]:
    """(Method, quantity) and a cell of the table: the share of intervals that hold the truth, and the mean width."""
    large = draw_sample(np.random.default_rng(12345), TRUTH_PATIENTS, shares)
    truths = {name: [metrics.METRICS[name](large.labels, probs) for probs in large.probs] for name in NAMES}
    held: dict[tuple[str, str], list[tuple[bool, float]]] = {}
    for seed in range(simulations):
        sample = draw_sample(np.random.default_rng([seed, patients]), patients, shares)
        how = {"groups": sample.patients, "samples": samples, "seed": seed}
        for name in NAMES:
            one, other = (bootstrap.draw(metrics.METRICS[name], sample.labels, p, **how) for p in sample.probs)
            better, worse = truths[name]
            for quantity, draws, truth in ((name, one, better), (f"{name}, difference", one - other, better - worse)):
                for method, ends_of in METHODS.items():
                    if method != "studentised, logit" or quantity == name:
                        low, high = ends_of(draws)
                        held.setdefault((method, quantity), []).append((low <= truth <= high, high - low))
    for place, found in held.items():
        covered, widths = np.array(found, float).T
        yield place, f"{100 * covered.mean():.1f} ({np.nanmean(widths):.3f})"


# Standard deviations over pretraining seeds, label seeds, both together (of one value), and images (of the mean); and
# how many label seeds there are.
SEED_CASES = {
    "images 0.1": (1.0, 0.0, 0.0, 0.1, 1),
    "images 0.3": (1.0, 0.0, 0.0, 0.3, 1),
    "images 1": (1.0, 0.0, 0.0, 1.0, 1),
    "images 2": (1.0, 0.0, 0.0, 2.0, 1),
    "3 label seeds 0.5, both 0.5, images 0.5": (1.0, 0.5, 0.5, 0.5, 3),
    "3 label seeds 1, both 1, images 1": (1.0, 1.0, 1.0, 1.0, 3),
}


def simulate_seeds(seeds: int, case: tuple[float, float, float, float, int], level: float, simulations: int) -> float:
    """The share of the intervals of a study that hold the truth.

    Args:
      case: as in SEED_CASES.
      level: of the intervals.
    """
    pretraining, label, both, images, labels = case
    rng, held = np.random.default_rng(0), 0
    for _ in range(simulations):
        values = pretraining * rng.normal(size=(seeds, 1)) + label * rng.normal(size=(1, labels))
        values = values + images * rng.normal() + both * rng.normal(size=(seeds, labels))
        found = estimate(values, Part(images**2, np.inf)).interval(level)
        held += found.low <= 0 <= found.high
    return held / simulations


def print_seeds(counts: Sequence[int], simulations: int) -> None:
    """A table of the coverage of the intervals of a study, of one (95 %) and of one in a family of four (98.75 %)."""
    levels = (0.95, 1 - 0.05 / 4)
    rows = [("standard deviations", *(f"{count} seeds, {100 * level:g} %" for level in levels for count in counts))]
    for name, case in SEED_CASES.items():
        shares = [simulate_seeds(count, case, level, simulations) for level in levels for count in counts]
        rows.append((name, *(f"{100 * share:.1f}" for share in shares)))
    head = f"Coverage in percent; {simulations} simulations. Pretraining seeds have the standard deviation 1."
    print(f"{head}\n\n{table(rows)}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--patients", type=int, nargs="+", default=[30, 80, 200])
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=500, help="resamples of each bootstrap")
    parser.add_argument("--seeds", type=int, nargs="+", help="numbers of pretraining seeds: intervals of a study")
    options = parser.parse_args(arguments)
    if options.seeds:
        print_seeds(options.seeds, options.simulations)
        return
    error = 100 * np.sqrt(0.95 * 0.05 / options.simulations)
    print(f"Coverage in percent (mean width); {options.simulations} simulations, standard error {error:.1f}.")
    for patients in options.patients:
        for case, shares in CASES.items():
            start = time.monotonic()
            cells = dict(simulate(patients, shares, options.samples, options.simulations))
            quantities = [f"{name}{kind}" for kind in ("", ", difference") for name in NAMES]
            rows = [("interval", *quantities)]
            rows += [(method, *(cells.get((method, q), "–") for q in quantities)) for method in METHODS]
            print(f"\n{patients} patients, {case} ({time.monotonic() - start:.0f} s)\n\n{table(rows)}", flush=True)


if __name__ == "__main__":
    main()
