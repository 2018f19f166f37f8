"""The served app again, imported by uvicorn when its signal handlers are in place already."""

import json
import sys

import uvicorn

APP = "tests.better_than_native.programs.served:app"

if __name__ == "__main__":
    port = json.loads(sys.argv[1])["port"]
    uvicorn.Server(uvicorn.Config(APP, port=port, log_level="warning")).run()
