"""Every field's bad values, by field path and status; every default; all violations at once."""

import math

import grpc
import pytest
from google.rpc import error_details_pb2
from hypothesis import given
from hypothesis import strategies as st

from collodion.frontend import convert
from collodion.frontend.errors import CallError
from collodion.frontend.fields import decimal
from collodion.v1 import job_pb2
from collodion.wire.jobs import DeadlinePolicy, JobSpec, OutputFormat
from collodion.wire.to_frontend import Catalogue
from tests.unit.frontend.asking import CATALOGUE, UUID, parameters, refused, spec

BAD_PARAMETERS = [
    ("prompt", "x" * 10_001),
    ("prompt", "x" * 100_000),
    ("negative_prompt", "😀" * 10_001),
    ("width", 1),
    ("width", 60),
    ("width", 63),
    ("width", 129),
    ("width", 520),
    ("width", 2**32 - 1),
    ("height", 56),
    ("height", 100),
    ("height", 513),
    ("steps", 51),
    ("steps", 2**32 - 1),
    ("sampler", "lcm"),
    ("sampler", "unheard_of"),
    ("sampler", "x" * 100_000),
    ("guidance_scale", math.nan),
    ("guidance_scale", math.inf),
    ("guidance_scale", -math.inf),
    ("guidance_scale", -0.1),
    ("guidance_scale", 100.1),
    ("seed", 2**53 - 1),
    ("seed", 2**64 - 1),
    ("images", 17),
    ("images", 2**32 - 1),
    ("prompt_syntax", 99),
    ("output_format", -1),
    ("output_format", 4),
    ("quality", 101),
    ("init_image", b"png"),
    ("init_image_sha256", "5e1f"),
    ("mask_image_sha256", "5e1f"),
    ("mask_image", b"x"),
    ("strength", 0.5),
    ("prompt_syntax", job_pb2.PROMPT_SYNTAX_WEIGHTED),
    ("loras", [{"name": "a"}]),
    ("step_cache", 0.1),
    ("step_cache", -0.1),
    ("step_cache", math.nan),
]


@pytest.mark.parametrize(("path", "value"), BAD_PARAMETERS, ids=lambda value: repr(value)[:30])
def test_a_parameter_out_of_its_range_is_named(path, value) -> None:
    error = refused(parameters={path.split("[")[0]: value})
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in error.violations] == [f"job.parameters.{path}"]
    assert error.status().ByteSize() < 6_000


BAD_JOBS = [
    ("job.tier", {"tier": "gold"}),
    ("job.slo", {"slo": {}}),
    ("job.slo", {"slo": {"seconds": -1}}),
    ("job.slo", {"slo": {"nanos": -1}}),
    ("job.slo", {"slo": {"seconds": 1, "nanos": -1}}),
    ("job.slo", {"slo": {"seconds": 1, "nanos": 1_000_000_000}}),
    ("job.slo", {"slo": {"seconds": 30 * 86_400, "nanos": 1}}),
    ("job.slo", {"slo": {"seconds": 2**62}}),
    ("job.deadline_policy", {"deadline_policy": 17}),
    ("job.min_steps", {"min_steps": 21}),
    ("job.min_steps", {"min_steps": 5, "parameters": {"steps": 4}}),
    ("job.preview_interval", {"preview_interval": 1001}),
    ("job.request_id", {"request_id": "7"}),
    ("job.request_id", {"request_id": UUID.replace("-", "")}),
    ("job.request_id", {"request_id": "{" + UUID + "}"}),
    ("job.request_id", {"request_id": UUID + "\n"}),
    ("job.labels", {"labels": {f"k{index}": "" for index in range(17)}}),
    ("job.labels[]", {"labels": {"": "x"}}),
    ("job.labels[UPPER]", {"labels": {"UPPER": "x"}}),
    ("job.labels[" + "k" * 64 + "]", {"labels": {"k" * 65: "x"}}),
    ("job.labels[a]", {"labels": {"a": "x" * 257}}),
]


@pytest.mark.parametrize(("path", "job"), BAD_JOBS)
def test_a_field_of_the_job_out_of_its_range_is_named(path, job) -> None:
    error = refused(**job)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in error.violations] == [path]


