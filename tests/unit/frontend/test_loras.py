"""Adapters in requests: found, fitting, each once, the same set the same wherever it was written."""

import itertools
import math

import grpc
import msgspec
import pytest
from google.rpc import error_details_pb2
from hypothesis import given
from hypothesis import strategies as st

from collodion.frontend import convert
from collodion.frontend.errors import CallError
from collodion.v1 import job_pb2
from collodion.wire.jobs import AdapterInfo, AdapterKind, Lora, PromptSyntax
from tests.unit.frontend.asking import CATALOGUE, parameters, refused, spec, violations

WEIGHTED = job_pb2.PROMPT_SYNTAX_WEIGHTED


def drawn(**fields):
    """The parameters of a request to the model that takes adapters."""
    return parameters(model="artist", **fields)


def wrong(**fields) -> dict[str, str]:
    """What is wrong with such a request."""
    error = refused(parameters={"model": "artist", **fields})
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    return violations(error)


def named(*names: str) -> list[dict[str, str]]:
    return [{"name": name} for name in names]


def test_adapters_get_their_scales_and_what_they_are() -> None:
    asked = [{"name": "wool"}, {"name": "ink", "scale": 0.7}, {"name": "anything", "scale": -4}]
    assert drawn(loras=asked).loras == (Lora("anything", -4.0), Lora("ink", 0.7), Lora("wool", 1.0, whole=True))


def test_the_same_set_is_the_same_in_any_order_so_that_it_shares_model_calls() -> None:
    orders = [drawn(loras=named(*names)) for names in itertools.permutations(["ink", "wool", "anything"])]
    assert len({order.loras for order in orders}) == 1
    assert len({order.batch_key for order in orders}) == 1


@pytest.mark.parametrize(
    ("field", "loras"),
    [
        ("loras[0].name", [{}]),
        ("loras[1].scale", [{"name": "ink"}, {"name": "wool", "scale": 4.5}]),
        ("loras[0].scale", [{"name": "ink", "scale": math.nan}]),
        ("loras[0].scale", [{"name": "ink", "scale": -math.inf}]),
        ("loras[2].name", named("ink", "wool", "ink")),
        ("loras", named(*(f"style-{number}" for number in range(8)), "ink")),
        ("loras[0].name", named("glow")),
        ("loras[1].name", named("ink", "big")),
    ],
)
def test_an_adapter_that_cannot_be_used_so_is_named(field, loras) -> None:
    assert list(wrong(loras=loras)) == [field]


def test_eight_adapters_are_allowed() -> None:
    assert len(drawn(loras=named(*(f"style-{number}" for number in range(8)))).loras) == 8


def test_a_violation_says_what_the_adapter_is_made_for_and_what_to_do() -> None:
    said = wrong(loras=named("big", "glow"))
    assert said["loras[0].name"] == "big is made for sdxl, model artist is sd1"
    assert "write its name into the prompt" in said["loras[1].name"]


def test_an_adapter_or_a_model_of_unknown_architecture_fits() -> None:
    unknown = tuple((msgspec.structs.replace(info, base=""), workers) for info, workers in CATALOGUE.models)
    catalogue = msgspec.structs.replace(CATALOGUE, models=unknown)
    made = spec(catalogue=catalogue, parameters={"model": "artist", "loras": named("big", "anything")})
    assert [lora.name for lora in made.parameters.loras] == ["anything", "big"]


def test_a_model_without_adapters_says_so_once_for_each_field() -> None:
    error = refused(parameters={"loras": named("ink", "wool")})
    assert violations(error) == {"loras": "model shapes takes no adapters"}


@pytest.mark.parametrize(
    ("name", "meant"), [("Ink", "ink"), ("wolo", "wool"), ("style-99", "style-"), ("x" * 100_000, ""), ("☃", "")]
)
def test_an_unknown_adapter_is_not_found_and_what_may_have_been_meant_is_said(name, meant) -> None:
    error = refused(parameters={"model": "artist", "loras": [{"name": "ink"}, {"name": name}]})
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "ADAPTER_NOT_FOUND")
    resource = error_details_pb2.ResourceInfo()
    assert any(detail.Unpack(resource) for detail in error.status().details)
    assert resource.resource_type == "collodion.v1.Adapter"
    assert resource.resource_name[:20] == name[:20]
    assert ("did you mean" in error.message, meant in error.message) == (bool(meant), True)
    assert error.status().ByteSize() < 6_000


def test_all_unknown_adapters_are_told_but_only_if_nothing_else_is_wrong() -> None:
    asked = {"model": "artist", "loras": named("oil", "ink", "chalk")}
    assert "'oil', 'chalk'" in refused(parameters=asked).message
    assert violations(refused(parameters={**asked, "quality": 101})).keys() == {"quality"}


