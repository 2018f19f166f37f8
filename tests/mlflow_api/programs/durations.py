"""Spans that take a known time."""

import time

import mlflow

from tests.mlflow_api.registry import program

REST_S = 0.022
"""A little more than what is checked: clocks are not of one mind about 20 ms."""


@program()
def spans_that_take_their_time(stage):
    with mlflow.start_span("block"):
        time.sleep(REST_S)
        with mlflow.start_span("child"):
            time.sleep(REST_S)
        time.sleep(REST_S)

    @mlflow.trace
    def function():
        time.sleep(REST_S)
        child()
        time.sleep(REST_S)

    @mlflow.trace
    def child():
        time.sleep(REST_S)

    function()

    by_hand = mlflow.start_span_no_context("by hand")
    time.sleep(REST_S)
    inner = mlflow.start_span_no_context("child", parent_span=by_hand)
    time.sleep(REST_S)
    inner.end()
    time.sleep(REST_S)
    by_hand.end()
