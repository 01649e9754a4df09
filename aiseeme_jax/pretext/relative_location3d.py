"""Relative location in volumes (Taleb et al., NeurIPS 2020): where in a 3 x 3 x 3 grid does a patch lie?"""

from aiseeme_jax.pretext.relative_location import RelativeLocation


class RelativeLocation3D(RelativeLocation):
    """26-way cross-entropy on (centre, neighbour) feature pairs, all 26 pairs of each volume; fields as in 2-D.

    The paper asks for one patch at a time among the 27 places; here, as in 2-D, each is shown beside the centre one.
    """

    NAME = "relative_location3d"
    DIMENSIONS = (3,)
    FIXED = {}
