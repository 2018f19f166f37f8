"""An app that uses MLflow's own tracing API stores the same through spanferry as without it."""

from pathlib import Path

import pytest

from tests.mlflow_api import expected
from tests.mlflow_api.canonical import LONG_AGO_NS
from tests.mlflow_api.comparison import Difference, differences
from tests.mlflow_api.databases import DATABASES
from tests.mlflow_api.golden import Golden, updating
from tests.mlflow_api.intended import INTENDED, as_markdown, reason_for
from tests.mlflow_api.other_mlflows import NEWEST_MLFLOW, OLDEST_MLFLOW
from tests.mlflow_api.registry import load_programs
from tests.mlflow_api.rows import SERVED_OTHERWISE, why_served_otherwise
from tests.mlflow_api.runs import MODES, RUNS, VERSIONS, AllRuns, Run
from tests.mlflow_api.skipped import SKIPPED

pytestmark = [pytest.mark.kafka, pytest.mark.mlflow, pytest.mark.timeout(900)]

PAGE = Path(__file__).parents[2] / "docs" / "mlflow-differences.md"


PROGRAMS = list(load_programs())
CASES = [
    (version, mode, program)
    for version, mode in RUNS
    if mode != "native"
    for program in PROGRAMS
    if program not in SKIPPED[version]
]
MS = 1_000_000
SPAN_NS_MAX = 30_000 * MS
CLOCKS_NS = 1_000 * MS
"""So far may two clocks of one machine be apart."""
Runs = dict[tuple[str, str], Run]
GOLDEN = Golden.read()
CHANGED_IN_THE_SERVER = {"feedback_updated_and_deleted"}
"""By update_assessment and delete_assessment, which do not go through Kafka: the databases keep what
was sent."""


@pytest.mark.parametrize(("version", "mode", "program"), CASES)
def test_the_same_is_stored_and_returned(runs: Runs, version: str, mode: str, program: str) -> None:
    native = runs[version, "native"].programs[program]
    ours = runs[version, mode].programs[program]
    unintended = [
        str(difference)
        for difference in differences(native, ours)
        if not is_intended(program, mode, difference)
    ]
    assert not unintended, "\n".join([f"{len(unintended)} differences", *unintended[:20]])


def is_intended(program: str, mode: str, difference: Difference) -> bool:
    """There is a reason, and what is ours is what it is to be: by the reason, or written down."""
    reason = reason_for(program, mode, difference)
    if reason is None:
        return False
    return bool(reason.ours) or updating() or GOLDEN.knows(mode, program, difference)


@pytest.mark.parametrize(("version", "mode"), RUNS)
def test_nothing_is_skipped_silently(runs: Runs, version: str, mode: str) -> None:
    report = runs[version, mode].report
    assert report["mlflow"] == version
    assert report["skipped"] == SKIPPED[version]
    assert len(report["results"]) + len(report["skipped"]) == len(PROGRAMS) >= 200


@pytest.mark.parametrize("version", VERSIONS)
def test_every_mode_is_what_it_says(runs: Runs, version: str) -> None:
    assert runs[version, "native"].report["sent"] is None
    for mode in MODES:
        run = runs[version, mode]
        assert run.report["spans of"].startswith("spanferry") == (mode == "accelerated"), mode
        stored = sum(len(program["traces"]) for program in run.programs.values())
        assert run.report["sent"]["traces_sent"] >= stored >= 200
        assert run.report["sent"]["traces_dropped"] == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_light_spans_are_no_otel_spans(runs: Runs, version: str) -> None:
    """Where the gate stays shut, MLflow makes its own spans, and all else is as it is to be."""
    results = runs[version, "accelerated"].report["results"]
    made = {name: result["otel spans"] for name, result in results.items() if result["otel spans"]}
    assert set(made) == set(expected.OTEL_SPANS) & set(results), made


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", ["native", "plain"])
def test_mlflows_own_spans_are_otel_spans(runs: Runs, version: str, mode: str) -> None:
    """What counts them for the light ones sees them."""
    run = runs[version, mode]
    for name, stored in run.programs.items():
        made = run.report["results"][name]["otel spans"]
        assert len(made) >= len(list(expected.spans_of(stored))), (name, made)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_program_stores_something(runs: Runs, version: str) -> None:
    programs = runs[version, "native"].programs
    empty = {
        name
        for name, stored in programs.items()
        if not any(trace["spans"] for trace in stored["traces"].values())
    }
    on_the_oldest = expected.STORES_NOTHING_ON_THE_OLDEST if version == OLDEST_MLFLOW else {}
    assert empty == {*expected.STORES_NOTHING, *on_the_oldest}


