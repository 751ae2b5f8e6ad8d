"""The frontend's settings, their defaults and bounds; written once, here."""

from dataclasses import dataclass
from pathlib import Path

from collodion.process.config import setting
from collodion.process.logs import LogFormat, LogLevel
from collodion.process.running import default_artifacts_dir, default_run_dir


@dataclass(frozen=True)
class Config:
    """Settings of the frontend."""

    name: str = setting("frontend-0", "Name under which it announces itself; two of one name hide each other.")
    listen: str = setting(
        "127.0.0.1:50051", "Address of the gRPC port, port 0 for any free one; beyond loopback anybody may call."
    )
    reuse_port: bool = setting(
        False, "Whether several frontends may share the port; if so a forgotten old one gets calls too."
    )
    run_dir: Path = setting(default_run_dir(), "Directory of the private sockets, the same for all processes.")
    artifacts: Path = setting(
        default_artifacts_dir(),
        "Directory of the finished pictures and of those that jobs begin from, the same for all processes; frontends write it, too.",
    )
    metrics_host: str = setting("127.0.0.1", "Where Prometheus may fetch metrics; beyond loopback anybody may.")
    metrics_port: int = setting(9470, "Port of the metrics, 0 for any free one.", low=0, high=65535)
    log_format: LogFormat = setting(LogFormat.TEXT, "text for people, json for machines.")
    log_level: LogLevel = setting(LogLevel.INFO, "debug, info, warning or error; debug writes several lines a call.")
    beat_s: float = setting(
        1.0, "Time between two beats; short costs messages, long finds a dead scheduler late.", low=0.05, high=60
    )
    beats_missed: int = setting(
        3, "Beats missed before the scheduler counts as dead; 1 ends streams at a hiccup.", low=1, high=100
    )
    answer_timeout_s: float = setting(
        5.0, "How long a call waits for the scheduler's answer; short fails calls under load.", low=0.1, high=300
    )
    drain_s: float = setting(
        30.0, "How long running streams may go on after SIGTERM; 0 cuts them off.", low=0, high=86_400
    )
    max_images: int = setting(
        16, "Most images a request may ask for; many let one caller fill the queue.", low=1, high=1024
    )
    coalesce: bool = setting(
        True,
        "Whether a slow reader gets only the newest progress and preview; without, it gets all up to mailbox_events.",
    )
    mailbox_events: int = setting(
        1_000, "Events kept for a slow reader; few coalesce early, many cost memory.", low=64, high=1_000_000
    )
    upload_threads: int = setting(
        2,
        "Pictures decoded at once; few make a burst of them wait, many take memory (half a GB each at worst) and time from streams.",
        low=1,
        high=64,
    )
    upload_wait_s: float = setting(
        5.0,
        "How long a request may wait for its pictures to be decoded; short refuses bursts, long outlasts the clients' patience.",
        low=0.1,
        high=300,
    )
    upload_budget_bytes: int = setting(
        256 * 1024 * 1024,
        "Encoded pictures in memory, over all requests; beyond it requests with pictures are refused, so little turns bursts away.",
        low=0,
        high=1 << 40,
    )
    inline_budget_bytes: int = setting(
        2 * 1024 * 1024,
        "Images on their way in one piece, over all streams; beyond it they go in small chunks, which costs CPU.",
        low=0,
        high=1 << 40,
    )