def test_looking_for_what_may_have_been_meant_is_quick_among_thousands() -> None:
    many = tuple(AdapterInfo(f"adapter number {number:09}", AdapterKind.LOW_RANK) for number in range(3_000))
    catalogue = msgspec.structs.replace(CATALOGUE, adapters=many)
    error = refused(
        catalogue=catalogue, parameters={"model": "artist", "loras": named(*("x" * 200 + str(n) for n in range(8)))}
    )
    assert error.reason == "ADAPTER_NOT_FOUND"


# ------------------------------------------------------------ in prompts


def test_tags_in_a_prompt_become_adapters_and_leave_the_prompt() -> None:
    made = drawn(prompt="a fox <lora:ink:0.8>, <lora:wool>", prompt_syntax=WEIGHTED, loras=named("anything"))
    assert made.loras == (Lora("anything", 1.0), Lora("ink", 0.8), Lora("wool", 1.0, whole=True))
    assert "lora" not in made.prompt
    assert made.prompt_syntax is PromptSyntax.WEIGHTED


def test_in_a_plain_prompt_a_tag_is_text() -> None:
    made = drawn(prompt="<lora:ink:0.8>")
    assert (made.prompt, made.loras) == ("<lora:ink:0.8>", ())


def test_what_is_echoed_draws_the_same_again() -> None:
    first = drawn(prompt="a (red:1.2) fox <lora:ink:0.7><lora:wool:-.5>", prompt_syntax=WEIGHTED, seed=3)
    echoed = job_pb2.Parameters.FromString(convert.parameters_proto(first).SerializeToString())
    assert [lora.name for lora in echoed.loras] == ["ink", "wool"]
    assert spec(parameters=echoed).parameters == first


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("<lora:ink:9>", "scale 9"),
        ("<lora:ink:much>", "no number"),
        ("<lora:ink", "not closed"),
        ("<lora:ink> and <lora:ink:0.5>", "named before"),
        ("<lora:glow>", "embedding"),
        ("<lora:big>", "made for sdxl"),
        ("<hypernet:ink>", "not served"),
        ("<lo<lora:ink>ra:wool>", "inside of another"),
    ],
)
def test_a_tag_that_cannot_be_used_is_a_violation_of_the_prompt(prompt, said) -> None:
    found = wrong(prompt=prompt, prompt_syntax=WEIGHTED)
    assert list(found) == ["prompt"]
    assert said in found["prompt"]


def test_an_adapter_is_named_in_the_prompt_or_in_the_field_but_not_in_both() -> None:
    found = wrong(prompt="<lora:ink>", prompt_syntax=WEIGHTED, loras=named("ink"))
    assert list(found) == ["prompt"]


def test_the_prompt_counts_towards_the_most_adapters() -> None:
    tags = "".join(f"<lora:style-{number}>" for number in range(8))
    assert list(wrong(prompt=tags, prompt_syntax=WEIGHTED, loras=named("ink"))) == ["loras"]


@pytest.mark.parametrize("negative", ["<lora:ink>", "<lora:ink:x>"])
def test_a_negative_prompt_names_no_adapters(negative) -> None:
    assert list(wrong(negative_prompt=negative, prompt_syntax=WEIGHTED)) == ["negative_prompt"]
    assert drawn(negative_prompt=negative).negative_prompt == negative


def test_an_adapter_that_only_a_prompt_names_is_not_found_either() -> None:
    error = refused(parameters={"model": "artist", "prompt": "<lora:imk>", "prompt_syntax": WEIGHTED})
    assert error.reason == "ADAPTER_NOT_FOUND"
    assert "did you mean ink?" in error.message


def test_a_model_without_adapters_refuses_tags_too() -> None:
    plain = msgspec.structs.replace(CATALOGUE.models[0][0], weighted_prompts=True)
    catalogue = msgspec.structs.replace(CATALOGUE, models=((plain, 1),))
    error = refused(catalogue=catalogue, parameters={"prompt": "<lora:ink>", "prompt_syntax": WEIGHTED})
    assert violations(error) == {"prompt": "model shapes takes no adapters"}


@given(
    prompt=st.lists(st.sampled_from(["<", "lo", "ra", ":", "ink", ">", "0.5", " ", "wool", "("]), max_size=30).map(
        "".join
    )
)
def test_whatever_a_prompt_looks_like_the_same_comes_of_what_is_echoed(prompt) -> None:
    try:
        first = drawn(prompt=prompt, prompt_syntax=WEIGHTED, seed=1)
    except CallError:
        return
    assert spec(parameters=convert.parameters_proto(first)).parameters == first
