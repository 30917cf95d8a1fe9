"""Hydra searches every configuration tree (:mod:`indattn.trees`), wherever a configuration is composed."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from indattn.trees import trees

__all__ = ["Trees", "register"]


class Trees(SearchPathPlugin):
    """Puts the trees of other packages and of ``--config-dir`` behind the toolkit's own."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra for each search path it makes."""
        for tree in trees()[1:]:
            search_path.append("indattn", f"file://{tree}")


def register() -> None:
    """Tell Hydra; a second time changes nothing."""
    Plugins.instance().register(Trees)
