# ruff: noqa: PYI021 (docstrings here are what editors show for compiled modules)
"""The Huffman code of HPACK strings (RFC 7541 §5.2, Appendix B)."""

def encode(text: bytes) -> bytes:
    """Huffman-encode `text`."""

def decode(code: bytes) -> bytes:
    """The text that `code` stands for. ValueError if it holds EOS or wrong padding."""
