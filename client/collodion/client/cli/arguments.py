"""The command line: every subcommand, every flag, and what they say of themselves."""

import argparse
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from collodion.client.channel import DEFAULT_SERVER
from collodion.client.cli.exits import EXPLAINED
from collodion.client.jobs import DeadlinePolicy, JobState, OutputFormat, PromptSyntax

_BOUND = 2**31  # a longer timeout overflows in gRPC, and counts as passed
DEMO_PROMPT = "a large red circle on a blue background"


def parser() -> argparse.ArgumentParser:
    """The parser of the command; `command` of what it parses names the subcommand."""
    whole = argparse.ArgumentParser(
        prog="collodion",
        description="Draws pictures from text, and runs the server that does.",
        epilog=EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=f"collodion {version('collodion')}")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_generate, _jobs, _watch, _why, _cancel, _models, _adapters, _tiers, _serve, _demo, _profile, _convert):
        add(commands)
    return whole


def _command(
    commands: Any, name: str, summary: str, *, asks_server: bool = True, again: bool = False
) -> argparse.ArgumentParser:
    """A command. `again`: one of another command's, which has the flags for asking a server too."""
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if asks_server:
        _server(command, again)
    return command


def _server(command: argparse.ArgumentParser, again: bool) -> None:
    def default(value: Any) -> Any:
        return argparse.SUPPRESS if again else value  # else it would overrule what was said before the action

    address = os.environ.get("COLLODION_SERVER") or DEFAULT_SERVER
    command.add_argument(
        "--server",
        metavar="HOST:PORT",
        default=default(address),
        help=f"the server's address (default: COLLODION_SERVER, or {address})".replace("%", "%%"),
    )
    command.add_argument("--tenant", default=default(""), help="who asks (default: the server's default tenant)")
    command.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_positive(float),
        default=default(10.0),
        help="for every answer (default: 10)",
    )
    command.add_argument("--json", action="store_true", default=default(False), help="JSON lines on standard output")


def _generate(commands: Any) -> None:
    command = _command(commands, "generate", "draw pictures from a prompt and wait for them")
    command.add_argument("prompt", metavar="PROMPT", help="what to draw")
    # What is not given is not sent, and the server fills in the model's default.
    command.add_argument("--model", help="one that `collodion models` names")
    command.add_argument("--negative", dest="negative_prompt", metavar="PROMPT", help="what to steer away from")
    command.add_argument("--width", type=int, metavar="PIXELS")
    command.add_argument("--height", type=int, metavar="PIXELS")
    command.add_argument("--steps", type=int, help="denoising steps")
    command.add_argument("--sampler", help="for example ddim, euler_a, dpmpp_2m")
    command.add_argument(
        "--guidance",
        dest="guidance_scale",
        type=float,
        metavar="SCALE",
        help="how closely to follow the prompt; 1 is off",
    )
    command.add_argument("--seed", type=int, help="of the first picture; picture i has seed + i (default: random)")
    command.add_argument(
        "--lora",
        dest="loras",
        action="append",
        type=_lora,
        metavar="NAME[:SCALE]",
        help="an adapter and its strength (default: 1); repeatable",
    )
    command.add_argument(
        "--weighted",
        dest="prompt_syntax",
        action="store_const",
        const=PromptSyntax.WEIGHTED.value,
        help="read (word:1.3), <lora:name:0.8> and embeddings in the prompts, which are plain text otherwise",
    )
    command.add_argument(
        "--init-image", type=Path, metavar="FILE", help="picture to begin from; its size is the default size"
    )
    command.add_argument(
        "--mask", dest="mask_image", type=Path, metavar="FILE", help="white where that is to be redrawn, else black"
    )
    command.add_argument(
        "--strength", type=float, metavar="0-1", help="how far to depart from --init-image (default: 0.8)"
    )
    command.add_argument(
        "--step-cache",
        type=float,
        metavar="0-1",
        help="use the model's deep blocks' last output again while its first block changes by no more than this ratio: "
        "larger is faster and further from the exact picture (default: 0, off)",
    )
    command.add_argument("-n", "--images", type=int, metavar="N", help="how many pictures (default: 1)")
    _deadline(command)
    formats = [format_.value for format_ in OutputFormat if format_ is not OutputFormat.UNSPECIFIED]
    command.add_argument("--format", dest="output_format", choices=formats, help="of the files (default: png)")
    command.add_argument("--quality", type=int, metavar="1-100", help="for jpeg and webp (default: 90)")
    command.add_argument(
        "--preview-every", dest="preview_interval", type=int, metavar="STEPS", help="0: none (default: 1 on a terminal)"
    )
    command.add_argument("--label", dest="labels", action="append", type=_pair, metavar="KEY=VALUE", help="repeatable")
    _output(command)


