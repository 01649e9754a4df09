"""CKA between all layers of all networks at once, batch by batch on the device, in constant memory.

Minibatch CKA (Nguyen, Raghu & Kornblith 2021, eq. 2 and 3): the unbiased HSIC of every pair is summed over batches, and
only then divided. Its expectation does not depend on the batch size. (A mean of the CKAs of batches, or of biased HSIC,
does: .66 becomes .92 with batches of 8.)
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Fewer images than this in a batch have no unbiased estimate.
FEWEST = 4


class LayerCka:
    """Sums of HSIC between layers. `add` takes the features of a batch, `values` gives the matrix of CKA.

    Its memory is layers x layers, and for one batch layers x batch x batch.
    """

    def __init__(self):
        self.sums: Float[Array, "layers layers"] | None = None

    def add(self, features: Sequence[Float[Array, "batch ..."]]) -> None:
        """Adds a batch: what each layer makes of the same images, in the same order of layers each time.

        A map is flattened, so that its positions count.

        Raises ValueError if layers have different numbers of images, if there are fewer than 4, or if their number
        differs from that of the last batch.
        """
        counts = {len(layer) for layer in features}
        if len(counts) != 1 or min(counts) < FEWEST:
            raise ValueError(f"CKA needs the same images of every layer, at least {FEWEST}, got {sorted(counts)}")
        if self.sums is not None and len(self.sums) != len(features):
            raise ValueError(f"the last batch had {len(self.sums)} layers, this one has {len(features)}")
        found = _products(jnp.stack([_centred_kernel(layer) for layer in features]))
        self.sums = found if self.sums is None else self.sums + found

    def values(self) -> Float[np.ndarray, "layers layers"]:
        """CKA of all pairs of layers. It is NaN for a layer that is the same for all images.

        Raises ValueError if no batch was added.
        """
        if self.sums is None:
            raise ValueError("no batch was added")
        sums = np.asarray(self.sums, np.float64)
        # Estimates of what does not vary can be a little below 0: they are summed first and judged last.
        own = np.sqrt(np.where(np.diag(sums) > 0, np.diag(sums), np.nan))
        return sums / np.outer(own, own)


@jax.jit
def _centred_kernel(features: Float[Array, "batch ..."]) -> Float[Array, "batch batch"]:
    """The linear kernel, U-centred (`similarity.centre_unbiased`) and divided by its number of entries."""
    rows = features.reshape(len(features), -1).astype(jnp.float32)
    # It changes nothing but rounding. Without it a large mean leaves no digits of what differs.
    rows = rows - rows.mean(axis=0)
    count = len(rows)
    off = 1 - jnp.eye(count)
    kernel = jnp.matmul(rows, rows.T, precision="highest") * off
    means = kernel.sum(axis=1) / (count - 2)
    means = means - means.sum() / (2 * (count - 1))
    centred = (kernel - means[:, None] - means[None, :]) * off
    return centred / jnp.sqrt(count * (count - 3.0))


@jax.jit
def _products(kernels: Float[Array, "layers batch batch"]) -> Float[Array, "layers layers"]:
    rows = kernels.reshape(len(kernels), -1)
    return jnp.matmul(rows, rows.T, precision="highest")
