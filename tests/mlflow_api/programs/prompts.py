"""Prompts of the registry, loaded inside a trace."""

import mlflow

from tests.mlflow_api.registry import program

NEEDS = ("pandas",)


@program(needs=NEEDS)
def prompt_loaded_inside(stage):
    name = f"{stage.mode}-greeting"
    mlflow.genai.register_prompt(name=name, template="Hello {{name}}!")
    with mlflow.start_span("root") as root:
        prompt = mlflow.genai.load_prompt(f"prompts:/{name}/1")
        with mlflow.start_span("child"):
            mlflow.genai.load_prompt(name, version=1)
        root.set_outputs(prompt.format(name="you"))
    return prompt.version


@program(needs=NEEDS)
def several_prompts(stage):
    names = [f"{stage.mode}-first", f"{stage.mode}-second"]
    for name in names:
        mlflow.genai.register_prompt(name=name, template=f"{name}: {{{{x}}}}")
    mlflow.genai.register_prompt(name=names[0], template="changed: {{x}}")

    @mlflow.trace
    def answers():
        mlflow.genai.load_prompt(f"prompts:/{names[0]}/2")
        mlflow.genai.load_prompt(f"prompts:/{names[1]}/1")

    answers()
    mlflow.genai.load_prompt(f"prompts:/{names[0]}/1")


@program(needs=NEEDS)
def prompt_formatted_inside(stage):
    name = f"{stage.mode}-formatted"
    prompt = mlflow.genai.register_prompt(name=name, template="Sum {{a}} and {{b}}")
    with mlflow.start_span("root", span_type="LLM") as span:
        span.set_inputs(prompt.format(a=1, b=2))
    return prompt.variables == {"a", "b"}
