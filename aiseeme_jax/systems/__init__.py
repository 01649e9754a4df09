"""Published supervised systems: each is one protocol or several, in a file or a folder, with a line here for each.

What a protocol is stands in `evaluate/measurement.py`; docs/systems.md has a section for each system.
"""

from aiseeme_jax.evaluate.measurement import Protocol
from aiseeme_jax.systems.arl_cnn import ARL_CNN
from aiseeme_jax.systems.fisher_vector import FISHER_VECTOR
from aiseeme_jax.systems.fuse_tsd import FUSE_TSD
from aiseeme_jax.systems.mb_dcnn import COARSE, ENHANCED, GUIDED
from aiseeme_jax.systems.mv_kbc import MV_KBC
from aiseeme_jax.systems.ssac import SSAC_STYLE
from aiseeme_jax.systems.thorax_net import THORAX_ATTENTION, THORAX_NET

SYSTEMS: tuple[Protocol, ...] = (
    ARL_CNN,
    COARSE,
    GUIDED,
    ENHANCED,
    FISHER_VECTOR,
    THORAX_ATTENTION,
    THORAX_NET,
    FUSE_TSD,
    MV_KBC,
    SSAC_STYLE,
)
