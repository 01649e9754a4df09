"""A search over two tasks on the smallest embedded data set, for tests that start `launch.py` as a user does."""

import tiny
import tiny_config

from configs import base


def get_config():
    config = base.get_search_config()
    config.data.name = "derm_phantom/tiny"
    config.model.update({"name": "tiny", "width": 0.125, "stem": "small", "dtype": "float32"})
    with config.search.unlocked():
        config.search.pool = base.ConfigDict(
            {
                "rotation": tiny_config.stage("rotation", 20),
                "npid": tiny_config.stage("npid", 20),
            }
        ).lock()
        config.search.proxy = base.proxy("knn", size=tiny.SIZE, views=tiny.PLAIN, neighbours=3, samples=20)
    config.search.update(
        {"strategy": "beam", "length": 2, "width": 2, "finalists": 1, "finalist_seeds": (1,), "compare": ()}
    )
    config.targets = (base.target("knn", size=tiny.SIZE, neighbours=(3, 5)),)
    config.runtime.update({"log_every": 1, "checkpoint_every": 4, "evaluation_batch": 16})
    return config
