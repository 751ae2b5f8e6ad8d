"""Requests, events and enums, between protobuf and Python."""

import datetime
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collodion.client import (
    AdapterKind,
    DeadlinePolicy,
    Image,
    InvalidRequest,
    JobOptions,
    JobState,
    Lora,
    OutputFormat,
    PromptSyntax,
    Residency,
    Stage,
    requests,
)
from collodion.client.assembling import downloaded
from collodion.client.cli import plain
from collodion.client.convert import number_of, word_of
from collodion.client.errors import CorruptImage
from collodion.client.events import Progress, simple_event
from collodion.client.jobs import Job, Parameters
from collodion.v1 import generation_pb2, job_pb2, model_pb2
from tests.integration import fake_server as fake


@pytest.mark.parametrize(
    ("words", "proto"),
    [
        (JobState, job_pb2.JobState),
        (Stage, job_pb2.Stage),
        (OutputFormat, job_pb2.OutputFormat),
        (PromptSyntax, job_pb2.PromptSyntax),
        (DeadlinePolicy, job_pb2.DeadlinePolicy),
        (Residency, model_pb2.Residency),
        (AdapterKind, model_pb2.AdapterKind),
    ],
)
def test_words_stand_in_the_order_of_the_protocols_numbers(words: Any, proto: Any) -> None:
    prefix = proto.Name(0).removesuffix("UNSPECIFIED")
    assert {prefix + word.name: number_of(word) for word in words} == dict(proto.items())
    assert word_of(words, 1000) is words.UNSPECIFIED


def test_every_option_reaches_its_field() -> None:
    options: JobOptions = {
        "model": "shapes",
        "negative_prompt": "blur",
        "width": 64,
        "height": 32,
        "steps": 9,
        "sampler": "ddim",
        "guidance_scale": 0.0,
        "seed": 0,
        "images": 3,
        "loras": [Lora("ink", 0.5)],
        "prompt_syntax": PromptSyntax.WEIGHTED,
        "init_image": b"a picture",
        "mask_image": b"a mask",
        "strength": 0.5,
        "step_cache": 0.25,
        "output_format": OutputFormat.WEBP,
        "quality": 80,
        "tier": "batch",
        "slo_s": 0.25,
        "deadline_policy": DeadlinePolicy.BEST_EFFORT,
        "min_steps": 4,
        "allow_step_cache": True,
        "detach": True,
        "preview_interval": 2,
        "request_id": "7e2c5d0c-0000-4000-8000-000000000000",
        "labels": {"a": "b"},
    }
    assert set(options) == set(JobOptions.__annotations__)
    job = requests.job_request("a fox", options)
    for name, value in options.items():
        holder = job.parameters if name in job.parameters.DESCRIPTOR.fields_by_name else job
        if name == "slo_s":
            assert job.slo.ToMilliseconds() == 250
        elif name == "loras":
            assert [(lora.name, lora.scale) for lora in job.parameters.loras] == [("ink", 0.5)]
        else:
            is_word = isinstance(value, OutputFormat | DeadlinePolicy | PromptSyntax)
            assert getattr(holder, name) == (number_of(value) if is_word else value)
    assert job.parameters.HasField("seed")
    assert job.parameters.HasField("guidance_scale")


def test_what_cannot_be_sent_is_listed_whole() -> None:
    with pytest.raises(InvalidRequest) as caught:
        requests.job_request(
            "\ud800", {"steps": -1, "width": 1.5, "seed": 2**70, "slo_s": math.nan, "labels": {"a": 1}}
        )  # type: ignore[typeddict-item, dict-item]
    fields = {violation.field for violation in caught.value.details.violations}
    parameters = {f"job.parameters.{name}" for name in ("prompt", "steps", "width", "seed")}
    assert fields == parameters | {"job.slo", "job.labels"}


def test_a_word_does_for_its_enum_and_another_is_refused() -> None:
    job = requests.job_request("a fox", {"deadline_policy": "refuse", "output_format": "webp"})
    assert (job.deadline_policy, job.parameters.output_format) == (
        job_pb2.DEADLINE_POLICY_REFUSE,
        job_pb2.OUTPUT_FORMAT_WEBP,
    )
    with pytest.raises(InvalidRequest) as caught:
        requests.job_request("a fox", {"deadline_policy": "perhaps", "output_format": "gif"})  # type: ignore[typeddict-item]
    fields = [violation.field for violation in caught.value.details.violations]
    assert fields == ["job.deadline_policy", "job.parameters.output_format"]


@pytest.mark.parametrize(
    "loras",
    [
        {"ink": 1.0, "wool": 0.5},
        [("ink", 1.0), ("wool", 0.5)],
        [Lora("ink"), Lora("wool", 0.5)],
        (lora for lora in (("ink", 1), ["wool", 0.5])),
    ],
)
def test_adapters_may_be_given_as_is_convenient(loras: Any) -> None:
    asked = requests.job_request("a fox", {"loras": loras}).parameters.loras
    assert [(lora.name, lora.scale) for lora in asked] == [("ink", 1.0), ("wool", 0.5)]


