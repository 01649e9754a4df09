"""Weightings that look at the gradient of each loss. All that they need of the gradients is their inner products."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from aiseeme_jax.pretext.pacing.weighting import SMALLEST, Weighting, check_field


@dataclasses.dataclass(frozen=True)
class GradNorm(Weighting):
    """Weights that bring the gradients of all members to norms that fit their rates of learning (Chen et al., ICML
    2018, algorithm 1).

    With r = (L / L at the first step) over its mean, the weights w descend sum |w |g| - G r^alpha|, G being the mean of
    the norms, and are scaled to sum N. Published is the gradient of the last shared layer. Here it is that of the whole
    backbone, since networks differ in what their last layer is. That w moves by gradient descent on this sum over G, so
    that the units of the losses do not matter, is ours too.

    Args:
      alpha: how much slow members are favoured.
      learning_rate: of the weights.
    """

    NAME = "gradnorm"
    SEPARATE_GRADIENTS = True
    alpha: float = 1.5
    learning_rate: float = 0.025

    def start(self, count):
        return {"w": jnp.ones(count), "first": jnp.full(count, jnp.nan)}

    def weigh_gradients(self, state, products, losses, key):
        w = state["w"]
        first = jnp.where(jnp.isnan(state["first"]), losses, state["first"])
        norms = jnp.sqrt(jnp.maximum(jnp.diagonal(products), 0.0))
        _, slope = balance_norms(w, norms, losses / jnp.maximum(first, SMALLEST), self.alpha)
        step = self.learning_rate * slope / jnp.maximum(jnp.mean(w * norms), SMALLEST)
        moved = jnp.maximum(w - step, SMALLEST)
        return w, {"w": moved * w.shape[0] / jnp.sum(moved), "first": first}

    def check(self, names):
        check_field("alpha", self.alpha, self.alpha >= 0, "at least 0")
        check_field("learning_rate", self.learning_rate, self.learning_rate > 0, "above 0")


def balance_norms(
    w: Float[Array, " n"], norms: Float[Array, " n"], ratios: Float[Array, " n"], alpha: float
) -> tuple[Float[Array, ""], Float[Array, " n"]]:
    """The loss of GradNorm, and its gradient on the weights.

    Args:
      norms: of the gradients without their weights.
      ratios: each loss over that of the first step.
    """
    rates = ratios / jnp.maximum(jnp.mean(ratios), SMALLEST)
    wanted = jax.lax.stop_gradient(jnp.mean(w * norms) * rates**alpha)
    return jnp.sum(jnp.abs(w * norms - wanted)), jnp.sign(w * norms - wanted) * norms


@dataclasses.dataclass(frozen=True)
class PCGrad(Weighting):
    """From each gradient, what points against another one is taken away (Yu et al., NeurIPS 2020, algorithm 1)."""

    NAME = "pcgrad"
    SEPARATE_GRADIENTS = True

    def weigh_gradients(self, state, products, losses, key):
        return project_conflicts(products, key), state


def project_conflicts(products: Float[Array, "n n"], key: PRNGKeyArray) -> Float[Array, " n"]:
    """The weights w of PCGrad: its step is the sum of w times the gradients.

    Every gradient meets the others in a random order of its own: g' <- g' - min(<g', g_j>, 0) / |g_j|^2 g_j.

    Args:
      products: inner products of the gradients.
    """
    count = products.shape[0]

    def project(own, key):
        def meet(mixture, other):
            overlap = mixture @ products[:, other]
            against = jnp.where(other == own, 0.0, jnp.minimum(overlap, 0.0))
            size = products[other, other]
            return mixture.at[other].add(-jnp.where(size > 0, against / jnp.where(size > 0, size, 1.0), 0.0)), None

        start = jnp.zeros(count).at[own].set(1.0)
        return jax.lax.scan(meet, start, jax.random.permutation(key, count))[0]

    return jnp.sum(jax.vmap(project)(jnp.arange(count), jax.random.split(key, count)), axis=0)
