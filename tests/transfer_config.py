"""Pretraining on two data sets at once, one of them unknown to this program's builders, and measuring on two others."""

import tiny
import tiny_config

from configs import base


def get_config():
    config = tiny_config.get_config()
    mixed = {"derm_phantom/tiny@16": 0.7, "photographs@16": 0.3}
    paced = {"order": "easiest", "until": 0.9}
    config.stages = (
        tiny_config.stage("rotation", 20, data=mixed),
        tiny_config.stage("npid", 40, data=mixed, samples=paced),
    )
    common = {"size": tiny.SIZE, "views": tiny.PLAIN}
    config.targets = (
        base.target("knn", neighbours=(3, 5), data="image_table/64@16", **common),
        base.target("linear", strengths=(0.1, 1.0), data="derm_phantom/demo@16", fractions=(0.5,), **common),
    )
    return config