@pytest.mark.parametrize("tenant", ["", "a b", "x" * 65, "ä", "a/b"])
def test_a_tenant_that_is_no_name_is_refused(tenant) -> None:
    error = refused(metadata=(("x-collodion-tenant", tenant),))
    assert [violation.field for violation in error.violations] == ["metadata.x-collodion-tenant"]


def test_two_tenants_are_refused() -> None:
    assert refused(metadata=(("x-collodion-tenant", "a"), ("x-collodion-tenant", "b"))).violations


def test_all_violations_are_told_at_once() -> None:
    wrong = {
        "width": 7,
        "height": 9_999,
        "steps": 99,
        "sampler": "x",
        "guidance_scale": -1,
        "images": 20,
        "quality": 200,
    }
    job = {"tier": "gold", "request_id": "x", "slo": {"seconds": -1}, "deadline_policy": 9, "min_steps": 100}
    error = refused(metadata=(("x-collodion-tenant", ""),), parameters=wrong, **job)
    assert {violation.field.rpartition(".")[2] for violation in error.violations} >= {*wrong, *job}
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in error.status().details)
    assert len(bad.field_violations) == len(error.violations)


def test_violations_beyond_the_room_that_metadata_has_are_counted() -> None:
    error = refused(labels={f"K{index:050}": "x" * 300 for index in range(500)}, parameters={"sampler": "x" * 10**6})
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in error.status().details)
    assert "more violations" in bad.field_violations[-1].description
    assert error.status().ByteSize() < 6_000


@pytest.mark.parametrize("value", [0.1, 0.7, 0.8, 7.1, 100, 0, -3.3, 1e-3, 1 / 3])
def test_a_number_is_the_decimal_that_was_meant(value) -> None:
    sent = job_pb2.Parameters(guidance_scale=value).guidance_scale
    assert decimal(sent) == pytest.approx(value, rel=1e-7)
    assert job_pb2.Parameters(guidance_scale=decimal(sent)).guidance_scale == sent
    assert value == 1 / 3 or decimal(sent) == value


@given(value=st.floats(width=32, allow_nan=False))
def test_no_number_is_changed_by_being_made_a_decimal(value) -> None:
    assert job_pb2.Parameters(guidance_scale=decimal(value)).guidance_scale == value


def test_an_unknown_model_is_not_found_with_its_name() -> None:
    error = refused(parameters={"model": "x" * 100_000})
    resource = error_details_pb2.ResourceInfo()
    assert any(detail.Unpack(resource) for detail in error.status().details)
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert resource.resource_type == "collodion.v1.Model"
    assert error.status().ByteSize() < 6_000
    assert refused(parameters={"model": "x", "images": 99}).code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("model", ["", "shapes"])
def test_without_any_model_the_call_is_to_be_tried_again(model) -> None:
    empty = Catalogue((), CATALOGUE.tiers, "", "standard")
    error = refused(catalogue=empty, parameters={"model": model})
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_WORKER")


def test_what_is_left_open_is_filled_in() -> None:
    made = spec()
    asked = made.parameters
    assert (made.tenant, made.tier, made.slo_s, made.detach, made.request_id) == (
        "default",
        "standard",
        None,
        False,
        "",
    )
    assert (asked.model, asked.prompt, asked.width, asked.height) == ("shapes", "", 128, 96)
    assert (asked.steps, asked.sampler, asked.guidance_scale, asked.images) == (20, "ddim", 3.0, 1)
    assert (asked.output_format, asked.quality) == (OutputFormat.PNG, 90)
    assert 0 <= asked.seed < 2**32


@pytest.mark.parametrize(
    ("asked", "policy"),
    [
        (job_pb2.DEADLINE_POLICY_UNSPECIFIED, DeadlinePolicy.BEST_EFFORT),
        (job_pb2.DEADLINE_POLICY_REFUSE, DeadlinePolicy.REFUSE),
        (job_pb2.DEADLINE_POLICY_DEGRADE, DeadlinePolicy.DEGRADE),
        (job_pb2.DEADLINE_POLICY_BEST_EFFORT, DeadlinePolicy.BEST_EFFORT),
    ],
)
def test_what_is_to_become_of_a_job_that_cannot_be_promised_is_passed_on(asked, policy) -> None:
    assert spec(deadline_policy=asked).deadline_policy is policy


