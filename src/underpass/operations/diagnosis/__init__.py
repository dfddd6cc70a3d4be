"""A report on a running connector, for whoever has to find out what is wrong (observability §6).

Everything in it is bounded: each entry in size, each step in time, and all of them together. Words
that look like secrets are masked.
"""
