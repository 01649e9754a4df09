"""Kinds that compare what the student and its teacher compute from the same images."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aiseeme_jax import losses, models
from aiseeme_jax.distill import distances
from aiseeme_jax.distill.terms import Term
from aiseeme_jax.task import Output, Task

PUBLISHED_HIDDEN = 2048


class Endpoints:
    """Endpoints of the student and of its teachers for the images of one output, each computed when first asked for.

    A task returns pooled features only. Any other endpoint of the student needs a second pass over `Output.images`, all
    of them normalised together. That pass does not change the running averages.
    """

    def __init__(self, task: Task, output: Output, backbones: Mapping[str, nnx.Module]):
        self.task, self.output, self.backbones = task, output, backbones
        self._student: dict[str, Array] = {"pooled": output.features}
        self._teachers: dict[str, dict[str, Array]] = {}

    def student(self, endpoint: str) -> Float[Array, "m *space d"]:
        if endpoint not in self._student:
            again = nnx.clone(self.task.backbone)(self.output.images, train=True)
            self._student = {**again, **self._student}
        return self._student[endpoint]

    def teacher(self, name: str, endpoint: str) -> Float[Array, "m *space d"]:
        if name not in self._teachers:
            endpoints = self.backbones[name](self.output.images, train=False)
            self._teachers[name] = jax.lax.stop_gradient(endpoints)
        return self._teachers[name][endpoint]


def mean_over_places(rows: Float[Array, "m *space d"]) -> Float[Array, "m d"]:
    """A map as the mean of its places; pooled features as they are."""
    return jnp.mean(rows, axis=tuple(range(1, rows.ndim - 1)), dtype=jnp.promote_types(rows.dtype, jnp.float32))


def places_as_rows(rows: Float[Array, "m *space d"]) -> Float[Array, "n d"]:
    """A map place by place: every place of every image is a row."""
    return rows.reshape(-1, rows.shape[-1])


def flatten_maps(rows: Float[Array, "m *space d"]) -> Float[Array, "m n"]:
    """A map as one long row."""
    return rows.reshape(rows.shape[0], -1)


class Features(nnx.Module):
    """Base of the kinds that compare endpoints. A subclass says how a map becomes rows, and compares the rows.

    Class attributes:
      ROWS: makes rows of an endpoint, which is a map or pooled features.
      SAME_SIZE: whether the rows of student and teacher must have one length.
      MINIMUM_ROWS: rows that there must be, images and their views.
    """

    ROWS: Callable[[Array], Array] = staticmethod(mean_over_places)
    SAME_SIZE: ClassVar[bool] = True
    MINIMUM_ROWS: ClassVar[int] = 1

    def __init__(self, term: Term, task: Task, frozen: Any, *, dtype: str, rngs: nnx.Rngs):
        self.term = term

    @classmethod
    def count_minimum_rows(cls, term: Term) -> int:
        """Rows that there must be for a term with these fields."""
        return cls.MINIMUM_ROWS

    def __call__(self, task: Task, endpoints: Endpoints, frozen: Any) -> Float[Array, ""]:
        endpoint = self.term.endpoint
        teachers = [self.ROWS(endpoints.teacher(name, endpoint)) for name in self.term.teachers]
        return self.compare(self.ROWS(endpoints.student(endpoint)), self.combine(teachers))

    def combine(self, teachers: list[Float[Array, "n t"]]) -> Float[Array, "n t"]:
        """The rows of several teachers as those of one: their mean."""
        return sum(teachers[1:], teachers[0].astype(jnp.float32)) / len(teachers)

    def compare(self, student: Float[Array, "n s"], teacher: Float[Array, "n t"]) -> Float[Array, ""]:
        raise TypeError(f"{type(self).__name__} compares nothing")


class KL(Features):
    """T^2 KL(teacher || student) of the softmax of features taken as logits (Hinton et al., 2015)."""

    def combine(self, teachers):
        """Logits at temperature T of the mean of the teachers' probabilities."""
        if len(teachers) == 1:
            return teachers[0]
        temperature = self.term.temperature
        logs = jnp.stack([jax.nn.log_softmax(rows.astype(jnp.float32) / temperature) for rows in teachers])
        return temperature * (jax.nn.logsumexp(logs, axis=0) - jnp.log(len(teachers)))

    def compare(self, student, teacher):
        return losses.kl_distill(student, teacher, temperature=self.term.temperature)


