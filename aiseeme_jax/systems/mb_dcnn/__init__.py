"""MB-DCNN: three networks that help each other once (Xie, Zhang, Xia, Shen, IEEE TMI 39(7), 2020).

`coarse.py` segments, `guided.py` classifies image and coarse mask, `enhanced.py` segments again with the map by which
the classifier decides. Each is a protocol, and needs those before it.
"""

from aiseeme_jax.systems.mb_dcnn.coarse import COARSE
from aiseeme_jax.systems.mb_dcnn.enhanced import ENHANCED
from aiseeme_jax.systems.mb_dcnn.guided import GUIDED

__all__ = ["COARSE", "ENHANCED", "GUIDED"]
