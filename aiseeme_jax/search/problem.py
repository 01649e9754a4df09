"""What a config asks a search to do, checked before anything is trained."""

import dataclasses
import itertools
import math

from ml_collections import ConfigDict

from aiseeme_jax.curriculum import checks, protocols
from aiseeme_jax.curriculum.checks import check_at_least
from aiseeme_jax.errors import UserError
from aiseeme_jax.search.order import find_strategy
from aiseeme_jax.search.storage import check_storage
from aiseeme_jax.search.trials import Proposals, Settings, Space
from aiseeme_jax.store import keys

# The part of a finalist, and of what can be trained beside the best of them.
FINALIST = "finalist"
REVERSE, SINGLE, RANDOM = "reverse", "single", "random"
COMPARED = (REVERSE, SINGLE, RANDOM)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A search.

    Attributes:
      budget: so many stages may be trained; infinite if there is no limit.
    """

    space: Space
    settings: Settings
    strategy: str
    budget: float

    def propose(self) -> Proposals:
        """The strategy at its beginning."""
        return find_strategy(self.strategy)(self.space, self.settings)


def read_problem(config: ConfigDict) -> Problem:
    """Reads and checks the fields of a search; the stages of the pool are checked when they are planned.

    Raises UserError that names the field.
    """
    if "search" not in config:
        raise UserError(
            "job 'search' needs the fields of a search: begin the config file with base.get_search_config()"
        )
    fields = config.search
    for name, least in (("length", 1), ("width", 1), ("batch", 1), ("candidates", 1), ("finalists", 1), ("stages", 0)):
        check_at_least(least, f"search.{name}", fields[name])
    check_at_least(2, "search.keep", fields.keep)
    check_at_least(-math.inf, "search.margin", fields.margin)
    if not 0 < fields.shortest <= 1:
        raise UserError(f"search.shortest is {fields.shortest}; it must lie in (0, 1]")
    check_storage(fields.storage)
    check_pool(config)
    check_comparison(config)
    check_targets(config)
    find_strategy(fields.strategy)
    settings = Settings(**{field.name: fields[field.name] for field in dataclasses.fields(Settings)})
    space = Space(tuple(fields.pool), fields.length, fields.repeat, config.seed)
    return Problem(space, settings, fields.strategy, fields.stages or math.inf)


def check_pool(config: ConfigDict) -> None:
    """Raises UserError for an empty pool, and for a pool that has the same stage under two names."""
    pool = config.search.pool
    if not pool:
        raise UserError("search.pool is empty: name the stages that orders are made of, {'rotation': stage(...), …}")
    for one, other in itertools.combinations(pool, 2):
        if keys.to_json(pool[one]) == keys.to_json(pool[other]):
            raise UserError(
                f"search.pool: '{one}' and '{other}' are the same stage; leave one out. An order may contain a task "
                "twice if search.repeat is True"
            )


def check_comparison(config: ConfigDict) -> None:
    """Raises UserError for seeds and comparisons of the finalists that cannot be."""
    fields = config.search
    seeds = tuple(fields.finalist_seeds)
    if len(set(seeds)) < len(seeds) or not all(isinstance(seed, int) and seed >= 0 for seed in seeds):
        raise UserError(f"search.finalist_seeds are {seeds}; each must come once, be whole and not negative")
    if config.seed in seeds:
        raise UserError(
            f"search.finalist_seeds contain {config.seed}, the seed with which the finalists were chosen: take others"
        )
    fixed = [name for name, stage in fields.pool.items() if stage.seed is not None]
    if seeds and fixed:
        raise UserError(
            f"search.pool: '{fixed[0]}' has a seed of its own, so that search.finalist_seeds change nothing: set its "
            "seed to None"
        )
    unknown = [name for name in fields.compare if name not in COMPARED]
    if unknown:
        raise UserError(f"search.compare has '{unknown[0]}'; known are {', '.join(COMPARED)}")


def check_targets(config: ConfigDict) -> None:
    """Raises UserError for a target of the best order that is no protocol.

    Its labels are not checked here: no test label may reach a search.
    """
    for position, target in enumerate(config.targets):
        with checks.name_in_errors(f"targets[{position}] ({target.protocol})"):
            protocols.find_protocol(target.protocol)
            checks.check_made_for(target, "protocol", "target")
