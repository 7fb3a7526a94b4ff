"""The settings as the policy of polling."""

from relay.model.cadence import WEIGHTS, Cadence
from relay.model.lifecycle import Policy
from relay.model.orders import Resource
from relay.settings import Settings
from relay.upstream.dialects import open_dialect


def policy_of(settings: Settings) -> Policy:
    resources = open_dialect(settings).required
    return Policy(
        Cadence(
            settings.poll_scale,
            settings.poll_floor,
            {**WEIGHTS, **settings.poll_weights},
            status_in_details=Resource.DETAILS in resources,
        ),
        patience_ms=round(settings.patience * 1000),
        confirm_after_ms=round(settings.confirm_after * 1000),
        late_ms=round(settings.late_chat * 1000),
        abandon_ms=round(settings.abandon_after * 1000),
        resources=resources,
        location=settings.upstream_location,
    )
