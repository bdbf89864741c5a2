"""Studies: many runs of one model with different settings, in several processes that share a folder; see `gvae sweep`.

`plan` reads study.toml and proposes settings; `journal` is the file that the processes share; `study` assigns trials and
finds those of dead processes; `work` trains them; `show` lists and draws them; `locks` has the
locks of files. Optuna is imported only in `study`.
"""

from gvae.sweeps.plan import Plan, read_plan
from gvae.sweeps.show import counted, exhibit, line, listed
from gvae.sweeps.study import Study, is_study
from gvae.sweeps.work import work

__all__ = ["Plan", "Study", "counted", "exhibit", "is_study", "line", "listed", "read_plan", "work"]
