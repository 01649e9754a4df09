"""Runs `bench.gpu` on a toy, in a process that has none of the packages which a machine with a GPU may lack."""

import sys
from functools import partial
from pathlib import Path

MISSING = ("grain", "clu", "ml_collections", "tensorflow", "tensorflow_datasets", "array_record", "cv2", "sklearn")
# Its rows say that it is missing; `bench.vs_torch` is tested with it.
MISSING += ("torch",)


class Without:
    """A finder that finds the modules of another one, but for the packages that are missing."""

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in MISSING else self.finder.find_spec(name, path, target)


if __name__ == "__main__":
    sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from aiseeme_jax import models
    from aiseeme_jax.models import resnet, vit
    from bench import gpu

    resnet.ARCHITECTURES["tiny"], vit.ARCHITECTURES["tiny_vit"] = (False, (1, 0, 0, 0)), (24, 2, 2)
    added = {"tiny": partial(models.ResNet, "tiny"), "tiny_vit": partial(models.ViT, "tiny_vit")}
    models.BACKBONES = {**models.BACKBONES, **added}
    gpu.main(sys.argv[1:])
    assert not set(MISSING) & set(sys.modules)
