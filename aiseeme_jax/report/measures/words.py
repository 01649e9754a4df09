"""Measures in words, for the terminal and the page."""

from aiseeme_jax.evaluate.over_seeds import format_number
from aiseeme_jax.report.measures.tables import CLASS_WISE, TOP_LABEL, CalibrationRow
from aiseeme_jax.report.names import METRICS

FURTHER = {
    "kappa": "Cohen's kappa",
    "mcc": "Matthews correlation",
    "brier": "Brier score",
    "ppv": "PPV, at the highest probability",
    "npv": "NPV, at the highest probability",
    "specificity": "Specificity, at the highest probability",
    "f1": "F1",
    "false_alarms": "False alarms",
    "auroc_against_others": "AUROC against others",
    "ppv_at_one_prevalence": "PPV at one prevalence",
    "excess_probability": "Excess probability",
    "equalised_odds": "Equalised odds",
}
# Sensitivity and ppv of subgroups are at a threshold.
OF_GROUPS = {"sensitivity": "Sensitivity", "ppv": "PPV"}

HOW_TO_READ = (
    "An interval covers other patients (or lesions), and other seeds where there are several; a value without one has "
    "too few.",
    "A calibration error is never 0: it stands beside what a perfectly calibrated model with the same probabilities "
    "would have on as many images. Only what is above the 95 % value says that the probabilities are off.",
    "The gap between the best and the worst of several subgroups is never 0 either: it stands beside the gap that "
    "chance makes between subgroups of these sizes. Holm's p counts that there are many.",
    "Net benefit is what acting on the probabilities is worth, in found patients, less the false alarms at the price "
    "that the threshold says. A model is of use at a threshold where it is above both acting on everybody and 0.",
    "Thresholds and temperatures are chosen on validation images alone.",
)


def describe_measure(name: str, in_groups: bool = False) -> str:
    """'auroc/MEL' as 'AUROC of MEL'."""
    metric, slash, of = name.partition("/")
    known = METRICS | FURTHER | (OF_GROUPS if in_groups else {})
    return known.get(metric, metric) + (f" of {of}" if slash else "")


def write_interval(low: float, high: float, signed: bool = False) -> str:
    """'0.490–0.534', or of a difference '−0.004 to +0.028'; '–' where there is none."""
    if not (low == low and high == high):
        return "–"
    return f"{format_number(low, signed)}{' to ' if signed else '–'}{format_number(high, signed)}"


def write_p(p: float) -> str:
    """'0.012', '< 0.001', or '–' where there is none."""
    if p != p:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def write_number(value: float) -> str:
    return "–" if value != value else format_number(value)


def describe_calibration(row: CalibrationRow) -> str:
    """'ECE of MEL, after temperature 1.31'."""
    of = {TOP_LABEL: "ECE, top label", CLASS_WISE: "ECE, class-wise"}.get(row.of, f"ECE of {row.of}")
    if row.temperature != row.temperature:
        return of
    return f"{of}, after {row.state} {row.temperature:.2f}"
