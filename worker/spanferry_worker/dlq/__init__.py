"""`spanferry dlq`: look at dead letters, and send them again once what killed them is mended."""
