# ruff: noqa: PYI021 (docstrings here are what editors show for compiled modules)
"""The tables of HPACK (RFC 7541 §2.3, Appendix A); for compiled modules only."""