def _deadline(command: argparse.ArgumentParser) -> None:
    command.add_argument("--tier", help="class of service, one that `collodion tiers` names")
    command.add_argument(
        "--slo",
        dest="slo_s",
        type=float,
        metavar="SECONDS",
        help="how long after acceptance it should be finished (default: the tier's)",
    )
    policies = [policy.value for policy in DeadlinePolicy if policy is not DeadlinePolicy.UNSPECIFIED]
    command.add_argument(
        "--deadline-policy",
        choices=policies,
        help="if that cannot be promised: refuse, saying what can be; lower the steps; or draw it when there is time (default)",
    )
    command.add_argument(
        "--min-steps", type=int, metavar="STEPS", help="what degrade may go down to (default: half of the steps)"
    )


def _jobs(commands: Any) -> None:
    command = _command(commands, "jobs", "list the jobs, newest first")
    states = [state.value for state in JobState if state is not JobState.UNSPECIFIED]
    command.add_argument("--state", action="append", choices=states, help="only these; repeatable")
    command.add_argument(
        "--label", dest="labels", action="append", type=_pair, metavar="KEY=VALUE", help="only with these"
    )
    command.add_argument("--limit", type=_positive(int), metavar="N", default=50, help="at most so many (default: 50)")


def _watch(commands: Any) -> None:
    command = _command(commands, "watch", "watch a job to its end, and save its pictures")
    command.add_argument("job_id", metavar="JOB", help="one that `collodion jobs` names")
    _output(command)


def _why(commands: Any) -> None:
    command = _command(commands, "why", "say why a job is not finished sooner, and what would help")
    command.add_argument("job_id", metavar="JOB", help="one that `collodion jobs` names")


def _cancel(commands: Any) -> None:
    command = _command(commands, "cancel", "cancel a job; one that has ended stays as it is")
    command.add_argument("job_id", metavar="JOB", help="one that `collodion jobs` names")


def _models(commands: Any) -> None:
    command = _command(commands, "models", "list the models of the server, describe, load or unload one")
    actions = command.add_subparsers(dest="action", metavar="describe|load|unload")
    describe = _command(actions, "describe", "say what a model takes, and what makes it fast", again=True)
    describe.add_argument("name", metavar="MODEL", help="one that `collodion models` names")
    load = _command(actions, "load", "load a model, and keep it in memory", again=True)
    load.add_argument("name", metavar="MODEL", help="one that `collodion models` names")
    load.add_argument("--no-wait", dest="wait", action="store_false", help="do not wait until it is in memory")
    load.add_argument(
        "--patience", type=_positive(float), metavar="SECONDS", help="wait no longer (default: as long as it takes)"
    )
    unload = _command(actions, "unload", "give a model's memory back once nothing runs on it", again=True)
    unload.add_argument("name", metavar="MODEL", help="one that `collodion models` names")


def _adapters(commands: Any) -> None:
    _command(commands, "adapters", "list the LoRAs, other adapters and embeddings of the server")


def _tiers(commands: Any) -> None:
    _command(commands, "tiers", "list the classes of service of the server")


