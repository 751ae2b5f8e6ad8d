"""ModelService, from the scheduler's catalogue and by asking it, and AdminService, of which nothing is implemented yet."""

from collections.abc import Callable
from typing import Any

import msgspec
from google.protobuf.message import Message

from collodion.frontend import convert
from collodion.frontend.errors import CallError, not_found
from collodion.frontend.fields import Fields
from collodion.frontend.link import Link
from collodion.frontend.rpc import Context, Gate
from collodion.v1 import admin_pb2, model_pb2
from collodion.wire.jobs import ModelStatus, Reason
from collodion.wire.to_frontend import Catalogue, ModelAnswer
from collodion.wire.to_scheduler import LoadModel, UnloadModel

NAME = model_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name
ADMIN_NAME = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name


class ModelService:
    """The service's methods; errors are CallErrors."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def handlers(self, gate: Gate) -> dict[str, Any]:
        """The methods as gRPC wants them."""
        return {
            "ListModels": gate.unary("ListModels", model_pb2.ListModelsRequest, self.list_models),
            "GetModel": gate.unary("GetModel", model_pb2.GetModelRequest, self.get_model),
            "LoadModel": gate.unary("LoadModel", model_pb2.LoadModelRequest, self.load_model),
            "UnloadModel": gate.unary("UnloadModel", model_pb2.UnloadModelRequest, self.unload_model),
            "ListAdapters": gate.unary("ListAdapters", model_pb2.ListAdaptersRequest, self.list_adapters),
        }

    async def list_models(self, _: model_pb2.ListModelsRequest, __: Context) -> model_pb2.ListModelsResponse:
        """Lists the models."""
        models = _models(self._link.known())
        return model_pb2.ListModelsResponse(models=[models[name] for name in sorted(models)])

    async def get_model(self, request: model_pb2.GetModelRequest, _: Context) -> model_pb2.GetModelResponse:
        """Describes one model."""
        _check(request.name)
        model = _model(self._link.known(), request.name)
        if model is None:
            raise not_found(Reason.MODEL_NOT_FOUND, "Model", request.name, f"no model {request.name[:200]!r}")
        return model_pb2.GetModelResponse(model=model)

    async def load_model(self, request: model_pb2.LoadModelRequest, _: Context) -> model_pb2.LoadModelResponse:
        """Has a model loaded, and kept."""
        return model_pb2.LoadModelResponse(model=await self._ask(request.name, LoadModel))

    async def unload_model(self, request: model_pb2.UnloadModelRequest, _: Context) -> model_pb2.UnloadModelResponse:
        """Has a model dropped once nothing runs on it."""
        return model_pb2.UnloadModelResponse(model=await self._ask(request.name, UnloadModel))

    async def list_adapters(self, _: model_pb2.ListAdaptersRequest, __: Context) -> model_pb2.ListAdaptersResponse:
        """Lists the adapters."""
        adapters = sorted(self._link.known().adapters, key=lambda adapter: adapter.name)
        return model_pb2.ListAdaptersResponse(adapters=map(convert.adapter, adapters))

    async def _ask(self, name: str, question: Callable[[int, str], LoadModel | UnloadModel]) -> model_pb2.Model:
        """The model as it stands afterwards: as the scheduler says, whose catalogue may still be on its way."""
        _check(name)
        answer = await self._link.ask(("Model", name), lambda call: question(call, name))
        assert isinstance(answer, ModelAnswer)
        model = _model(self._link.known(), name) or model_pb2.Model(name=name)
        model.status.CopyFrom(convert.model_status(answer.status))
        return model


def admin_handlers(gate: Gate) -> dict[str, Any]:
    """AdminService: every method answers UNIMPLEMENTED with its reason."""
    methods = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].methods
    return {
        method.name: gate.unary(method.name, getattr(admin_pb2, method.input_type.name), _no_admin)
        for method in methods
    }


def _models(known: Catalogue) -> dict[str, model_pb2.Model]:
    """Every model by name. Of one whose files cannot be read nothing is known but where it is: nowhere, and why."""
    statuses: dict[str, ModelStatus] = {status.name: status for status in known.statuses}
    models = {
        info.name: convert.model(info, workers, info.name == known.default_model, statuses.get(info.name))
        for info, workers in known.models
    }
    for name in statuses.keys() - models.keys():
        models[name] = model_pb2.Model(name=name, status=convert.model_status(statuses[name]))
    return models


def _model(known: Catalogue, name: str) -> model_pb2.Model | None:
    """One of them. Who waits for a model looks often, and there may be thousands."""
    models = tuple(model for model in known.models if model[0].name == name)
    statuses = tuple(status for status in known.statuses if status.name == name)
    return _models(msgspec.structs.replace(known, models=models, statuses=statuses)).get(name)


def _check(name: str) -> None:
    check = Fields()
    check.identifier("name", name)
    check.raise_violations()


async def _no_admin(_: Message, __: Context) -> Message:
    raise CallError(Reason.NOT_IMPLEMENTED, "administration is not implemented yet; workers and limits are configured")
