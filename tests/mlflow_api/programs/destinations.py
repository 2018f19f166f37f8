"""Where traces go: experiments set globally, for a context, for one trace, in the middle."""

import mlflow
from mlflow.entities.trace_location import MlflowExperimentLocation

from tests.mlflow_api.registry import program


@program()
def destination_of_a_function(stage):
    there = MlflowExperimentLocation(stage.experiment("there"))

    @mlflow.trace(trace_destination=there)
    def work(x):
        return child(x)

    @mlflow.trace
    def child(x):
        return x

    return work(1)


@program()
def destination_of_a_span(stage):
    there = MlflowExperimentLocation(stage.experiment("there"))
    with mlflow.start_span("there", trace_destination=there), mlflow.start_span("child"):
        pass


@program()
def destination_of_a_child(stage):
    there = MlflowExperimentLocation(stage.experiment("there"))
    with mlflow.start_span("here"), mlflow.start_span("inner", trace_destination=there):
        pass


@program()
def destination_for_all(stage):
    mlflow.tracing.set_destination(MlflowExperimentLocation(stage.experiment("there")))
    try:
        with mlflow.start_span("there"):
            pass
        special = MlflowExperimentLocation(stage.experiment("special"))
        with mlflow.start_span("special", trace_destination=special):
            pass
        mlflow.start_span_no_context("there too").end()
    finally:
        mlflow.tracing.reset()
    with mlflow.start_span("here again"):
        pass


@program()
def destination_of_a_context(stage):
    import contextvars

    there = MlflowExperimentLocation(stage.experiment("there"))

    def work():
        mlflow.tracing.set_destination(there, context_local=True)
        with mlflow.start_span("there"):
            pass

    contextvars.copy_context().run(work)
    with mlflow.start_span("here"):
        pass


@program()
def destination_and_run(stage):
    there = MlflowExperimentLocation(stage.experiment("there"))
    with mlflow.start_run(run_name="here"), mlflow.start_span("there", trace_destination=there):
        pass


@program()
def experiment_set_in_the_middle(stage):
    with mlflow.start_span("before"):
        pass
    root = mlflow.start_span_no_context("around")
    mlflow.set_experiment(f"{stage.mode}-{stage.program}-second")
    with mlflow.start_span("after"):
        pass
    mlflow.start_span_no_context("child", parent_span=root).end()
    root.end()


@program()
def experiment_set_inside_a_span(stage):
    with mlflow.start_span("root"):
        mlflow.set_experiment(f"{stage.mode}-{stage.program}-second")
        with mlflow.start_span("child"):
            pass
    with mlflow.start_span("after"):
        pass
