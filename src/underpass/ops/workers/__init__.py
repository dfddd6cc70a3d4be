"""Worker processes: how one is started, talked to, kept running, and looked after.

Supervisor and worker have one stream socket between them. Everything goes through it: what the
worker is to do, credentials included, and what it has to tell, log lines included. It is also the
leash: a worker whose socket closes ends at once, so none outlives its supervisor.
"""
