"""`spanferry dlq` on a secured Kafka: the same options as everywhere, and rights that are missing."""

import asyncio

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest

from spanferry_worker import cli
from tests.kafka_days.secured import PASSWORD, STRANGER, USER, SecuredKafka

pytestmark = pytest.mark.kafka

TOPIC, LITERAL, ALLOW = 2, 3, 3
READ, WRITE, DESCRIBE = 3, 4, 8


class Desk:
    """A user at the command line, before the dead letters of a topic."""

    def __init__(
        self, broker: SecuredKafka, topic: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self._broker = broker
        self._capsys = capsys
        self.topic = topic
        self.dlq = broker.create_topic(f"{topic}.dlq")

    def run(self, user: str, *words: str, password: str = PASSWORD) -> tuple[int, str]:
        """Exit code and all that was said."""
        settings = {
            "bootstrap_servers": self._broker.at("SIGNED"),
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "PLAIN",
            "sasl_username": user,
            "sasl_password": password,
        }
        options = [f"--set=kafka.{name}={value}" for name, value in settings.items()]
        code = cli.main(["dlq", *words, f"--topic={self.topic}", *options])
        said = self._capsys.readouterr()
        return code, said.out + said.err

    def bury(self) -> None:
        """One letter."""

        async def send() -> None:
            producer = AIOKafkaProducer(bootstrap_servers=self._broker.bootstrap_servers)
            await producer.start()
            headers = [("dlq.topic", self.topic.encode()), ("dlq.reason", b"refused")]
            await producer.send_and_wait(self.dlq, b"value", headers=headers)
            await producer.stop()

        asyncio.run(send())

    def allow(self, topic: str, operation: int) -> None:
        """Give the stranger a right."""

        async def send() -> None:
            admin = AIOKafkaAdminClient(bootstrap_servers=self._broker.bootstrap_servers)
            await admin.start()
            who = f"User:{STRANGER}"
            request = CreateAclsRequest(TOPIC, topic, LITERAL, who, "*", operation, ALLOW)
            answer = await admin._send_request(request)
            assert [code for code, _ in answer.creation_responses] == [0]
            await admin.close()

        asyncio.run(send())


@pytest.fixture
def desk(broker: SecuredKafka, topic: str, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(broker, topic, capsys)


def test_who_signs_in_may_look(desk: Desk):
    code, said = desk.run(USER, "list")
    assert (code, said) == (1, f"{desk.dlq}: nothing matches, of 0 dead letters\n")


def test_a_wrong_password_is_said_and_never_shown(desk: Desk):
    code, said = desk.run(USER, "list", password="canary-wr0ng")
    assert code == 3
    assert "SaslAuthenticationFailed" in said
    assert "spanferry dlq list: cannot reach Kafka" in said
    assert "canary" not in said


def test_each_missing_right_is_named(desk: Desk):
    desk.bury()
    code, said = desk.run(STRANGER, "list")
    assert code == 3
    assert f"{desk.dlq} does not exist, or this user may not see it" in said
    desk.allow(desk.dlq, DESCRIBE)
    code, said = desk.run(STRANGER, "list")
    assert code == 3
    assert f"cannot read {desk.dlq} (by ACLs this needs Describe and Read on it)" in said
    desk.allow(desk.dlq, READ)
    assert desk.run(STRANGER, "list")[0] == 0
    code, said = desk.run(STRANGER, "replay", "--yes")
    assert code == 3
    assert f"{desk.topic} does not exist, or this user may not see it" in said
    desk.allow(desk.topic, DESCRIBE)
    code, said = desk.run(STRANGER, "replay", "--yes")
    assert code == 3
    assert "0 replayed\n" in said
    assert f"cannot write to {desk.topic} (by ACLs this needs Describe and Write on it)" in said


def test_what_was_sent_and_cannot_be_noted_is_said(desk: Desk):
    desk.bury()
    desk.allow(desk.dlq, READ)
    desk.allow(desk.topic, WRITE)
    code, said = desk.run(STRANGER, "replay", "--yes")
    assert code == 1
    assert f"1 replayed: {desk.topic} (refused 1)" in said
    assert f"cannot write to {desk.dlq} (by ACLs" in said
    assert "1 were sent, but that could not be noted" in said
    desk.allow(desk.dlq, WRITE)
    assert desk.run(STRANGER, "replay", "--yes")[0] == 0
    code, said = desk.run(STRANGER, "replay", "--yes")
    assert (code, "nothing to replay; 1 were replayed before" in said) == (0, True)
