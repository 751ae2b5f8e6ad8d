"""The settings of a worker, and what a setting means where it is more than a number."""

from dataclasses import dataclass
from pathlib import Path

from collodion.process.config import setting
from collodion.process.logs import LogFormat, LogLevel
from collodion.process.running import default_artifacts_dir, default_run_dir


@dataclass(frozen=True)
class WorkerConfig:
    """Settings of the worker."""

    name: str = setting(
        "worker-0", "Name in announcements, logs and AdminService; two workers with one name hide each other."
    )
    run_dir: Path = setting(
        default_run_dir(), "Directory of the private sockets; the same for all processes of a server."
    )
    artifacts: Path = setting(
        default_artifacts_dir(), "Directory of finished pictures; the frontends have to see the same one."
    )
    models: tuple[str, ...] = setting(
        ("shapes",),
        "Models to load at the start and to keep: shapes (embedded), simulated, NAME=/path or NAME=simulated; more than fit fail to load.",
    )
    on_demand: tuple[str, ...] = setting(
        (), "Models to load when they are asked for, in the form of models; the first request for one waits for that."
    )
    models_dir: Path | None = setting(
        None,
        "Directory of models, adapters and embeddings as people have it; all in it can be asked for, and is loaded then.",
    )
    rescan_s: float = setting(
        5.0,
        "Time between two looks into models_dir; short ones cost time in large ones, long ones let new files wait.",
        low=0.05,
        high=86_400,
    )
    model_mib: int | None = setting(
        None,
        "Device memory for models, in MiB: little makes them come and go, much leaves too little for batches. None takes most of"
        " what a GPU has free at the start, and half of a CPU's memory; 0 sets no bound.",
        low=0,
        high=1 << 30,
    )
    device: str = setting("auto", "auto, cpu or cuda:N; auto is the first GPU if there is one, and else the CPU.")
    optimize: tuple[str, ...] = setting(
        (),
        "What makes models fast, as KEY=VALUE for all or MODEL:KEY=VALUE for one, for example dtype=float32,sdxl:compile=regional"
        " (docs/performance.md has all keys); what cannot work here is refused, and each costs time, memory or likeness.",
    )
    threads: int = setting(
        0,
        "CPU threads of a model call, 0 for the physical cores; more than are idle make it many times slower.",
        low=0,
        high=1024,
    )
    max_batch: int = setting(
        16,
        "Latents of one model call at most; too few waste the device, too many do not fit its memory.",
        low=1,
        high=1024,
    )
    max_resident: int = setting(
        256,
        "Latents held at most, parked ones too; too few leave work waiting elsewhere, too many fill the memory.",
        low=1,
        high=65536,
    )
    parked_mib: int = setting(
        512,
        "Device memory for latents that are parked or wait their turn, in MiB; little makes them travel to host memory and back"
        " whenever they do, much leaves too little for batches and they fail.",
        low=0,
        high=1_048_576,
    )
    adapters_mib: int = setting(
        1024,
        "Device memory for the adapters of one model, in MiB; little makes them be copied again and again, or fail, much leaves too"
        " little for batches.",
        low=0,
        high=1_048_576,
    )
    adapters_host_mib: int = setting(
        4096,
        "Host memory for adapters of one model that nobody uses at the moment, in MiB; little makes them be read from disk again.",
        low=0,
        high=16_777_216,
    )
    encode_batch: int = setting(
        8,
        "Jobs whose prompts are encoded at once; many delay the next step, few make a burst wait longer.",
        low=1,
        high=256,
    )
    decode_batch: int = setting(
        4,
        "Latents decoded to pictures at once; many delay the next step and take much memory, few cost throughput.",
        low=1,
        high=256,
    )
    reproducible: bool = setting(
        False,
        "Pads every batch to its greatest size: pictures are the same bit for bit whatever runs beside; one job costs as much as many.",
    )
    report_interval_s: float = setting(
        0.02,
        "Least time between reports of progress; short ones cost both sides time, long ones make progress jump.",
        low=0.001,
        high=10,
    )
    image_threads: int = setting(
        0,
        "Threads that encode and store pictures, 0 for two to four by the cores; too few hold up decoding, too many take CPU time from"
        " the model.",
        low=0,
        high=64,
    )
    decode_slowdown: float = setting(
        0.1,
        "How much longer steps may take on the average while latents are decoded beside them (optimize: decode=beside); little makes"
        " pictures wait, much makes all others wait.",
        low=0.01,
        high=10,
    )
    text_cache_mib: int = setting(
        64,
        "Device memory of each model for texts of prompts that were encoded before, in MiB; 0 encodes every prompt anew.",
        low=0,
        high=65536,
    )
    beat_s: float = setting(1.0, "Time between heartbeats; has to be the scheduler's.", low=0.01, high=60)
    beats_missed: int = setting(3, "Beats without a word after which the scheduler counts as away.", low=1, high=100)
    simulated_step_ms: tuple[str, ...] = setting(
        ("10",),
        "What a step of the simulated model costs: MS for every batch, or BATCH:MS pairs; between them it is interpolated, beyond"
        " the last it grows in proportion, so that one pair makes a batch as dear as its latents one by one.",
    )
    simulated_encode_ms: tuple[str, ...] = setting(
        ("2",),
        "What encoding so many jobs costs the simulated model, in the same form; what is encoded holds up steps.",
    )
    simulated_decode_ms: tuple[str, ...] = setting(
        ("5",),
        "What decoding so many latents costs the simulated model, in the same form; what is decoded holds up steps.",
    )
    simulated_load_ms: tuple[str, ...] = setting(
        ("0",),
        "What loading a simulated model takes: MS for all, NAME:MS for one; NAME:raise, NAME:memory and NAME:crash go wrong.",
    )
    simulated_model_mib: tuple[str, ...] = setting(
        ("0",), "What a simulated model is said to take of the device's memory: MIB for all, NAME:MIB for one."
    )
    simulated_adapters: tuple[str, ...] = setting(
        (), "Adapters that simulated models are said to take: NAME for a low-rank one, NAME:whole, NAME:embedding."
    )
    metrics_host: str = setting("127.0.0.1", "Address of the metrics endpoint; it has no authentication.")
    metrics_port: int = setting(9472, "Port of the metrics endpoint; 0 takes any free one.", low=0, high=65535)
    log_format: LogFormat = setting(LogFormat.TEXT, "text for people, json for machines.")
    log_level: LogLevel = setting(LogLevel.INFO, "debug, info, warning or error; debug is too much for a busy worker.")
