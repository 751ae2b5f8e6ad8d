"""`collodion generate`, `jobs`, `watch`, `why`, `cancel`, `tiers`: what asks a server."""

import argparse
import datetime
import itertools
import sys
from pathlib import Path
from typing import Any, cast

from collodion.client.cli import deadlines, plain
from collodion.client.cli.following import follow, prepare
from collodion.client.cli.foreign import shown
from collodion.client.cli.tables import client_of, marked, print_lines, print_table
from collodion.client.jobs import Job, JobState
from collodion.client.requests import JobOptions
from collodion.client.tiers import Tier


def generate(arguments: argparse.Namespace) -> None:
    """Draws pictures and saves them."""
    for path in filter(None, (arguments.init_image, arguments.mask_image)):
        _check_readable(path)
    prepare(arguments.output)
    with client_of(arguments) as client:
        events = client.stream(arguments.prompt, **_options(arguments))
        follow(events, arguments.output, as_json=arguments.json, cancelling=client)


def watch(arguments: argparse.Namespace) -> None:
    """Watches a job and saves its pictures."""
    prepare(arguments.output)
    with client_of(arguments) as client:
        follow(client.watch(arguments.job_id), arguments.output, as_json=arguments.json)


def jobs(arguments: argparse.Namespace) -> None:
    """Lists jobs."""
    states = [JobState(state) for state in arguments.state or ()]
    with client_of(arguments) as client:
        found = client.list(states=states, labels=dict(arguments.labels or ()), page_size=min(arguments.limit, 1000))
        listed = list(itertools.islice(found, arguments.limit))
    if arguments.json:
        print_lines(listed)
    else:
        print_table(("job", "state", "done", "model", "tier", "deadline", "prompt"), [_job_row(job) for job in listed])


def why(arguments: argparse.Namespace) -> None:
    """Says why a job is not finished sooner."""
    with client_of(arguments) as client:
        job = client.get(arguments.job_id)
    if arguments.json:
        names = (
            "job_id",
            "state",
            "place",
            "deadline",
            "promised",
            "predicted_finish_time",
            "deadline_met",
            "explanation",
        )
        print(plain.line(**{name: getattr(job, name) for name in names}))
        return
    standing = deadlines.standing(job, datetime.datetime.now(datetime.UTC))
    print(shown(f"job {job.job_id} is {job.state}{standing and f', {standing}'}"))
    if job.explanation:
        print(shown(job.explanation.summary))
        for remedy in job.explanation.remedies:
            print(shown(f"  sooner: {remedy}"))


def cancel(arguments: argparse.Namespace) -> None:
    """Cancels a job."""
    with client_of(arguments) as client:
        job = client.cancel(arguments.job_id)
    if arguments.json:
        print_lines([job])
    else:
        print(shown(f"job {job.job_id} is {job.state}"))


def tiers(arguments: argparse.Namespace) -> None:
    """Lists the classes of service."""
    with client_of(arguments) as client:
        listed = client.tiers()
    if arguments.json:
        print_lines(listed)
    else:
        print_table(("tier", "deadline after", "weight"), [_tier_row(tier) for tier in listed])


def _check_readable(path: Path) -> None:
    """Before anything is done: a picture that is not there is the likeliest mistake."""
    try:
        path.open("rb").close()
    except OSError as error:
        raise OSError(f"the picture {path} cannot be read: {error.strerror}") from error


def _options(arguments: argparse.Namespace) -> JobOptions:
    given = {name: getattr(arguments, name, None) for name in JobOptions.__annotations__}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if "labels" in options:
        options["labels"] = dict(options["labels"])
    if sys.stderr.isatty() and not arguments.json:
        options.setdefault("preview_interval", 1)
    return cast(JobOptions, options)  # the flags are named after the options


def _job_row(job: Job) -> tuple[str, ...]:
    done = f"{len(job.images)}/{job.parameters.images}"
    return job.job_id, job.state, done, job.parameters.model, job.tier, deadlines.cell(job), job.parameters.prompt


def _tier_row(tier: Tier) -> tuple[str, ...]:
    return marked(tier.name, tier.is_default), deadlines.default_slo(tier), f"{tier.weight:g}"
