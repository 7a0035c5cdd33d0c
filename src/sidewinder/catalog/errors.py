"""What can go wrong with the catalog."""

from sidewinder.errors import SidewinderError


class CatalogError(SidewinderError):
    """The catalog is missing, cannot be written, or does not understand a question."""
