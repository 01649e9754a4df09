"""Classifiers of nodules trained on labels beside adversarial autoencoders that are trained on all nodules."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from aiseeme_jax.losses import binary_cross_entropy
from aiseeme_jax.systems.mv_kbc import MultiView
from aiseeme_jax.systems.nodule_batches import Cutting
from aiseeme_jax.systems.ssac.network import AssistedNetwork
from aiseeme_jax.task import Batch, Output, Part, PartOutput

# What a critic judges.
JUDGED = ("image", "code")
CRITIC, AUTOENCODER = "critic", "autoencoder"

Module = TypeVar("Module", bound=nnx.Module)


class SemiSupervised(MultiView):
    """Three games of a step: the classifiers learn from the labelled nodules, then the critics to tell what the
    autoencoders make, then the autoencoders to reconstruct all nodules and to deceive the critics.

    Args:
      network: classifiers and autoencoders.
      critics: one for each autoencoder.
      cutting, penalty, heads_first, steps: as of `MultiView`.
      labelled: nodules at the beginning of each batch that have a label.
      judged: of JUDGED. Of images: reconstructions against images. Of codes: codes against the prior.
      adversarial: weight of deceiving the critic, beside the mean squared error of the reconstruction.
      optimizer: frozen config node, of critics and autoencoders.
    """

    NAME = "ssac_style"

    def __init__(
        self,
        network: AssistedNetwork,
        critics: Sequence[nnx.Module],
        cutting: Cutting,
        *,
        penalty: float,
        heads_first: float,
        steps: int,
        labelled: int,
        judged: str,
        adversarial: float,
        optimizer: Any,
    ):
        super().__init__(network, cutting, penalty=penalty, heads_first=heads_first, steps=steps)
        self.critics = nnx.List(critics)
        self.labelled, self.judged, self.adversarial, self.optimizer = labelled, judged, adversarial, optimizer

    def parts(self) -> tuple[Part, ...]:
        owned = {CRITIC: ("critics",), AUTOENCODER: ("network.autoencoders",)}
        return tuple(Part(name, attributes, self.optimizer) for name, attributes in owned.items())

    def views(self, key: PRNGKeyArray, batch: Batch) -> dict[str, Array]:
        view_key, prior_key = jax.random.split(key)
        return {**super().views(view_key, batch), "prior": prior_key}

    def loss(self, views: Mapping[str, Array], progress: Float[Array, ""]) -> Output:
        """That of the classifiers, on the labelled nodules."""
        return super().loss(self._with_labels(views), progress)

    def part_loss(self, name: str, views: Mapping[str, Array], progress: Float[Array, ""]) -> PartOutput:
        found = [self._play(name, number, views) for number in range(len(self.critics))]
        terms = {term: jnp.mean(jnp.stack([one[term] for one in found])) for term in found[0]}
        if name == CRITIC:
            return PartOutput(terms["told"])
        loss = terms["reconstruction"] + self.adversarial * terms["deceived"]
        if self.network.through:
            loss = loss + self._decision_loss(views)
        return PartOutput(loss, terms)

    def _play(self, name: str, number: int, views: Mapping[str, Array]) -> dict[str, Float[Array, ""]]:
        """The losses of one critic, or of one autoencoder. Only what is trained gathers running statistics."""
        autoencoder, critic = self.network.autoencoders[number], self.critics[number]
        images = self.network.to_unit(self.network.select(views["patches"], number))
        if name == CRITIC:
            made, code = copy_for_once(autoencoder)(images, train=True)
            real, fake = (images, made) if self.judged == "image" else (self._draw_codes(views, number, code), code)
            return {"told": judge(critic, real, True) + judge(critic, fake, False)}
        made, code = autoencoder(images, train=True)
        deceiving = made if self.judged == "image" else code
        return {
            "reconstruction": jnp.mean(jnp.square(images - made)),
            "deceived": judge(copy_for_once(critic), deceiving, True),
        }

    def _draw_codes(self, views: Mapping[str, Array], number: int, like: Array) -> Array:
        """Samples of the prior, a normal distribution."""
        return jax.random.normal(jax.random.fold_in(views["prior"], number), like.shape)

    def _with_labels(self, views: Mapping[str, Array]) -> dict[str, Array]:
        """The views of the labelled nodules alone."""
        first = {name: views[name][: self.labelled] for name in ("patches", "label")}
        return {**views, **first}

    def _decision_loss(self, views: Mapping[str, Array]) -> Float[Array, ""]:
        """The loss of the classifiers, for the autoencoders."""
        labelled = self._with_labels(views)
        network = copy_for_once(self.network)
        logits, decided, _ = network(labelled["patches"], key=labelled["key"], **self.mode)
        return self.measure_decisions(logits, decided, labelled["label"])


def copy_for_once(module: Module) -> Module:
    """The module with the same arrays, but what it writes to its running statistics is lost."""
    graph, state = nnx.split(module)
    return nnx.merge(graph, nnx.as_pure(state))


def judge(critic: nnx.Module, shown: Array, real: bool) -> Float[Array, ""]:
    """The cross-entropy of a critic that should say `real`."""
    logits = critic(shown)
    wanted: Bool[Array, " m"] = jnp.full(logits.shape, real)
    return binary_cross_entropy(logits, wanted)
