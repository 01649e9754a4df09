"""The findings of the collection as paths, and what the label policies make of them.

Later tables write a finding as its path in a hierarchy (`Pneumonia/Viral/COVID-19`), those up to August 2020 as its
last name (`COVID-19`). Both are read; a path is what is stored.
"""

from tfds_builders.common.damage import DamagedInput

NO_FINDING = "No Finding"
PNEUMONIA = "Pneumonia"
COVID = "COVID-19"
# Nobody has looked, or nobody knows.
UNLABELLED = ("todo", "Unknown", "")
# Names of the earlier tables. The paths are those of the later ones, where ARDS has none: it is a consequence.
PATHS = {
    "COVID-19": "Pneumonia/Viral/COVID-19",
    "COVID-19, ARDS": "Pneumonia/Viral/COVID-19",
    "SARS": "Pneumonia/Viral/SARS",
    "MERS-CoV": "Pneumonia/Viral/MERS-CoV",
    "Varicella": "Pneumonia/Viral/Varicella",
    "Influenza": "Pneumonia/Viral/Influenza",
    "Herpes": "Pneumonia/Viral/Herpes",
    "Bacterial": "Pneumonia/Bacterial",
    "Streptococcus": "Pneumonia/Bacterial/Streptococcus",
    "Klebsiella": "Pneumonia/Bacterial/Klebsiella",
    "Mycoplasma Bacterial Pneumonia": "Pneumonia/Bacterial/Mycoplasma",
    "E.Coli": "Pneumonia/Bacterial/E.Coli",
    "Legionella": "Pneumonia/Bacterial/Legionella",
    "Chlamydophila": "Pneumonia/Bacterial/Chlamydophila",
    "Pneumocystis": "Pneumonia/Fungal/Pneumocystis",
    "Lipoid": "Pneumonia/Lipoid",
}
# Findings that are no pneumonia, or none of a known kind.
ROOTS = (NO_FINDING, PNEUMONIA, "ARDS", "Tuberculosis")
KINDS = {"Viral": "viral", "Bacterial": "bacterial", "Fungal": "fungal"}
CLASSES = {"covid": ("other", COVID), "pneumonia": ("no finding", *KINDS.values(), "other")}


def path_of(finding: str) -> str:
    """The finding's path. Raises DamagedInput for one that is in no table known."""
    path = PATHS.get(finding, finding)
    if path.split("/")[0] not in ROOTS:
        raise DamagedInput(
            f"the finding {finding!r} is neither a path below {', '.join(ROOTS)} nor one of "
            f"{', '.join([*PATHS, *UNLABELLED[:2]])}: correct it, or write todo"
        )
    return path


def label_of(path: str, policy: str) -> str:
    """The class of a finding's path under the policy, a key of `CLASSES`."""
    steps = path.split("/")
    if policy == "covid":
        return COVID if COVID in steps else "other"
    if steps[0] == NO_FINDING:
        return "no finding"
    return KINDS.get(steps[1], "other") if steps[0] == PNEUMONIA and len(steps) > 1 else "other"
