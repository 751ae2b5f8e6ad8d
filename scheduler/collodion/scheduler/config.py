"""The scheduler's settings."""

import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from collodion.process.config import ConfigError, setting
from collodion.process.logs import LogFormat, LogLevel
from collodion.process.running import default_artifacts_dir, default_run_dir
from collodion.wire.to_frontend import TierInfo


class PolicyName(StrEnum):
    """The rules by which a worker's next step batch is chosen."""

    SLACK = "slack"
    FIFO = "fifo"
    STATIC = "static"
    FIFO_DROP = "fifo+drop"
    EDF_DROP = "edf+drop"
    EDF_PREDICT = "edf+predict"


@dataclass(frozen=True)
class SchedulerConfig:
    """Settings of the scheduler."""

    run_dir: Path = setting(
        default_run_dir(), "Directory of the private sockets; all processes of one server share it."
    )
    artifacts: Path = setting(default_artifacts_dir(), "Directory of finished pictures; a full disk makes jobs fail.")
    policy: PolicyName = setting(
        PolicyName.SLACK,
        "How step batches are chosen: slack keeps promises; fifo, static, fifo+drop, edf+drop, edf+predict are baselines.",
    )
    batch_cap: int | None = setting(
        None, "Latents in a step batch at most; 1 forgoes batching, none leaves it to each worker's own bound.", low=1
    )
    static_size: int = setting(
        8, "Waiting latents that start a static batch; too many make the first wait for the timeout.", low=1, high=4096
    )
    static_timeout_s: float = setting(
        0.2, "How long the oldest waits for a static batch to fill; 0 never waits for company.", low=0, high=3600
    )
    tiers: tuple[str, ...] = setting(
        ("interactive=5x@4", "standard=20x@2", "batch=none"),
        "Classes of service: in how many seconds (30), or times (5x) what a job takes alone, or not (none), and its weight (@4).",
    )
    default_tier: str = setting("standard", "Tier of a request that names none.")
    default_model: str = setting(
        "",
        "Model of a request that names none; empty: the first usable one, those that workers keep in memory before others.",
    )
    profiles: tuple[str, ...] = setting(
        (),
        "Saved profiles to begin with: FILE, or FILE:NAME=MODEL/WxH, with @DEVICE KIND or without; "
        "without one the first jobs of a size find its costs.",
    )
    load_mib_s: float = setting(
        500.0,
        "How many MiB of a model a worker loads in a second, until loads were measured; wrong ones make early refusals name wrong times.",
        low=0.1,
    )
    turn_s: float = setting(
        10.0,
        "How long a model waits for one that is busy all the time, at least; short ones load often, long ones let its jobs wait.",
        low=0,
        high=86_400,
    )
    copy_loads: float = setting(
        4.0,
        "A further copy is loaded once what waits for a model takes so many times what loading does; low ones crowd out other models.",
        low=0,
    )
    max_jobs: int = setting(
        10_000, "Unfinished jobs at most; beyond it requests are refused, so it bounds memory.", low=1
    )
    max_jobs_per_tenant: int = setting(
        5_000, "Unfinished jobs of one tenant at most; at max_jobs one tenant can shut out the others.", low=1
    )
    max_queue_s: float = setting(
        3600.0, "Predicted seconds of work that may wait; beyond it requests are refused, so it bounds waiting.", low=1
    )
    max_queue_s_per_tenant: float = setting(
        1800.0, "The same of one tenant; at max_queue_s one tenant can shut out the others.", low=1
    )
    admission_window_s: float = setting(
        0.002,
        "How long requests are collected to be judged together; long ones delay answers, at 0 who comes first is promised first.",
        low=0,
        high=1,
    )
    patience_s: float = setting(
        300.0,
        "After so long a job without a promise may run before promised ones that can spare it; short ones leave less to promise.",
        low=0,
    )
    max_images: int = setting(
        64, "Images of one job at most; the frontend's limit should be no higher.", low=1, high=4096
    )
    grace_s: float = setting(
        10.0, "How long a job waits, parked, for its client to come back; 0 cancels on any hiccup.", low=0, high=86_400
    )
    frontend_grace_s: float = setting(
        30.0,
        "The same where the frontend died; less than a frontend's restart cancels its clients' jobs.",
        low=0,
        high=86_400,
    )
    retention_s: float = setting(
        3600.0,
        "How long ended jobs and their pictures are kept; 0 leaves no time to fetch them.",
        low=0,
        high=31_536_000,
    )
    max_ended_jobs: int = setting(
        10_000, "Ended jobs kept at most, the newest; more cost memory (some kB each).", low=0
    )
    artifacts_max_bytes: int = setting(
        10 * 1024**3,
        "Bytes of finished pictures kept at most, the newest; less than a busy hour's loses pictures.",
        low=0,
    )
    prune_s: float = setting(
        60.0, "Time between two prunings of the pictures; long ones let the disk overshoot.", low=0.1
    )
    beat_s: float = setting(1.0, "Time between heartbeats; has to be the workers' and frontends'.", low=0.01, high=60)
    beats_missed: int = setting(
        3, "Beats without a word after which a peer counts as dead; 1 takes a hiccup for a death.", low=1, high=100
    )
    metrics_host: str = setting("127.0.0.1", "Address of the Prometheus endpoint; beyond loopback anybody can read it.")
    metrics_port: int = setting(9471, "Port of the Prometheus endpoint; 0 takes any free one.", low=0, high=65_535)
    log_format: LogFormat = setting(LogFormat.TEXT, "How log lines look: text for people, json for machines.")
    log_level: LogLevel = setting(
        LogLevel.INFO, "debug, info, warning or error; debug is too much for a busy scheduler."
    )

    def __post_init__(self) -> None:
        names = [tier.name for tier in self.tier_infos()]
        if self.default_tier not in names:
            raise ConfigError(f"default_tier {self.default_tier} is none of the tiers {', '.join(names)}")

    def tier_infos(self) -> tuple[TierInfo, ...]:
        """The tiers as frontends are told. Raises ConfigError."""
        return tuple(_tier(text) for text in self.tiers)


def _tier(text: str) -> TierInfo:
    name, _, rest = text.partition("=")
    slo, _, weight = rest.partition("@")
    try:
        worth = float(weight) if weight else 1.0
        number = None if slo == "none" else float(slo.removesuffix("x"))
    except ValueError as error:
        raise ConfigError(
            f"tiers: {text!r} is not name=seconds, name=5x or name=none, with @weight or without"
        ) from error
    if not name or (number is not None and not 0 < number < math.inf) or not 0 < worth < math.inf:
        raise ConfigError(f"tiers: {text!r} needs a name, and numbers above 0")
    if slo.endswith("x"):
        return TierInfo(name, slo_scale=number, weight=worth)
    return TierInfo(name, slo_s=number, weight=worth)