@pytest.mark.parametrize(("version", "mode"), RUNS)
def test_autologging_records_calls_of_models(runs: Runs, version: str, mode: str) -> None:
    programs = runs[version, mode].programs
    for name in expected.programs_of("autolog_"):
        if name not in programs:
            continue  # test_nothing_is_skipped_silently knows why
        types = {span["type"] for span in expected.spans_of(programs[name])}
        assert types & expected.types_expected(name), (name, types)
        counted = list(expected.tokens_of(programs[name]))
        usage = expected.usage_expected(name)
        if usage is None:
            assert counted == [], name
        else:
            assert any(usage.items() <= one.items() for one in counted), (name, counted)


@pytest.mark.parametrize(("version", "mode"), RUNS)
def test_tokens_have_a_price(runs: Runs, version: str, mode: str) -> None:
    of_spans, of_traces = expected.costs_of(runs[version, mode].programs["token_usage_and_cost"])
    assert len(of_spans) == 2
    assert of_traces == pytest.approx([sum(of_spans)])
    assert 0 < of_traces[0] < 1


@pytest.mark.parametrize(("version", "mode"), RUNS)
def test_prompts_are_found_by_their_traces(runs: Runs, version: str, mode: str) -> None:
    programs = runs[version, mode].programs
    for name, prompts in {
        "prompt_loaded_inside": ["RUN-greeting/1"],
        "several_prompts": ["RUN-first/2", "RUN-second/1"],
    }.items():
        found = [sorted(trace["prompts"]) for trace in programs[name]["traces"].values()]
        assert found == [prompts], name


@pytest.mark.parametrize(("version", "mode"), RUNS)
def test_files_are_where_spans_say(runs: Runs, version: str, mode: str) -> None:
    programs = runs[version, mode].programs
    found = {name: expected.files_of(stored) for name, stored in programs.items()}
    assert {name: missing for name, (_, missing) in found.items() if missing} == {}
    with_files = {name for name, (there, _) in found.items() if there}
    assert with_files == expected.files_expected(mode)


@pytest.mark.parametrize(("version", "mode"), RUNS)
def test_spans_take_the_time_they_take(runs: Runs, version: str, mode: str) -> None:
    traces = runs[version, mode].times["spans_that_take_their_time"]
    for times in traces:
        root, child = sorted(times, key=len)
        assert child == f"{root}/child"
        (began, ended), (inner_began, inner_ended) = times[root], times[child]
        assert inner_began - began >= 20 * MS
        assert inner_ended - inner_began >= 20 * MS
        assert ended - inner_ended >= 20 * MS
        assert ended - began < SPAN_NS_MAX
    assert len(traces) == 3


@pytest.mark.parametrize(("version", "mode"), RUNS)
def test_spans_are_of_the_time_of_their_program(runs: Runs, version: str, mode: str) -> None:
    run = runs[version, mode]
    for name, traces in run.times.items():
        if name not in run.report["results"]:
            continue  # the probe
        first, last = run.report["results"][name]["ran from to"]
        for path, (began, ended) in ((path, t) for times in traces for path, t in times.items()):
            if began < LONG_AGO_NS:
                continue  # set by the program
            assert ended is not None, (name, path)
            assert first - CLOCKS_NS <= began <= ended <= last + CLOCKS_NS, (name, path)
            assert ended - began < SPAN_NS_MAX, (name, path)


