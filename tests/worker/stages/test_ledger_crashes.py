"""The ledger adds up whatever crashes, and whatever the dead had on its way."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from spanferry_worker.stages.accounts import Account, Entry, Outcome
from spanferry_worker.stages.ledger import Ledger
from tests.worker.stages.ledgers import Topic


@given(seed=st.integers(0, 2**32), size=st.integers(1, 60))
@settings(deadline=None)
def test_every_number_is_in_one_count_whatever_crashes(seed, size):
    """Producers number records, some are lost, some come twice, owners die before and after they
    write and commit, and what they wrote last comes late: in the end all others are counted, once."""
    chance = random.Random(seed)
    log, produced, lost = _produce(chance, size)
    topic, committed, owners = Topic(), 0, 0
    late: list[list[Entry]] = []
    while committed < len(log):
        owners += 1
        ledger = topic.owner(resumed_at=committed, end=len(log), now_ms=owners)
        at = undecided = committed
        alive = True
        while alive and undecided < len(log):
            upto = min(len(log), at + chance.randint(0, 5))
            for offset in range(at, upto):
                ledger.read(offset, *log[offset], 0)
            at = upto
            for offset in chance.sample(range(undecided, at), k=chance.randint(0, at - undecided)):
                ledger.decided([offset], _outcome(log[offset]))
            undecided = next((o for o in range(undecided, at) if not _is_decided(ledger, o)), at)
            ledger.fold(undecided, 0)
            entries = ledger.changes(0)
            if chance.random() < 0.8:
                topic.save(entries)
                if chance.random() < 0.9:
                    committed = undecided
                else:
                    alive = False
                while late and chance.random() < 0.5:
                    topic.save(late.pop(chance.randrange(len(late))))
            else:
                late.append(entries)
                alive = False
    for entries in late:
        topic.save(entries)
    accounts = topic.owner(resumed_at=committed).accounts
    for producer_id, count in produced.items():
        account = accounts.get(producer_id, Account(producer_id))
        counts = account.counts
        tail = count - account.following  # lost at the end: only a report can tell
        assert account.missing + tail == len(lost[producer_id])
        assert counts.stored + counts.dead_lettered + counts.unaccounted == count - len(
            lost[producer_id]
        )
        assert counts.unaccounted == 0
        assert account.following == counts.stored + counts.dead_lettered + account.missing


def _is_decided(ledger: Ledger, offset: int) -> bool:
    window = ledger.window
    return window._outcomes[window._offsets.index(offset)] != Outcome.UNDECIDED


def _outcome(record: tuple[bytes, int]) -> Outcome:
    return Outcome.DEAD_LETTERED if record[1] % 5 == 4 else Outcome.STORED


def _produce(
    chance: random.Random, size: int
) -> tuple[list[tuple[bytes, int]], dict[bytes, int], dict[bytes, set[int]]]:
    """The partition, how many each producer has numbered, and which of these never came."""
    producers = [bytes([n]) * 8 for n in range(3)]
    produced = dict.fromkeys(producers, 0)
    lost: dict[bytes, set[int]] = {one: set() for one in producers}
    log: list[tuple[bytes, int]] = []
    for _ in range(size):
        one = chance.choice(producers)
        record = (one, produced[one])
        produced[one] += 1
        if chance.random() < 0.2:
            lost[one].add(record[1])
            continue
        log.append(record)
        if chance.random() < 0.2:
            log.append(record)
    chance.shuffle(log) if chance.random() < 0.2 else None
    return log, produced, lost
