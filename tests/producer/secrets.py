"""Texts with secrets in them, none of which is anybody's."""

# Put together here, so that no scanner takes this file for a leak.
AWS_KEY = "AKIA" + "IOSFODNN7EXAMPLE"
OPENAI_KEY = "sk-" + "proj-abcdefghijklmnopqrstuvwx0123"
GITHUB_TOKEN = "ghp_" + "0123456789abcdefghijklmnopqrstuvwxyz"
SLACK_TOKEN = "xoxb-" + "123456789012-abcdefghijklmn"
GOOGLE_KEY = "AIza" + "SyA-0123456789abcdefghijklmnopqrstu"
SENDGRID_KEY = (
    "SG." + "abcdefghijklmnopqrstuv" + "." + "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
)
JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9" + ".eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIB+/AA==\n-----END RSA PRIVATE KEY-----"

SECRETS: dict[str, list[str]] = {
    "api-keys": [AWS_KEY, OPENAI_KEY, GITHUB_TOKEN, SLACK_TOKEN, GOOGLE_KEY, SENDGRID_KEY, PEM],
    "tokens": [JWT, "Bearer abc123def456ghi", "Authorization: Basic dXNlcjpwYXNz"],
    "passwords": [
        "password=hunter22x",
        "passwd: 'hunter22x'",
        "{'db_password': 'hunter22x'}",
        "postgres://app:hunter22x@db:5432/x",
    ],
    "emails": ["bob.o+x@mail.example.com", "anna%40example.org", "jörg@bücher.example"],
    "cards": [
        "4111111111111111",
        "4111 1111 1111 1111",
        "3782-822463-10005",
        "5555555555554444",
        "no.4111111111111111",
    ],
}
"""By preset."""

HARMLESS = [
    "a risk-management-of-something-long-with-dashes-and-more",
    "chatcmpl-AbC123dEf456GhI789jKl012MnO3",
    "550e8400-e29b-41d4-a716-446655440000",
    "the bearer of bad news: he never came",
    "call me @home, or @ 5 o'clock; react@18.2.0",
    "1700000000000000000",
    "0.4111111111111111",
    "-10.4111 1111 1111 1112",
    "4111111111111112",
    "4111111111111111111111111111",
    "bypass: the compass points north",
    "https://example.com:8080/path@2x",
    "a token is a word; max_tokens: 100",
]
"""What looks like it, and is none."""
