"""What Kafka does not take now, on disk: a bounded, checksummed log of segments.

entries    one parcel as bytes, framed with its checksum; reading them back, past damage
segments   one file of entries, and what of it is settled
directory  the folder that the processes of a host share, and who owns which segments
spool      what the sender uses
replay     entries on their way back, into Kafka
cli        `spanferry spool status | replay | drop`
"""
