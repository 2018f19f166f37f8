"""The first look: what is counted is what is sent then, less what was replayed before."""

from collections import Counter

from spanferry_worker.dlq.survey import Kind, Survey
from spanferry_worker.stages.dead_letter import Selection, letter_headers, read_letter
from spanferry_worker.stages.receipts import Receipt, write_receipt
from tests.worker.events import record

REFUSED, EMPTY = Kind("refused", "traces"), Kind("empty", "traces")


def dead(offset: int, reason: str = "refused", topic: str = "traces", partition: int = 0):
    headers = letter_headers([], {"reason": reason, "topic": topic})
    return record(b"", offset, partition=partition, headers=headers)


def receipt(offset: int, topic: str, *ranges: tuple[int, int]):
    value, headers = write_receipt(Receipt(topic, list(ranges)))
    return record(value, offset, headers=headers)


TOPIC = [
    *(dead(offset) for offset in range(5)),
    dead(5, "empty"),
    receipt(6, "traces", (1, 2)),
    receipt(7, "staging", (2, 5)),
    dead(8),
    dead(3, partition=1),
]


def surveyed(selection: Selection, **options) -> Survey:
    survey = Survey(selection, **options)
    for each in TOPIC:
        survey.see(each)
    return survey


def count_wanted(survey: Survey, *, again: bool) -> Counter[str]:
    letters = [read_letter(each) for each in TOPIC if each.offset not in {6, 7}]
    return Counter(one.reason for one in letters if survey.wanted(one, again=again))


def test_a_replay_counts_what_did_not_go_to_the_same_place():
    survey = surveyed(Selection(), target_of=lambda letter: letter.origin_topic)
    assert survey.letters == 8
    assert survey.counts(again=True) == {REFUSED: 7, EMPTY: 1}
    assert survey.counts(again=False) == {REFUSED: 5, EMPTY: 1}
    elsewhere = surveyed(Selection(), target_of=lambda letter: "staging")
    assert elsewhere.counts(again=False) == {Kind("refused", "staging"): 4}


def test_without_a_place_a_letter_counts_as_replayed_wherever_it_went():
    survey = surveyed(Selection())
    assert survey.counts(again=False) == {Kind("refused", ""): 3}


def test_only_what_is_selected_is_counted():
    survey = surveyed(Selection(reasons=frozenset({"empty"})))
    assert survey.counts(again=True) == {Kind("empty", ""): 1}
    assert survey.counts(again=False) == {}


def test_what_is_counted_is_what_is_wanted():
    for target_of in (None, lambda letter: "staging", lambda letter: letter.origin_topic):
        for reasons in (frozenset[str](), frozenset({"refused"})):
            survey = surveyed(Selection(reasons=reasons), target_of=target_of)
            for again in (False, True):
                counts = survey.counts(again=again)
                assert count_wanted(survey, again=again).total() == counts.total()
