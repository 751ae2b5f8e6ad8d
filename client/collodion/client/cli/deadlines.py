"""Deadlines as a person reads them: what is promised, whether it was kept, what could be promised instead.

Clock times are local. How far off they are is counted from the server's word wherever it gave the time with it, so that a
wrong clock here does no harm.
"""

import argparse
import datetime
import math

from collodion.client.errors import DeadlineInfeasible
from collodion.client.events import Finished
from collodion.client.jobs import DeadlinePolicy, Job
from collodion.client.tiers import Tier

_COLUMN = 32


def standing(job: Job, at: datetime.datetime) -> str:
    """What is promised to a job and when it is expected, as of `at`; of one that ended, what came of it. Empty: nothing is known."""
    if job.state.ended:
        return _outcome(job)
    parts = []
    if job.deadline:
        parts.append(f"{'promised by' if job.promised else 'best effort, deadline'} {_moment(job.deadline, at)}")
    if job.predicted_finish_time:
        parts.append(f"expected {_moment(job.predicted_finish_time, at)}")
    return ", ".join(parts)


def kept(job: Job, finished: Finished) -> str:
    """How a job that was watched to its end stood to its deadline; empty if it had none."""
    if finished.deadline_met is None or job.deadline is None:
        return ""
    if finished.time is None:
        return f"its deadline was {_met(finished.deadline_met)}"
    spare_s = (job.deadline - finished.time).total_seconds()
    return f"finished {span(abs(spare_s))} {'before' if finished.deadline_met else 'after'} its deadline"


def cell(job: Job) -> str:
    """A job's deadline in a table: when, whether it is promised, and at the end whether it was met."""
    if not job.deadline:
        return "-"
    said = f"{clock(job.deadline)} {'promised' if job.promised else 'best effort'}"
    return said if job.deadline_met is None else f"{said}, {_met(job.deadline_met)}"


def default_slo(tier: Tier) -> str:
    """The SLO of a tier's jobs that name none."""
    if tier.slo_s is not None:
        return span(tier.slo_s)
    return "none" if tier.slo_scale is None else f"{tier.slo_scale:g} × alone"


def offers(error: DeadlineInfeasible, arguments: argparse.Namespace) -> list[str]:
    """What to ask for instead, a line for each: the flags to change, beside those in `arguments`, and what comes of it."""
    offer, given, lines = error.offer, vars(arguments), []
    if offer.slo_s is not None:
        by = f", by {clock(offer.finish_time)}" if offer.finish_time else ""
        lines.append((f"--slo {math.ceil(offer.slo_s * 10) / 10:.1f}", f"as asked{by}"))
    if offer.steps is not None:
        flag = "--min-steps" if given.get("deadline_policy") == DeadlinePolicy.DEGRADE else "--steps"
        lines.append((f"{flag} {offer.steps}", "by the deadline, with fewer steps"))
    if offer.tier is not None:
        without = " without --slo" if given.get("slo_s") is not None else ""
        lines.append((f"--tier {offer.tier}{without}", "as asked, by that tier's own deadline"))
    lines.append((f"--deadline-policy {DeadlinePolicy.BEST_EFFORT}", "as asked, in what promises to others leave"))
    width = max(_COLUMN, *(len(flags) + 2 for flags, _ in lines))
    return [f"  {flags.ljust(width)}{outcome}" for flags, outcome in lines]


def span(seconds: float) -> str:
    """A length of time: tenths of a second below a minute, two units above."""
    if seconds < 60:
        return f"{round(seconds, 1):g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = (f"{hours} h", f"{minutes} min") if hours else (f"{minutes} min", f"{rest} s")
    return " ".join(part for part in parts if not part.startswith("0 "))


def clock(moment: datetime.datetime) -> str:
    """The local time of day, with the date if that is not today's."""
    local = moment.astimezone()
    today = datetime.datetime.now().astimezone().date()
    return local.strftime("%H:%M:%S" if local.date() == today else "%Y-%m-%d %H:%M:%S")


def _moment(moment: datetime.datetime, at: datetime.datetime) -> str:
    off_s = (moment - at).total_seconds()
    return f"{clock(moment)} ({f'in {span(off_s)}' if off_s >= 0 else f'{span(-off_s)} ago'})"


def _outcome(job: Job) -> str:
    return "" if job.deadline_met is None else f"its deadline was {_met(job.deadline_met)}"


def _met(met: bool) -> str:
    return "met" if met else "missed"
