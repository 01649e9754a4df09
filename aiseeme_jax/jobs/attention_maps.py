"""Maps of the command `attention` as artifacts of the store: what was drawn once is not drawn again."""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from aiseeme_jax import data
from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.evidence.attention import METHODS
from aiseeme_jax.evidence.looking import RANDOM_SEEDS, Drawn, Looked, Looker, Network, look
from aiseeme_jax.jobs.working import work_through
from aiseeme_jax.store import artifacts, keys, records
from aiseeme_jax.store.artifacts import Artifact, Store
from aiseeme_jax.training.spending import Spending

# Increase it when a change of the code changes maps or scores.
VERSION = 1
FILE = "maps.npz"


@dataclass(frozen=True, eq=False)
class PlannedMaps:
    """Maps of a network, or the check that makes its layers random, by one method.

    Attributes:
      find_network: makes or gives the network.
      checks: whether it is the check.
    """

    artifact: Artifact
    method: str
    find_network: Callable[[], Network]
    checks: bool

    @property
    def inputs(self) -> dict[str, Any]:
        """None: the hash of the weights is in the key."""
        return {}


@dataclass(frozen=True)
class PlannedLook:
    """What is needed to look at one network by one method: its maps, random ones, and the check, if it is asked for."""

    own: PlannedMaps
    randoms: tuple[PlannedMaps, ...]
    check: PlannedMaps | None

    def pieces(self) -> list[PlannedMaps]:
        return [self.own, *self.randoms, *([self.check] if self.check else [])]


class MapStore:
    """Plans, draws and reads maps of the same images.

    Args:
      identity: what tells the images and their masks from others, as JSON values.
    """

    def __init__(self, store: Store, looker: Looker, identity: dict[str, Any]):
        self.store, self.looker, self.identity = store, looker, identity

    def plan(self, method: str, network: Network, *, sanity: bool) -> PlannedLook:
        """Plans the maps of a network and what stands beside them. Occlusion takes too long for the check. A mixture of
        Fisher vectors is of the layers as they are, so it has none.
        """
        explains = METHODS[method].needs_class
        weights = {"hash": network.hash_weights(explains)}
        kind = network.describe_kind(explains)
        randoms = [
            self._plan(method, kind, {"random": seed}, lambda seed=seed: network.make_random(seed))
            for seed in RANDOM_SEEDS
        ]
        checked = sanity and not METHODS[method].of_pixels and not METHODS[method].needs_encoder
        return PlannedLook(
            self._plan(method, kind, weights, lambda: network),
            tuple(randoms),
            self._plan(method, kind, weights, lambda: network, checks=True) if checked else None,
        )

    def _plan(
        self,
        method: str,
        kind: dict[str, Any],
        weights: dict[str, Any],
        find_network: Callable[[], Network],
        *,
        checks: bool = False,
    ) -> PlannedMaps:
        place = self.looker.endpoint if METHODS[method].of_layer else ""
        content = {"version": VERSION, "method": method, "endpoint": place, "network": kind, "weights": weights}
        content |= {"checks": checks, "images": self.identity}
        parts = [method.replace("+", "p"), place, "sanity" if checks else ""]
        parts.append(f"random{weights['random']}" if "random" in weights else "")
        artifact = Artifact(artifacts.MAPS, "-".join(filter(None, parts)), keys.to_json(content))
        return PlannedMaps(artifact, method, find_network, checks)

    def draw(self, looks: Sequence[PlannedLook], tell: Callable[[str], None]) -> None:
        """Makes what does not exist yet. A line says what is made."""

        def make(piece: PlannedMaps, directory: Path) -> dict[str, Any]:
            tell(f"{piece.artifact.name}")
            with Spending() as spent:
                return {"method": piece.method, **self._make(piece, directory), **spent.figures()}

        # The same network may stand in several arms.
        pieces = {piece.artifact.key: piece for look in looks for piece in look.pieces()}
        for _ in work_through(list(pieces.values()), self.store, make):
            pass

    def _make(self, piece: PlannedMaps, directory: Path) -> dict[str, Any]:
        network = piece.find_network()
        if piece.checks:
            return {"cascade": self.looker.randomise(piece.method, network)}
        return {"maps_sha256": save_drawn(directory, self.looker.draw(piece.method, network))}

    def read(self, planned: PlannedLook) -> Looked:
        """What was found. Raises UserError if a file is damaged."""
        own, *randoms = (load_drawn(self.store, piece.artifact) for piece in (planned.own, *planned.randoms))
        return look(own, randoms, self.store.record(planned.check.artifact)["cascade"] if planned.check else {})


def identify_images(split: data.Split, looker: Looker) -> dict[str, Any]:
    """What tells the images and their masks from others."""
    cases = looker.cases
    return {
        "name": split.name,
        **split.fingerprint(),
        "ids": keys.make_key({"ids": list(map(str, cases.ids))}),
        "masks": hashlib.sha256(np.ascontiguousarray(cases.masks).tobytes()).hexdigest(),
    }


def save_drawn(directory: Path, drawn: Drawn) -> str:
    """Writes maps.npz whole or not at all, and returns its hex SHA-256."""
    buffer = io.BytesIO()
    names = [field.name for field in fields(Drawn)]
    np.savez_compressed(buffer, **dict(zip(names, astuple(drawn), strict=True)))
    records.write_bytes(directory / FILE, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def load_drawn(store: Store, artifact: Artifact) -> Drawn:
    """Reads the maps of a finished artifact. Raises UserError if the file is missing, damaged or another one."""
    directory = store.directory(artifact)
    path, remedy = directory / FILE, artifacts.explain_remedy(directory)
    if not path.exists():
        raise MissingFile(f"{directory} has lost its {FILE}; {remedy}")
    if keys.hash_file(path) != store.record(artifact)["maps_sha256"]:
        raise UserError(f"{path} is not what was written; {remedy}")
    with np.load(path, allow_pickle=False) as stored:
        return Drawn(*(stored[field.name] for field in fields(Drawn)))
