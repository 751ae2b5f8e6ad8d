"""ModelService, from the scheduler's catalogue, and AdminService, of which nothing is implemented yet."""

from typing import Any

from google.protobuf.message import Message

from collodion.frontend import convert
from collodion.frontend.errors import CallError, not_found
from collodion.frontend.fields import Fields
from collodion.frontend.link import Link
from collodion.frontend.rpc import Context, Gate
from collodion.v1 import admin_pb2, model_pb2
from collodion.wire.jobs import Reason

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
            "LoadModel": gate.unary("LoadModel", model_pb2.LoadModelRequest, _models_stay),
            "UnloadModel": gate.unary("UnloadModel", model_pb2.UnloadModelRequest, _models_stay),
        }

    async def list_models(self, _: model_pb2.ListModelsRequest, __: Context) -> model_pb2.ListModelsResponse:
        """Lists the models."""
        return model_pb2.ListModelsResponse(models=self._models())

    async def get_model(self, request: model_pb2.GetModelRequest, _: Context) -> model_pb2.GetModelResponse:
        """Describes one model."""
        check = Fields()
        check.identifier("name", request.name)
        check.raise_violations()
        for model in self._models():
            if model.name == request.name:
                return model_pb2.GetModelResponse(model=model)
        raise not_found(Reason.MODEL_NOT_FOUND, "Model", request.name, f"no model {request.name[:200]!r}")

    def _models(self) -> list[model_pb2.Model]:
        known = self._link.known()
        models = [convert.model(info, workers, info.name == known.default_model) for info, workers in known.models]
        return sorted(models, key=lambda model: model.name)


def admin_handlers(gate: Gate) -> dict[str, Any]:
    """AdminService: every method answers UNIMPLEMENTED with its reason."""
    methods = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].methods
    return {
        method.name: gate.unary(method.name, getattr(admin_pb2, method.input_type.name), _no_admin)
        for method in methods
    }


async def _models_stay(_: Message, __: Context) -> Message:
    raise CallError(
        Reason.NOT_IMPLEMENTED, "workers load the models of their configuration at their start, and keep them"
    )


async def _no_admin(_: Message, __: Context) -> Message:
    raise CallError(Reason.NOT_IMPLEMENTED, "administration is not implemented yet; workers and limits are configured")
