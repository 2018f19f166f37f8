"""Programs with attachments, prompts and overridden feedback, for native_programs."""

import base64
from typing import Any

MEDIA: dict[str, Any] = {}
BYTES = bytes(range(256)) * 4


def some(number: int) -> str:
    """Other base64 for each number."""
    return base64.b64encode(BYTES + bytes([number])).decode()


def program(function):
    MEDIA[function.__name__] = function
    return function


@program
def data_uris(mlflow):
    with mlflow.start_span("root") as root:
        root.set_inputs({
            "messages": [
                {"role": "user", "content": [
                    {"type": "text", "text": "what is it?"},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{some(1)}"}},
                ]},
            ],
            "n": 1.50, "ünï": None,
        })  # fmt: skip
        with mlflow.start_span("child") as child:
            child.set_outputs(f"data:application/pdf;base64,{some(2)}")
        root.set_outputs([f"data:text/plain;base64,{some(3)}", "data:;base64,", "data:x;base64,?"])


@program
def openai_audio(mlflow):
    with mlflow.start_span("root") as root:
        part = {"type": "input_audio", "input_audio": {"data": some(4), "format": "mp3"}}
        root.set_inputs({"messages": [{"role": "user", "content": [part]}], "base64": True})
        root.set_outputs({"message": {"audio": {"data": some(5), "transcript": "hello"}}})


@program
def openai_images(mlflow):
    with mlflow.start_span("root") as root:
        root.set_inputs({"prompt": "a data cat"})
        call = {"type": "image_generation_call", "result": some(6), "output_format": "webp"}
        root.set_outputs({"data": [{"b64_json": some(7), "revised_prompt": "x"}], "output": [call]})


@program
def anthropic_and_bedrock_and_gemini(mlflow):
    with mlflow.start_span("root") as root:
        source = {"type": "base64", "media_type": "image/jpeg", "data": some(8)}
        root.set_inputs([
            {"type": "image", "source": source},
            {"image": {"format": "gif", "source": {"bytes": some(9)}}, "type": "data"},
            {"inline_data": {"mime_type": "audio/ogg", "data": some(10)}},
            {"inline_data": {"mime_type": "audio/ogg", "data": repr(BYTES)}},
            {"b64_json": some(11), "audio": {"data": some(12)}},
            {
                "inline_data": {"data": some(20)},
                "type": "image_generation_call",
                "result": some(21),
            },
        ])  # fmt: skip


@program
def explicit_attachments(mlflow):
    from mlflow.tracing.attachments import Attachment

    with mlflow.start_span("root") as root:
        root.set_inputs({"file": Attachment(content_type="application/pdf", content_bytes=BYTES)})
        root.set_outputs([Attachment(content_type="text/csv", content_bytes=b"a,b")])


@program
def no_payload_after_all(mlflow):
    with mlflow.start_span("root") as root:
        root.set_inputs({"say": "data:image/png;base64,not base64!", "data": [1, 2]})
        root.set_outputs({"audio": {"data": "also not!"}, "type": "image_generation_call"})


@program
def with_prompts(mlflow):
    for name in ("greeting", "farewell"):
        for template in ("hi {{name}}", "hello {{name}}"):
            mlflow.genai.register_prompt(name, template)
    with mlflow.start_span("root"):
        mlflow.genai.load_prompt("prompts:/greeting/2")
        with mlflow.start_span("child"):
            mlflow.genai.load_prompt("prompts:/farewell/1")
            mlflow.genai.load_prompt("prompts:/greeting/2")


@program
def overridden(mlflow):
    from mlflow.entities import AssessmentSource

    with mlflow.start_span("root") as root:
        pass

    def later():
        first = mlflow.log_feedback(
            trace_id=root.trace_id,
            name="good",
            value=0.2,
            span_id=root.span_id,
            source=AssessmentSource("LLM_JUDGE", "judge"),
        )
        mlflow.override_feedback(
            trace_id=root.trace_id,
            assessment_id=first.assessment_id,
            value=0.9,
            rationale="better than that",
            source=AssessmentSource("HUMAN", "reviewer"),
            metadata={"why": "x", "mlflow.assessment.sourceRunId": "ab" * 16},
        )
        assessments = mlflow.get_trace(root.trace_id).info.assessments
        return {"assessments": sorted(assessments, key=lambda one: bool(one.overrides))}

    return {"later": later}
