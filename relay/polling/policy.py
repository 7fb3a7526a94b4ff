"""The settings as the policy of polling."""

from relay.model.cadence import WEIGHTS, Cadence
from relay.model.lifecycle import Policy
from relay.settings import Settings


def policy_of(settings: Settings) -> Policy:
    return Policy(
        Cadence(settings.poll_scale, settings.poll_floor, {**WEIGHTS, **settings.poll_weights}),
        patience_ms=round(settings.patience * 1000),
        confirm_after_ms=round(settings.confirm_after * 1000),
        late_ms=round(settings.late_chat * 1000),
        abandon_ms=round(settings.abandon_after * 1000),
    )
