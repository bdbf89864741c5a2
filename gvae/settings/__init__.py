"""Settings, each declared once: a typed field of a dataclass, with its default, its help text and its admissible values.

    @group("weights")
    class Settings(vae.Settings):
        alpha: float = setting(1.0, "standard deviation of the weights' prior", Number())

The declarations determine the signature and `help()` of an estimator, `get_params`, the flags of `gvae train --model NAME`,
the keys of its configuration files, the checks and their messages, and the table in docs/settings.md. The settings of one
model are declared in its file (`models/NAME.py`), the groups that all models share in `settings/shared.py`.
"""

from gvae.settings.declarations import Settings, fields, group, restated, setting
from gvae.settings.declarations import annotation as annotation
from gvae.settings.declarations import described as described
from gvae.settings.declarations import titled as titled
from gvae.settings.files import from_file as from_file
from gvae.settings.files import native as native
from gvae.settings.files import plain
from gvae.settings.files import spelled as spelled
from gvae.settings.files import to_toml as to_toml
from gvae.settings.kinds import NONE as NONE
from gvae.settings.kinds import Choice, Families, File, Kind, Maybe, Number, Numbers, Text, Whole, Widths, YesNo
from gvae.settings.kinds import Columns as Columns
from gvae.settings.kinds import Layers as Layers
from gvae.settings.kinds import Or as Or
from gvae.settings.kinds import Precision as Precision
from gvae.settings.shared import Ascent as Ascent
from gvae.settings.shared import Length as Length
from gvae.settings.shared import Machine as Machine
from gvae.settings.shared import Objective as Objective
from gvae.settings.shared import Presentation as Presentation
from gvae.settings.shared import Standardized as Standardized

__all__ = [
    "Choice",
    "Families",
    "File",
    "Kind",
    "Maybe",
    "Number",
    "Numbers",
    "Settings",
    "Text",
    "Whole",
    "Widths",
    "YesNo",
    "fields",
    "group",
    "plain",
    "restated",
    "setting",
]
