"""What an operator asks for beside running something: logs, diagnosis, services, upgrades.

Used by the commands in `cli`, and by nothing that serves.
"""
