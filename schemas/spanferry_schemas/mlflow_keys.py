"""MLflow's names for attributes, metadata and tags, as MLflow 3 defines them (mlflow.tracing.constant).

Kept here because the app side must not import mlflow and the worker must agree with it.
"""

from typing import Final

SPAN_INPUTS: Final = "mlflow.spanInputs"
SPAN_OUTPUTS: Final = "mlflow.spanOutputs"
SPAN_TYPE: Final = "mlflow.spanType"
SPAN_FUNCTION_NAME: Final = "mlflow.spanFunctionName"
SPAN_DESCRIPTION: Final = "mlflow.spanDescription"
SPAN_LOG_LEVEL: Final = "mlflow.spanLogLevel"
SPAN_MODEL: Final = "mlflow.llm.model"
SPAN_COST: Final = "mlflow.llm.cost"
SPAN_TOKEN_USAGE: Final = "mlflow.chat.tokenUsage"
REQUEST_ID: Final = "mlflow.traceRequestId"

METADATA_SESSION: Final = "mlflow.trace.session"
METADATA_USER: Final = "mlflow.trace.user"
METADATA_MODEL_ID: Final = "mlflow.modelId"
METADATA_SOURCE_RUN: Final = "mlflow.sourceRun"
METADATA_SOURCE_NAME: Final = "mlflow.source.name"
METADATA_SOURCE_TYPE: Final = "mlflow.source.type"
METADATA_GIT_COMMIT: Final = "mlflow.source.git.commit"
METADATA_GIT_BRANCH: Final = "mlflow.source.git.branch"
METADATA_GIT_REPO_URL: Final = "mlflow.source.git.repoURL"
METADATA_PROCESS_USER: Final = "mlflow.user"

ASSESSMENT_METADATA_RUN: Final = "mlflow.assessment.sourceRunId"

TAG_TRACE_NAME: Final = "mlflow.traceName"

STREAM_CHUNK_EVENT: Final = "mlflow.chunk.item.{index}"
STREAM_CHUNK_VALUE: Final = "mlflow.chunk.value"