def test_an_adapter_without_a_scale_is_left_to_the_server() -> None:
    (asked,) = requests.job_request("a fox", {"loras": ["ink"]}).parameters.loras
    assert not asked.HasField("scale")


@pytest.mark.parametrize("loras", ["ink", 7, [7], [("ink", "much")], [("ink", 1, 2)], {"ink": None, 7: 1}])
def test_what_is_no_adapter_is_refused_by_the_name_of_its_field(loras: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        requests.job_request("a fox", {"loras": loras})
    assert [violation.field for violation in caught.value.details.violations] == ["job.parameters.loras"]


def test_what_is_echoed_of_adapters_and_pictures_is_as_it_was_sent() -> None:
    message = job_pb2.Parameters(
        steps=10,
        guidance_scale=7.1,
        loras=[{"name": "ink", "scale": 0.7}],
        prompt_syntax=job_pb2.PROMPT_SYNTAX_WEIGHTED,
        strength=0.7,
        step_cache=0.1,
        init_image_sha256="5e1f",
    )
    echoed = Parameters.of(message)
    assert (echoed.guidance_scale, echoed.loras, echoed.strength) == (7.1, (Lora("ink", 0.7),), 0.7)
    assert (echoed.step_cache, Parameters.of(job_pb2.Parameters()).step_cache) == (0.1, 0.0)
    assert (echoed.prompt_syntax, echoed.init_image_sha256, echoed.mask_image_sha256) == ("weighted", "5e1f", "")
    assert echoed.steps_run == 7
    again = requests.job_request("", {"loras": echoed.loras, "strength": echoed.strength}).parameters
    assert (list(again.loras), again.strength) == (list(message.loras), message.strength)
    assert Parameters.of(job_pb2.Parameters(steps=10)).steps_run == 10
    assert json.loads(plain.line(**plain.fields_of(echoed)))["loras"] == [{"name": "ink", "scale": 0.7}]


def test_an_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="stepps"):
        requests.job_request("a fox", {"stepps": 3})  # type: ignore[typeddict-unknown-key]


@settings(deadline=None)
@given(prompt=st.text())
def test_any_prompt_that_is_unicode_goes_through(prompt: str) -> None:
    assert requests.generate(prompt, {}).job.parameters.prompt == prompt


def test_a_job_keeps_what_is_unset_apart_from_zero() -> None:
    job = Job.of(fake.job())
    assert (job.deadline, job.failure, job.timings, job.deadline_met, job.end_time) == (None,) * 5
    assert job.parameters.alone(3).seed == job.parameters.seed + 3
    assert not job.state.ended


def test_times_are_aware() -> None:
    event = simple_event(fake.progress(2))
    assert isinstance(event, Progress)
    assert event.time == datetime.datetime(2023, 11, 14, 22, 13, 20, tzinfo=datetime.UTC)
    assert event.predicted_finish_time is None


def test_an_event_is_a_json_line_without_bytes() -> None:
    event = simple_event(fake.preview())
    assert event is not None
    line = json.loads(plain.event_line(event, path="x.png"))
    assert line == {
        "event": "preview",
        "job_id": fake.JOB_ID,
        "time": "2023-11-14T22:13:20+00:00",
        "index": 0,
        "step": 1,
        "mime_type": "image/png",
        "path": "x.png",
    }
    accepted = simple_event(fake.accepted())
    assert accepted is not None
    assert json.loads(plain.event_line(accepted))["job"]["parameters"]["sampler"] == "ddim"


def _pieces(data: bytes, size: int) -> list[generation_pb2.DownloadImageResponse]:
    pieces = [
        generation_pb2.DownloadImageResponse(offset=offset, data=data[offset : offset + size])
        for offset in range(0, len(data), size)
    ]
    pieces[0].image.CopyFrom(fake.image_info(0, data))
    return pieces


@settings(deadline=None)
@given(size=st.integers(1, 200))
def test_a_download_in_pieces_of_any_size_is_the_file(size: int) -> None:
    data = fake.png()
    image = downloaded("x", Parameters.of(fake.job().parameters), _pieces(data, size))
    assert image.data == data


def test_a_download_that_lacks_its_end_or_is_empty_is_refused() -> None:
    parameters = Parameters.of(fake.job().parameters)
    with pytest.raises(CorruptImage, match="bytes came"):
        downloaded("x", parameters, _pieces(fake.png(), 20)[:-1])
    with pytest.raises(CorruptImage):
        downloaded("x", parameters, [])


def test_a_picture_is_saved_under_its_job_and_seed(tmp_path: Path) -> None:
    data = fake.png()
    image: Image = downloaded("01ABC", Parameters.of(fake.job().parameters), _pieces(data, 1000))
    path = image.save(tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "01ABC-7.png"
    assert path.read_bytes() == data
    assert image.pil is image.pil
