"""Which dialect the settings name."""

from relay.settings import Settings
from relay.upstream.connect import Connect
from relay.upstream.interface import Dialect
from relay.upstream.specification import Specification


def open_dialect(settings: Settings) -> Dialect:
    if settings.upstream_dialect == "connect":
        return Connect(
            retailer_id=settings.upstream_retailer_id,
            language=settings.upstream_language,
            internal_ids=settings.upstream_internal_ids,
        )
    return Specification()