@pytest.mark.parametrize(
    ("job", "least"),
    [
        ({}, 10),
        ({"parameters": {"steps": 7}}, 4),
        ({"parameters": {"steps": 1}}, 1),
        ({"min_steps": 20}, 20),
        ({"min_steps": 1, "parameters": {"steps": 7}}, 1),
    ],
)
def test_steps_may_be_halved_at_most_unless_the_request_says_how_far(job, least) -> None:
    assert spec(**job, deadline_policy=job_pb2.DEADLINE_POLICY_DEGRADE).min_steps == least


def test_random_seeds_differ() -> None:
    assert len({parameters().seed for _ in range(20)}) == 20


def test_a_request_that_is_sent_again_gets_the_same_open_seed() -> None:
    first, again, other = (spec(request_id=f"9b2f9c4e-0f6a-4d0c-8d1f-00000000000{last}") for last in "112")
    assert first == again
    assert first.parameters.seed != other.parameters.seed


def test_the_bounds_themselves_are_allowed() -> None:
    asked = parameters(
        width=512, height=64, steps=50, guidance_scale=100, images=16, seed=2**53 - 17, quality=100, prompt="x" * 10_000
    )
    assert (asked.width, asked.seed, asked.images) == (512, 2**53 - 17, 16)
    assert parameters(guidance_scale=0, seed=0, steps=1).guidance_scale == 0
    job = spec(slo={"seconds": 30 * 86_400}, min_steps=20, preview_interval=1000, labels={"k" * 64: "v" * 256})
    assert job.slo_s == 30 * 86_400
    assert [refused(parameters={"images": 2, "seed": 2**53 - 2}).violations[0].field] == ["job.parameters.seed"]


def test_a_request_id_is_the_same_in_either_case() -> None:
    assert spec(request_id=UUID).request_id == UUID.lower()


@given(prompt=st.text(st.characters(exclude_categories=["Cs"]), max_size=200), negative=st.text(max_size=50))
def test_any_unicode_is_a_prompt_and_comes_back_as_it_was(prompt, negative) -> None:
    negative = negative.encode("utf-8", "ignore").decode()
    asked = job_pb2.Parameters(prompt=prompt, negative_prompt=negative)
    made = spec(parameters=job_pb2.Parameters.FromString(asked.SerializeToString())).parameters
    echoed = convert.parameters_proto(made)
    assert (echoed.prompt, echoed.negative_prompt) == (prompt, negative)


def test_what_is_echoed_asks_for_the_same_again() -> None:
    first = parameters(prompt="a", sampler="euler", output_format=job_pb2.OUTPUT_FORMAT_WEBP, guidance_scale=2.5)
    assert spec(parameters=convert.parameters_proto(first)).parameters == first


def spec_or_error(**job) -> JobSpec | CallError:
    try:
        return spec(**job)
    except CallError as error:
        return error


NUMBERS = st.integers(0, 2**32 - 1)


@given(
    parameters_=st.builds(
        job_pb2.Parameters,
        model=st.sampled_from(["", "shapes", "other"]),
        width=NUMBERS,
        height=NUMBERS,
        steps=NUMBERS,
        sampler=st.sampled_from(["", "ddim", "lcm", "x"]),
        guidance_scale=st.floats(width=32) | st.none(),
        seed=st.integers(0, 2**64 - 1) | st.none(),
        images=NUMBERS,
        prompt_syntax=st.integers(-(2**31), 2**31 - 1),
        output_format=st.integers(-(2**31), 2**31 - 1),
        quality=NUMBERS,
    ),
    seconds=st.integers(-(2**63), 2**63 - 1),
    nanos=st.integers(-(2**31), 2**31 - 1),
)
def test_whatever_is_asked_is_a_job_within_the_bounds_or_an_error(parameters_, seconds, nanos) -> None:
    made = spec_or_error(parameters=parameters_, slo={"seconds": seconds, "nanos": nanos})
    if isinstance(made, CallError):
        assert made.status().ByteSize() < 6_000
        return
    asked = made.parameters
    assert 64 <= asked.width <= 512
    assert asked.width % 8 == 0
    assert 1 <= asked.steps <= 50
    assert math.isfinite(asked.guidance_scale)
    assert asked.seed + asked.images <= 2**53 - 1
    assert made.slo_s is not None
    assert 0 < made.slo_s <= 30 * 86_400
