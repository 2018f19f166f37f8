"""A FastAPI app that makes one trace a request, served by uvicorn."""

import uvicorn
from fastapi import FastAPI

from tests.better_than_native.programs.shipping import begin, trace

OPTIONS = begin()
app = FastAPI()


@app.get("/chat/{number}")
async def chat(number: int) -> str:
    return trace(number)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=OPTIONS["port"], log_level="warning")
