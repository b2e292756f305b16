"""The catalog: a static site of the contracts of one service or of many."""

from events.contracts.catalog.site import write_site

__all__ = ["write_site"]
