"""Active models and active runs around traces."""

import os

import mlflow

from tests.mlflow_api.registry import program

MODEL = "m-00112233445566778899aabbccddeeff"


@program()
def active_model_by_name(stage):
    model = mlflow.set_active_model(name=f"{stage.mode}-agent")
    try:
        with mlflow.start_span("root"):
            mlflow.start_span_no_context("another").end()
        return mlflow.get_active_model_id() == model.model_id
    finally:
        mlflow.clear_active_model()


@program()
def active_model_by_id(stage):
    model = mlflow.create_external_model(name="external")
    mlflow.set_active_model(model_id=model.model_id)
    with mlflow.start_span("with"):
        pass
    mlflow.clear_active_model()
    with mlflow.start_span("without"):
        pass


@program()
def active_model_for_a_while(stage):
    first = mlflow.create_external_model(name="first")
    with mlflow.set_active_model(model_id=first.model_id), mlflow.start_span("inside"):
        mlflow.update_current_trace(model_id=MODEL)
    with mlflow.start_span("root"):
        mlflow.set_active_model(name="while open")
    mlflow.clear_active_model()


@program()
def active_model_from_the_environment(stage):
    # MLflow looks at the variable when it is imported, and again after clear_active_model.
    os.environ["MLFLOW_ACTIVE_MODEL_ID"] = MODEL
    try:
        with mlflow.start_span("root"):
            pass
        return mlflow.get_active_model_id()
    finally:
        del os.environ["MLFLOW_ACTIVE_MODEL_ID"]
        mlflow.clear_active_model()


@program()
def active_run(stage):
    with mlflow.start_run(run_name="around"), mlflow.start_span("in a run"):
        with mlflow.start_span("child"):
            pass
    with mlflow.start_span("after the run"):
        pass


@program()
def nested_runs(stage):
    with mlflow.start_run(run_name="outer"):
        with mlflow.start_span("of the outer"):
            pass
        with mlflow.start_run(run_name="inner", nested=True), mlflow.start_span("of the inner"):
            pass
        mlflow.start_span_no_context("of the outer again").end()


@program()
def run_started_inside(stage):
    with mlflow.start_span("root"):
        with mlflow.start_run(run_name="inside"), mlflow.start_span("child"):
            pass


@program()
def run_of_another_experiment(stage):
    other = stage.experiment("other")
    with mlflow.start_run(experiment_id=other, run_name="there"), mlflow.start_span("where?"):
        pass


@program(since="3.14")
def run_by_id(stage):
    other = stage.experiment("other")
    with mlflow.start_run(run_name="here") as here:
        pass
    with mlflow.start_run(experiment_id=other, run_name="there") as there:
        pass
    with mlflow.start_span("by id", run_id=here.info.run_id) as root:
        with mlflow.start_span("ignored", run_id=there.info.run_id):
            pass
    with mlflow.start_run(run_name="active"):
        with mlflow.start_span("before the active one", run_id=here.info.run_id):
            pass
        with mlflow.start_span("of another experiment", run_id=there.info.run_id):
            pass
    return root.parent_id
