"""Which import tells that an app uses a library that MLflow can log by itself."""

__all__ = ["AUTOLOG"]

AUTOLOG: dict[str, tuple[str, ...]] = {
    "ag2": ("autogen",),
    "agno": ("agno",),
    "anthropic": ("anthropic",),
    "autogen": ("autogen_agentchat",),
    "bedrock": ("boto3",),
    "crewai": ("crewai",),
    "dspy": ("dspy",),
    "gemini": ("google.genai", "google.generativeai"),
    "groq": ("groq",),
    "haystack": ("haystack",),
    "langchain": ("langchain_core",),
    "litellm": ("litellm",),
    "llama_index": ("llama_index.core",),
    "mistral": ("mistralai",),
    "openai": ("openai",),
    "pydantic_ai": ("pydantic_ai",),
    "semantic_kernel": ("semantic_kernel",),
    "smolagents": ("smolagents",),
    "strands": ("strands",),
}
"""`mlflow.<name>.autolog`, and the modules whose import it is to follow."""
