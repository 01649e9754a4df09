"""The data sets of a run. Each split is opened once, when it is first needed."""

import functools
import logging
import math
from collections.abc import Mapping

from ml_collections import ConfigDict

from aiseeme_jax import data
from aiseeme_jax.errors import UserError

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
# The training images without a label, for a target that needs them.
UNLABELLED = "unlabelled"
# The splits on which a search may score backbones.
SEARCHED = ("train", "validation")
# The data sets that a stage is trained on, each with its share of every batch.
Sets = tuple[tuple[str, float], ...]


def list_sets(config: ConfigDict, stage: ConfigDict) -> Sets:
    """The data sets of a stage, with shares that sum to 1: its own, or the one of the run.

    Raises UserError for a share that is not positive, and for a data set that is named twice.
    """
    given = tuple((str(name), float(share)) for name, share in stage.data) or ((config.data.name, 1.0),)
    for name, share in given:
        if not 0 < share < math.inf:
            raise UserError(f"data: the share of '{name}' is {share}; it must be positive")
    names = [name for name, _ in given]
    if len(set(names)) < len(names):
        raise UserError(f"data: a data set is named twice in {', '.join(names)}")
    whole = sum(share for _, share in given)
    return tuple((name, share / whole) for name, share in given)


def find_set(config: ConfigDict, target: ConfigDict) -> str:
    """The data set of a target: its own, or the one of the run."""
    return target.data or config.data.name


def find_test_set(config: ConfigDict, target: ConfigDict) -> str:
    """The data set on whose test images a target is measured: one that it names, or that which it learns from."""
    return target.test_data or find_set(config, target)


def find_share_seed(config: ConfigDict) -> int:
    """The seed by which `data.share` of the images is drawn."""
    return config.seed if config.data.share_seed == -1 else config.data.share_seed


class DataSets:
    """Opens the splits that a run reads. If a data set has several pictures of one thing, each becomes an image,
    unless a target needs them together.

    Args:
      config: of the run; its `data.exclude` lists images that no stage is trained on, and of the others stages are
        trained on `data.share`.
      like: data sets of another run with the same `runtime.data_dir`. What they have opened is not opened again.
    """

    def __init__(self, config: ConfigDict, like: "DataSets | None" = None):
        self.data_dir, self.exclude = config.runtime.data_dir, tuple(config.data.exclude)
        self.share, self.share_seed = config.data.share, find_share_seed(config)
        self._opened: dict[tuple[str, str], data.Split] = {} if like is None else like._opened
        self._warned: set[tuple[Sets, str]] = set() if like is None else like._warned

    @functools.cache  # noqa: B019 - one object lives as long as a run
    def pretraining(self, sets: Sets) -> data.Split:
        """The training images of one data set, or of several in their shares; never those of validation or test."""
        splits = {name: self._training(name) for name, _ in sets}
        return next(iter(splits.values())) if len(sets) == 1 else data.mix(splits, dict(sets))

    @functools.cache  # noqa: B019
    def target(self, name: str, test: str = "", needs: data.Needs = data.LABELS) -> Mapping[str, data.Split]:
        """The images of each split of a data set that have what a target needs; the test images are those of `test`, if
        it is given. If the target needs images without a label, those of the training split are in 'unlabelled'.
        """
        sets = {"train": name, "validation": name, "test": test or name}
        found = {split: self._with(needs, sets[split], split) for split in SPLITS}
        if not needs.unlabelled:
            return found
        return {**found, UNLABELLED: data.take_unlabelled(self._open(name, "train", needs.together), needs)}

    @functools.cache  # noqa: B019
    def _with(self, needs: data.Needs, name: str, split: str) -> data.Split:
        return data.take_needed(self._open(name, split, needs.together), needs)

    @functools.cache  # noqa: B019
    def searched(self, name: str, split: str) -> data.Split:
        """The images on which a search scores backbones, those of 'train' or 'validation'.

        Raises ValueError for another split: no label of a test image may reach a search.
        """
        if split not in SEARCHED:
            raise ValueError(f"a search must not open the split '{split}', only {' and '.join(SEARCHED)}")
        return self._open(name, split)

    @functools.cache  # noqa: B019
    def _training(self, name: str) -> data.Split:
        split = self._open(name, "train")
        split = data.without(split, self.exclude) if self.exclude else split
        return split if self.share == 1 else split.subset(data.draw_share(split.groups, self.share, self.share_seed))

    def _open(self, name: str, split: str, together: bool = False) -> data.Split:
        if (name, split) not in self._opened:
            self._opened[name, split] = data.open_split(name, split, self.data_dir)
        return self._opened[name, split] if together else self._each_picture(name, split)

    @functools.cache  # noqa: B019
    def _each_picture(self, name: str, split: str) -> data.Split:
        return data.each_picture(self._opened[name, split])

    def warn_of_shared_groups(self, sets: Sets, target: str, held_out: Mapping[str, data.Split]) -> None:
        """Warns if a stage is trained on lesions or patients of the validation or test images of a target's data set.

        Of the same data sets it warns once.

        Args:
          held_out: its splits by their names.
        """
        if (sets, target) in self._warned:
            return
        self._warned.add((sets, target))
        for shared in data.shared_groups(self.pretraining(sets), held_out):
            names = [*shared.groups, *shared.ids]
            one, other = shared.pretraining.partition(":")[0], shared.target.partition(":")[0]
            log.warning(
                "%s and %s have %d groups and %d images in common, such as %s. "
                "`python -m tfds_builders check %s %s --exclude ids.txt` lists them, and "
                "--config.data.exclude=\"('ids.txt',)\" keeps them out of pretraining",
                shared.pretraining,
                shared.target,
                len(shared.groups),
                len(shared.ids),
                names[0],
                one,
                other,
            )