@pytest.mark.parametrize("version", VERSIONS)
def test_programs_fail_only_as_they_fail_natively(runs: Runs, version: str) -> None:
    failed = {
        name: program["error"]
        for name, program in runs[version, "native"].programs.items()
        if "error" in program
    }
    assert set(failed) <= {"enums", "keys_that_are_no_text"}, failed
    assert not failed or version == OLDEST_MLFLOW


def test_intended_differences_are_there(runs: Runs) -> None:
    found = {
        reason_for(program, mode, difference)
        for version, mode in runs
        if mode != "native"
        for program, ours in runs[version, mode].programs.items()
        for difference in differences(runs[version, "native"].programs[program], ours)
    }
    unused = [one.what for one in INTENDED if one.always and one not in found]
    assert unused == []


@pytest.mark.skipif(not updating(), reason="UPDATE_GOLDEN=1 writes what is stored now")
def test_intended_differences_are_written_down(runs: Runs) -> None:
    golden = Golden({})
    for (version, mode), run in runs.items():
        for program, ours in run.programs.items() if mode != "native" else ():
            for difference in differences(runs[version, "native"].programs[program], ours):
                reason = reason_for(program, mode, difference)
                if reason is not None and not reason.ours:
                    golden.add(mode, program, difference)
    golden.write()


def test_intended_differences_are_documented() -> None:
    _, _, listed = PAGE.read_text().partition("<!-- the list -->\n")
    assert listed == as_markdown(INTENDED), "write as_markdown(INTENDED) below the mark"


@pytest.mark.parametrize("database", DATABASES)
@pytest.mark.parametrize("mode", MODES)
def test_what_mlflow_reads_is_the_native_run(all_runs: AllRuns, database: str, mode: str) -> None:
    native = all_runs.server[NEWEST_MLFLOW, "native"].programs
    ours = all_runs.databases[database, mode].programs
    assert ours.keys() == native.keys()
    unintended: list[str] = []
    for program, here in ours.items():
        for difference in differences(native[program], here):
            reason = reason_for(program, mode, difference)
            known = reason is not None and (
                bool(reason.ours) or updating() or GOLDEN.knows(mode, program, difference)
            )
            if not known and program not in CHANGED_IN_THE_SERVER:
                unintended.append(f"{program}: {difference}")
    assert not unintended, "\n".join([f"{len(unintended)} differences", *unintended[:20]])


@pytest.mark.parametrize("mode", MODES)
def test_times_are_those_of_the_server(all_runs: AllRuns, mode: str) -> None:
    """To the nanosecond, which comparisons with another run leave out."""
    served = all_runs.server[NEWEST_MLFLOW, mode].times
    for database in DATABASES:
        stored = all_runs.databases[database, mode].times
        assert stored.keys() == served.keys()
        for program, times in served.items():
            assert sorted(map(repr, stored[program])) == sorted(map(repr, times)), program


@pytest.mark.parametrize("database", DATABASES)
def test_rows_are_those_of_the_server(all_runs: AllRuns, database: str) -> None:
    """Every row of every trace table, of the same traces: the ids are the app's."""
    served, stored = all_runs.rows[""], all_runs.rows[database]
    assert stored.keys() == served.keys()
    assert len(stored) >= 800
    unlike: list[str] = []
    reasons = set()
    for trace_id, theirs in served.items():
        program = theirs["trace_info"]["experiment_id"].split("-")[1]
        for difference in differences(theirs, stored[trace_id]):
            reason = why_served_otherwise(program, difference)
            reasons.add(reason)
            if reason is None:
                unlike.append(f"{program}: {difference}")
    assert not unlike, "\n".join([f"{len(unlike)} differences", *unlike[:20]])
    assert reasons.issuperset(SERVED_OTHERWISE), "a reason that nothing needs"
