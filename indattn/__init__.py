"""indattn: reproduce, test and extend indirect attention (arXiv 2509.26015)."""

__version__ = "0.1.0"
