"""Schedulers as a command line names them: POLICY[,SETTING=VALUE…], with settings that hold for all."""

from collections.abc import Sequence

from collodion.process.config import load
from collodion.scheduler.config import SchedulerConfig
from simulation.study import Contender


def contender(text: str, settings: Sequence[str] = ()) -> Contender:
    """For example `static,static_size=8`. Settings are SETTING=VALUE. Exits with code 2 and a sentence if one is unusable."""
    policy, *own = text.split(",")
    flags = [f"--policy={policy}"]
    for setting in (*settings, *own):
        name, _, value = setting.partition("=")
        flags.append(f"--{name.replace('_', '-')}={value}")
    return Contender(text, load(SchedulerConfig, "scheduler", flags, environ={}))