def _serve(commands: Any) -> None:
    command = _command(commands, "serve", "run a whole server on this machine until Ctrl-C", asks_server=False)
    command.add_argument(
        "--model",
        action="append",
        metavar="MODEL",
        help="loaded at the start, and kept: shapes, simulated or NAME=PATH; repeatable (default: shapes, or none with --models-dir)",
    )
    command.add_argument(
        "--models-dir",
        type=Path,
        metavar="DIR",
        help="models, adapters and embeddings as you have them: each is loaded when it is asked for",
    )
    command.add_argument(
        "--device",
        action="append",
        metavar="DEVICE",
        help="auto, cpu or cuda:N; repeatable, one worker each (default: auto)",
    )
    command.add_argument(
        "--optimize",
        action="append",
        metavar="[MODEL:]KEY=VALUE",
        help="what makes models fast, for example dtype=bfloat16 or sdxl:compile=regional; repeatable (docs/performance.md)",
    )
    command.add_argument("--listen", metavar="HOST:PORT", help=f"where clients connect (default: {DEFAULT_SERVER})")
    command.add_argument("--frontends", type=_positive(int), default=1, metavar="N", help="on one port (default: 1)")
    command.add_argument(
        "--drain", type=float, metavar="SECONDS", help="for running streams, when stopping (default: 30)"
    )
    command.add_argument("--policy", help="how the scheduler chooses; `python -m collodion.scheduler --help` names all")
    command.add_argument("--run-dir", type=Path, metavar="DIR", help="private sockets (default: one for each user)")
    command.add_argument("--artifacts", type=Path, metavar="DIR", help="where finished pictures are kept")
    command.add_argument("--config", type=Path, metavar="FILE", help="TOML with a table for each process")
    command.add_argument("--log-format", choices=("text", "json"))
    command.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    _settings(command)


def _demo(commands: Any) -> None:
    command = _command(commands, "demo", "start a server, draw one picture, stop the server", asks_server=False)
    command.add_argument("prompt", metavar="PROMPT", nargs="?", default=DEMO_PROMPT, help=f"default: {DEMO_PROMPT}")
    command.add_argument("--model", action="append", metavar="MODEL", help="as for serve (default: shapes)")
    command.add_argument("--steps", type=int, help="denoising steps (default: the model's)")
    command.add_argument("--seed", type=int, help="default: random")
    _output(command)


def _profile(commands: Any) -> None:
    command = _command(
        commands, "profile", "measure what a model costs on this machine, by batch size", asks_server=False
    )
    command.add_argument(
        "model", metavar="MODEL", nargs="?", default="shapes", help="shapes, simulated or NAME=FOLDER (default: shapes)"
    )
    command.add_argument("--device", metavar="DEVICE", help="auto, cpu or cuda:N (default: auto)")
    command.add_argument(
        "--sizes", metavar="WxH,…", help="of the pictures, for example 512x512,768x768 (default: the model's)"
    )
    command.add_argument("--batches", metavar="N-N,…", help="batch sizes, for example 1-8,12,16 (default: 1-16)")
    command.add_argument("--rounds", metavar="N", help="how often each is measured (default: 7)")
    command.add_argument(
        "--output",
        type=Path,
        default=Path("profile.json"),
        metavar="FILE",
        help="where the profile goes; other profiles in that file stay (default: profile.json)",
    )
    command.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it, too")
    command.add_argument("--config", type=Path, metavar="FILE", help="TOML with the worker's settings")
    _settings(command)


def _convert(commands: Any) -> None:
    command = _command(
        commands,
        "convert",
        "make a .safetensors file of a .ckpt, .pt, .pth or .bin, running no code of it",
        asks_server=False,
    )
    command.add_argument(
        "source", type=Path, metavar="IN", help="a checkpoint, LoRA, VAE or embedding as PyTorch saves it"
    )
    command.add_argument(
        "target", type=Path, metavar="OUT", nargs="?", help="the .safetensors file to be made (default: beside IN)"
    )


def _settings(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        dest="settings",
        action="append",
        type=_setting,
        default=[],
        metavar="PROCESS.SETTING=VALUE",
        help="any setting of any process, for example worker.max_batch=4; repeatable",
    )


def _output(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("pictures"),
        metavar="DIR",
        help="where pictures go (default: pictures)",
    )


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def _lora(text: str) -> tuple[str, float]:
    name, separator, scale = text.rpartition(":")
    if not separator:
        return text, 1.0
    try:
        return name, float(scale)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME or NAME:SCALE") from None


def _setting(text: str) -> tuple[str, str, str]:
    path, value = _pair(text)
    process, _, name = path.partition(".")
    if process not in ("frontend", "scheduler", "worker") or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not (frontend|scheduler|worker).SETTING=VALUE")
    return process, name, value


def _positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            number = kind(text)
        except ValueError:
            number = kind(0)
        if not 0 < number < _BOUND:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and below {_BOUND}")
        return number

    return parse
