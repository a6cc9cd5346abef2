"""TensorFlow Serving's messages, as classes. They are in a pool of their own, so mypy knows nothing of their fields."""

from __future__ import annotations

from typing import Any, Final

from ringpull.inference.proto.own_pool import OwnPool

POOL: Final = OwnPool("tensorflow_serving")
PREDICTION_SERVICE: Final = POOL.service("tensorflow.serving.PredictionService")
MODEL_SERVICE: Final = POOL.service("tensorflow.serving.ModelService")


def _message(name: str) -> Any:
    return POOL.message(f"tensorflow.{name}")


TensorProto: Final = _message("TensorProto")
Example: Final = _message("Example")
SignatureDef: Final = _message("SignatureDef")
TensorInfo: Final = _message("TensorInfo")
ModelSpec: Final = _message("serving.ModelSpec")
PredictRequest: Final = _message("serving.PredictRequest")
PredictResponse: Final = _message("serving.PredictResponse")
ClassificationRequest: Final = _message("serving.ClassificationRequest")
ClassificationResponse: Final = _message("serving.ClassificationResponse")
RegressionRequest: Final = _message("serving.RegressionRequest")
RegressionResponse: Final = _message("serving.RegressionResponse")
SignatureDefMap: Final = _message("serving.SignatureDefMap")
GetModelMetadataRequest: Final = _message("serving.GetModelMetadataRequest")
GetModelMetadataResponse: Final = _message("serving.GetModelMetadataResponse")
GetModelStatusRequest: Final = _message("serving.GetModelStatusRequest")
GetModelStatusResponse: Final = _message("serving.GetModelStatusResponse")
ModelVersionStatus: Final = _message("serving.ModelVersionStatus")
StatusProto: Final = _message("serving.StatusProto")
ReloadConfigRequest: Final = _message("serving.ReloadConfigRequest")
ReloadConfigResponse: Final = _message("serving.ReloadConfigResponse")

DataType: Final[Any] = POOL.pool.FindEnumTypeByName("tensorflow.DataType")
DTYPE_NAMES: Final[dict[int, str]] = {each.number: each.name for each in DataType.values}
"""Number of a data type -> its name, such as DT_FLOAT."""
DTYPES: Final[dict[str, int]] = {name: number for number, name in DTYPE_NAMES.items()}
