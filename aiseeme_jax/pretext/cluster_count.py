"""How many clusters or prototypes suit a data set."""

from aiseeme_jax.errors import UserError
from aiseeme_jax.task import Setting, Task

# About DeepCluster's 10,000 on the 1.28 million images of ImageNet.
IMAGES_PER_CLUSTER = 128
FEWEST = 16


def cluster_count(task: Task, field: str, asked: int, setting: Setting, published: int) -> int:
    """The number `asked` for, or if that is 0 one that suits the data set.

    That is one for 128 images, at least 16 and at most `published`, but never more than half the images. Raises
    ValueError, which names the task and its field, unless `asked` lies between 2 and half the images.
    """
    most = setting.images // 2
    if most < 2:
        raise UserError(f"{task.NAME}: a split of {setting.images} images is too small to cluster; it needs at least 4")
    if not asked:
        return min(max(setting.images // IMAGES_PER_CLUSTER, FEWEST), published, most)
    if not 2 <= asked <= most:
        raise UserError(
            f"{task.NAME}: {asked} {field} for a split of {setting.images} images; "
            f"`{field}` must lie between 2 and half of them, {most}"
        )
    return asked
