"""What a run has to show: `parts` lists it as panels of an `Exhibit`, `pictures` draws them (`gvae plot`), and `page` writes
them as one file of HTML (`gvae report`). `track` keeps the posterior of one row while a model is trained."""

from gvae.report.exhibit import Absent, Exhibit, image_shape_of
from gvae.report.page import write, write_panels
from gvae.report.parts import PARTS, usual_parts
from gvae.report.pictures import draw
from gvae.report.track import Track, read_track, tracked_row

__all__ = [
    "PARTS",
    "Absent",
    "Exhibit",
    "Track",
    "draw",
    "image_shape_of",
    "read_track",
    "tracked_row",
    "usual_parts",
    "write",
    "write_panels",
]
