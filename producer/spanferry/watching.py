"""What recording costs the app's threads, measured on one trace now and then.

The guard (`budget`) leaves an Account in `PROCESS.watch`; the trace that starts next takes it, and its
spans become watched ones: the same classes with a clock around what takes time. All other traces pay
one look at a field.
"""

from time import perf_counter_ns, thread_time_ns
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from collections import deque

    from spanferry.entities import EventLike
    from spanferry.spans import Span

    _Base = Span
else:
    _Base = object

__all__ = ["Account", "watch"]


class Account(Struct, eq=False):
    """What one trace has cost so far, in nanoseconds. Where its spans run in several threads at once
    an addition may be lost."""

    done: "deque[Account]"
    """Takes the account when the trace's local root has ended."""
    with_cpu: bool = False
    """Count the threads' CPU time too, which takes a system call each time."""
    since_ns: int = 0
    """When its local root began to start, by perf_counter_ns."""
    cost_ns: int = 0
    values_ns: int = 0
    """Of that: values becoming JSON, secrets being replaced, spans being handed over. The rest is
    what spans cost whatever is in them."""
    cpu_ns: int = 0
    """Of `values_ns`: time that the threads were running."""
    payload_bytes: int = 0
    spans: int = 0
    slowest_ns: int = 0
    slowest: Any = ""
    """Name of the span whose values took longest at once."""
    inside: bool = False


def watch(span: "Span", since_ns: int) -> None:
    """From now on `span`, which has just started, adds to its trace's account what it costs."""
    account = span.trace.account
    if account is None:
        return
    _class_of.__set__(span, _watched_kind(type(span)))
    account.spans += 1
    account.cost_ns += perf_counter_ns() - since_ns


class _Watched(_Base):
    """Before a class of spans: the same, with clocks around."""

    __slots__ = ()

    def set_inputs(self, inputs: Any) -> None:
        self._measure(super().set_inputs, inputs)

    def set_outputs(self, outputs: Any) -> None:
        self._measure(super().set_outputs, outputs)

    def set_attribute(self, key: str, value: Any) -> None:
        self._measure(super().set_attribute, key, value)

    def add_event(self, event: "EventLike") -> None:
        self._measure(super().add_event, event)

    def record_exception(self, exception: BaseException | str) -> None:
        self._measure(super().record_exception, exception)

    def close(self, end_ns: int) -> None:
        account = self.trace.account
        if account is not None:
            account.payload_bytes += self._payload_bytes()
        self._measure(super().close, end_ns)
        if account is not None and self._is_root:
            account.done.append(account)

    def _payload_bytes(self) -> int:
        size = len(self._inputs or b"") + len(self._outputs or b"")
        if self._attributes:
            size += sum(map(len, self._attributes.copy().values()))
        return size + sum(len(event.attributes) for event in self._events)

    def _measure(self, call: Any, *args: Any) -> None:
        """`call` never raises."""
        account = self.trace.account
        if account is None or account.inside:
            call(*args)
            return
        account.inside = True
        began_ns = perf_counter_ns()
        if account.with_cpu:
            cpu_ns = thread_time_ns()
            call(*args)
            account.cpu_ns += thread_time_ns() - cpu_ns
        else:
            call(*args)
        spent_ns = perf_counter_ns() - began_ns
        account.inside = False
        account.cost_ns += spent_ns
        account.values_ns += spent_ns
        if spent_ns > account.slowest_ns:
            account.slowest_ns, account.slowest = spent_ns, self._name


_class_of: Any = object.__dict__["__class__"]
"""What gives an object another class, though spans of MLflow's API say that they have one of its."""

_kinds: dict[type, type] = {}


def _watched_kind(kind: type) -> type:
    known = _kinds.get(kind)
    if known is None:
        known = kind
        if not issubclass(kind, _Watched):
            words = {"__slots__": (), "__module__": kind.__module__, "__doc__": kind.__doc__}
            known = type(kind.__name__, (_Watched, kind), words)
        _kinds[kind] = known
    return known
