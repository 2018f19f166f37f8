"""Everything dies, again and again, while traces flow; in the end every trace is accounted for.

`make chaos`, or `python -m tests.chaos --traces 50000 --faults 24 --seed 1`. In the order of reading:

faults     what happens when: a schedule that follows from a seed
traces     what the trace of a number is like: made by producers, expected by the account
producer   the program that traces, and notes what it has promised
journal    those notes
junk       records that nobody can read, from somebody else
scene      three brokers, PostgreSQL, three workers, producers
actions    what a fault does to the scene, and how that is healed
run        the scene under faults, until all traces are made and settled
account    every trace looked up through MLflow's API, against the journals and the ledger
report     what is printed and kept; document puts it into docs/guarantees.md
"""
