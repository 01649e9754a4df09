"""The fields of a joint stage and of a bandit, which contain other stages."""

from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from aiseeme_jax import pretext
from aiseeme_jax.errors import UserError
from aiseeme_jax.pretext import pacing
from configs.nodes import change

# What a member has of a stage.
MEMBER_FIELDS = ("task", "made_for", "fields", "views")


def combined_fields(task: str, changes: dict[str, Any], make_stage: Callable[[str], ConfigDict]) -> ConfigDict:
    """The fields of a stage that has members. Those that are given are taken out of `changes`.

    Args:
      make_stage: task -> its stage with all defaults.

    Fields, with their defaults in `aiseeme_jax/pretext/pacing/`:
      members: stages; or a mapping from names to them. A member has the name of its task, a second one `NAME_2`. Of a
        member count the task, its fields and its views. All else is set in the stage that has the members.
      weights (joint): the name of a weighting; or a mapping with its `name` and its fields; or one weight for each
        member, in their order. Values by member are a mapping from their names.
      teacher (bandit): the name of a rule of choice; or a mapping with its `name` and its fields.
      interval (bandit): steps from one choice to the next.
      costs (bandit): mapping from members to the compute of a step, beside 1 for the others.
    """
    fields = pretext.task_fields(task)
    members = _name_members(changes.pop("members", ()), make_stage)
    fields["members"] = ConfigDict(members)
    for field in pacing.TABLES.keys() & fields.keys():
        fields[field] = _rule_fields(field, changes.pop(field, fields[field]), tuple(members))
    if "costs" in fields:
        fields["costs"] = _floats(changes.pop("costs", {}))
    return ConfigDict(fields)


def _name_members(given: Any, make_stage: Callable[[str], ConfigDict]) -> dict[str, ConfigDict]:
    if isinstance(given, Mapping | ConfigDict):
        return {name: _member(given[name], make_stage) for name in given}
    found: dict[str, ConfigDict] = {}
    for node in given:
        alike = sum(other.task == node.task for other in found.values())
        found[f"{node.task}_{alike + 1}" if alike else node.task] = _member(node, make_stage)
    return found


def _member(node: ConfigDict, make_stage: Callable[[str], ConfigDict]) -> ConfigDict:
    """What counts of a stage as a member. Raises UserError if anything else of it was changed, or if it has members."""
    if node.task in pacing.COMBINED:
        raise UserError(f"members: '{node.task}' has members itself, and cannot be one")
    plain = make_stage(node.task)
    changed = [
        name
        for name in node
        if name not in MEMBER_FIELDS and ConfigDict({name: node[name]}) != ConfigDict({name: plain[name]})
    ]
    if changed:
        raise UserError(
            f"members: '{node.task}' sets {', '.join(changed)}: a member has a task, its fields and views alone; set "
            "the rest in the stage that has the members"
        )
    return ConfigDict({name: node[name] for name in MEMBER_FIELDS}).copy_and_resolve_references().lock()


def _rule_fields(field: str, given: Any, members: tuple[str, ...]) -> ConfigDict:
    """A weighting or a rule of choice with all its fields."""
    if isinstance(given, tuple | list):
        if len(given) != len(members):
            raise UserError(f"{field}: {len(given)} numbers for {len(members)} members ({', '.join(members)})")
        given = {"name": "fixed", "factors": dict(zip(members, given, strict=True))}
    changes = {"name": given} if isinstance(given, str) else dict(given)
    if "name" not in changes:
        raise UserError(f"{field} {changes} has no name: write {field}={{'name': …, …}}, or the name alone")
    defaults = pacing.default_fields(field, changes.pop("name"))
    by_member = [name for name, value in defaults.items() if isinstance(value, Mapping)]
    config = ConfigDict(defaults)
    for name in by_member:
        config[name] = _floats(changes.pop(name, {}))
    return change(config, changes)


def _floats(given: Mapping[str, float]) -> ConfigDict:
    return ConfigDict({name: float(given[name]) for name in given})
