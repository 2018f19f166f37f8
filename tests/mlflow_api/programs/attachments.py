"""Files inside values: explicit attachments and what MLflow takes out of messages by itself."""

import base64
import os
import pathlib
import tempfile

import mlflow
import pydantic

from tests.mlflow_api.registry import program

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
WAV = b"RIFF" + bytes(reversed(range(256)))
PNG_TEXT = base64.b64encode(PNG).decode()
WAV_TEXT = base64.b64encode(WAV).decode()


@program(since="3.12")
def explicit_attachments(stage):
    from mlflow.tracing.attachments import Attachment

    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "notes.txt"
        file.write_text("größe")
        with mlflow.start_span("root") as root:
            root.set_inputs({"image": Attachment(content_type="image/png", content_bytes=PNG)})
            with mlflow.start_span("child") as child:
                child.set_inputs([Attachment.from_file(file)])
                child.set_outputs(Attachment(content_type="audio/wav", content_bytes=WAV))
            root.set_outputs({"nested": [{"deep": Attachment.from_file(file, "text/markdown")}]})


@program(since="3.12")
def data_uris(stage):
    with mlflow.start_span("root") as span:
        span.set_inputs(
            {
                "url": f"data:image/png;base64,{PNG_TEXT}",
                "broken": "data:image/png;base64,@@@",
                "plain": "data:text/plain,hello",
                "empty": "data:;base64,AAAA",
                "list": [f"data:application/pdf;base64,{WAV_TEXT}"],
            }
        )
        span.set_outputs(f"data:audio/mpeg;base64,{WAV_TEXT}")


@program(since="3.12")
def messages_with_files(stage):
    content = [
        {"type": "text", "text": "what is it?"},
        {"type": "input_audio", "input_audio": {"data": WAV_TEXT, "format": "mp3"}},
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{PNG_TEXT}"}},
        {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/webp", "data": PNG_TEXT},
        },
    ]
    with mlflow.start_span("root", span_type="CHAT_MODEL") as span:
        span.set_inputs({"messages": [{"role": "user", "content": content}]})
        span.set_outputs(
            {
                "data": [{"b64_json": PNG_TEXT}],
                "audio": {"data": WAV_TEXT, "transcript": "hello"},
                "image": {"format": "png", "source": {"bytes": PNG_TEXT}},
                "part": {"inline_data": {"mime_type": "image/gif", "data": PNG_TEXT}},
                "call": {"type": "image_generation_call", "result": PNG_TEXT},
            }
        )


@program(since="3.12")
def files_in_models(stage):
    class Message(pydantic.BaseModel):
        role: str
        url: str

    with mlflow.start_span("root") as span:
        span.set_inputs(Message(role="user", url=f"data:image/png;base64,{PNG_TEXT}"))
        span.set_outputs([Message(role="assistant", url="none")])


@program(since="3.12")
def files_left_where_they_are(stage):
    os.environ["MLFLOW_TRACE_EXTRACT_ATTACHMENTS"] = "false"
    try:
        with mlflow.start_span("root") as span:
            span.set_inputs({"url": f"data:image/png;base64,{PNG_TEXT}"})
    finally:
        del os.environ["MLFLOW_TRACE_EXTRACT_ATTACHMENTS"]


@program(since="3.13")
def files_that_are_too_large(stage):
    os.environ["MLFLOW_TRACE_MAX_ATTACHMENT_SIZE"] = "100"
    try:
        with mlflow.start_span("root") as span:
            span.set_inputs({"url": f"data:image/png;base64,{PNG_TEXT}"})
    finally:
        del os.environ["MLFLOW_TRACE_MAX_ATTACHMENT_SIZE"]


@program(since="3.12")
def file_in_a_failing_trace(stage):
    @mlflow.trace
    def looks(image):
        raise ValueError("cannot read it")

    try:
        looks({"url": f"data:image/png;base64,{PNG_TEXT}"})
    except ValueError as error:
        return str(error)


@program(since="3.12")
def attachment_outside_of_values(stage):
    from mlflow.tracing.attachments import Attachment

    with mlflow.start_span("root") as span:
        span.set_attribute("file", {"type": "text"})
        span.set_inputs({"same": [image := Attachment(content_type="a/b", content_bytes=b"x")] * 2})
        return image.content_type