class MSE(Features):
    """Mean of the squared differences, at every place of a map (Romero et al., 2015, without their regressor)."""

    ROWS = staticmethod(places_as_rows)

    def compare(self, student, teacher):
        return losses.mse(student, teacher)


class Cosine(Features):
    """1 - the mean cosine, at every place of a map."""

    ROWS = staticmethod(places_as_rows)

    def compare(self, student, teacher):
        return distances.cosine(student, teacher)


class Relational(Features):
    """Distances between the images of the batch, plus `angle` times the angles of triangles (Park et al., 2019)."""

    SAME_SIZE = False
    MINIMUM_ROWS = 2

    @classmethod
    def count_minimum_rows(cls, term):
        return 3 if term.angle else cls.MINIMUM_ROWS

    def compare(self, student, teacher):
        loss = distances.relational_distance(student, teacher)
        if self.term.angle:
            loss += self.term.angle * distances.relational_angle(student, teacher)
        return loss


class SimilarityPreserving(Features):
    """Which images of the batch are alike (Tung & Mori, 2019)."""

    ROWS = staticmethod(flatten_maps)
    SAME_SIZE = False
    MINIMUM_ROWS = 2

    def compare(self, student, teacher):
        return distances.similarity_preserving(student, teacher)


class PFR(Features):
    """-cos(M(student), teacher), M two trained layers (projected functional regularisation, Gomez-Villa 2022).

    The student may move its features as long as M can recover the old ones from them.
    """

    SAME_SIZE = False
    # M normalises its hidden layer by the statistics of the batch, which makes 1 and -1 of any two values.
    MINIMUM_ROWS = 3

    def __init__(self, term: Term, task: Task, frozen: Any, *, dtype: str, rngs: nnx.Rngs):
        super().__init__(term, task, frozen, dtype=dtype, rngs=rngs)
        lengths = {name: widths(frozen.backbones[name], task)[term.endpoint] for name in term.teachers}
        (length,) = set(lengths.values())
        student = widths(task.backbone, task)[term.endpoint]
        self.predictor = make_predictor(term, task, student, length, dtype=dtype, rngs=rngs)

    def compare(self, student, teacher):
        return losses.negative_cosine(self.predictor(student, train=True), teacher)


def make_predictor(term: Term, task: Task, length: int, out: int, *, dtype: str, rngs: nnx.Rngs) -> models.MLP:
    """Linear, batch normalisation, ReLU, linear; `hidden` 0 takes four times the backbone's features, at most 2,048.

    The published width is 2,048, for the 512 features of a ResNet-18.
    """
    hidden = term.hidden or min(PUBLISHED_HIDDEN, 4 * task.backbone.features)
    return models.MLP(length, (hidden,), out, norm=True, dtype=dtype, rngs=rngs)


def shapes(backbone: nnx.Module, size: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the endpoints for one image of `size` pixels, or voxels, a side; nothing is computed."""
    graph, state = nnx.split(backbone)
    image = jax.ShapeDtypeStruct((1, *(size,) * getattr(backbone, "dimensions", 2), backbone.channels), jnp.float32)
    endpoints = jax.eval_shape(lambda s, x: nnx.merge(graph, s)(x, train=False), nnx.as_pure(state), image)
    return {name: endpoint.shape for name, endpoint in endpoints.items()}


def widths(backbone: nnx.Module, task: Task) -> dict[str, int]:
    """Channels of each endpoint."""
    return {name: shape[-1] for name, shape in shapes(backbone, task.spec.size).items()}
