"""indattn: reproduce, test and extend indirect attention (arXiv 2509.26015).

:func:`load_run` and :func:`load_export` give trained models; the layer is :class:`indattn.attention.IndirectAttention`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from indattn.interface import LoadedRun, export, load_export, load_run

__version__ = "0.1.0"

__all__ = ["LoadedRun", "__version__", "export", "load_export", "load_run"]


def __getattr__(name: str) -> Any:
    # On demand: `import indattn` and the help of its command stay quick, torch takes seconds.
    if name in __all__:
        from indattn import interface

        return getattr(interface, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
