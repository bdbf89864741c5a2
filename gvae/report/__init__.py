"""What a run has to show: `exhibit` reads it, `pictures` draws it (`gvae plot`), `track` keeps the posterior of one row."""

from gvae.report.exhibit import Absent, Exhibit, image_shape_of
from gvae.report.pictures import PARTS, draw
from gvae.report.track import Track, read_track, tracked_row

__all__ = ["PARTS", "Absent", "Exhibit", "Track", "draw", "image_shape_of", "read_track", "tracked_row"]
