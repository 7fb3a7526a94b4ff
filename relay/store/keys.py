"""Every key of the relay in Redis.

All keys begin with `relay:1:{0}:`: the layout version, then the cell as a hash tag. One cell lives in one slot, so
that a script may touch any key of its cell, and a Redis Cluster could host many cells. `R` is a retailer's id, `O`
an order's, `S` a subscription's, `C` a credential's; a credential is a retailer's id, or `shared`.

Tenants
  retailers              zset    R by creation (ms)
  retailer:R             hash    doc: JSON, up: encrypted upstream secret
  keys:R                 hash    key id -> JSON (never the key itself); operator keys under R = operator
  key:<sha256>           string  JSON {retailer, key id, kind, scopes, expires}: what a presented key is good for
  audit:R                stream  a: action, k: key, o: object, r: request, u: outcome, d: JSON; R = operator as well
  rate:<who>             string  when the next request of a key or retailer is due by its rate (ms, GCRA; expires)
  idem:<sha256>          string  an answered POST, kept 24 h

Orders (a *pool* is C/R, an *arm* in it `<resource letter>/O`)
  orders:R               zset    O by registration (ms)
  order:R:O              hash    one tracked order; fields in store/orders.py
  creds                  zset    C by the earliest moment one of its arms can be claimed (ms)
  pools:C                zset    R by the same
  due:C/R:<class>        zset    unclaimed arms by due time (ms); relay/model/pacing.py says what classes are
  claimed:C/R            zset    claimed arms by the end of their lease (ms)
  again:C/R              set     claimed arms that are due again at once when they are put back
  pool:C/R               hash    x: learnt factor of the threshold, v: turns taken, turn: whose turn it is
  load:C                 hash    R -> orders that are polled, * -> all of them
  stages:C               hash    stage -> orders in it
  done:R:O               hash    what the retailer had passed on -> JSON (store/decisions.py; expires)
  ended                  zset    R/O by the end of tracking (ms)
  suspended              set     R/O whose tracking is suspended
  budget:C               hash    rate: requests per second, tat: when the next request may start (ms, GCRA), gate: until
                                 when nothing is asked (ms), mint and why: until when no token is minted (ms), and its
                                 reason; the rest belongs to claim.lua and throttle.lua
  token:C:<sha1>         string  minted user token, encrypted, expiring with the token
  hazards                hash    `<resource>/<stage>/<n>` -> sums that the policy learnt (relay/model/hazards.py)
  tempo:R                hash    `<resource>/<n>` -> likewise, of one retailer

Log
  log:R                  stream  i: event id, t: type, o: O, q: sequence, b: body; s: the subscription that an event
                                 of `subscription.*` is about (then O is empty); p: the
                                 traceparent of what committed it, where that was traced
  ids:R                  hash    event id -> stream id
  trail:R:O              list    stream ids of an order's events, oldest first; goes with the last of them
  gone:R                 zset    what remains of purged events: place/event id/type/sequence/O, the place as text that
                                 sorts; scores are 0
  answers:R:O            set     kept answers to POSTs about the order, so that a purge finds them (expires)

Subscriptions
  subs:R                 zset    S by creation (ms)
  live:R                 set     enabled S
  sub:S                  hash    fields in store/subscriptions.py
  ahead:S                set     stream ids settled ahead of the position
  lanes:S                zset    parked lanes L by next attempt (ms); L is an order's id, or an event's where a
                                 subscription asked for no order
  lane:S:L               list    `stream id/relay-sequence/attempts/first attempt ms/kind` in order, head first; kind is
                                 empty, `r` (sent on request) or `f` (a snapshot in the place of several).
                                 What is sent on request has lanes of its own: L begins with U+001F
  fold:S:L               hash    the snapshot at the head of a lane: i: event id, b: body, n: the relay-sequences it
                                 stands for, q: its order's sequence
  dead:S                 zset    dead letters `stream id/reason` by the time of the event (ms)
  att:S:<n>              hash    stream id -> attempts, one JSON line each (store/attempts.py); n: tens of minutes of
  the event's time, so that old ones expire as a whole
  jobs:S                 hash    recovery id -> JSON; the running one is named in sub:S
  ready                  zset    S with work, by when it may be claimed (ms); a claimed one's score is its lease's end

Running
  bell:<name>            list    wake-up tokens; a pump blocks on them
  slot:<kind>:<n>        string  the pump that runs in this slot (expires)
  canary                 hash    marker, fetched, seen, seen_ms, refused, subscription, last (relay/canary.py)
  pause:<what>           string  what may not be done again yet, such as a test send (expires)
  layout                 hash    format: of what the newest release so far wrote, by: that release (store/layout.py)
  scratch                string  shows that Redis takes writes (expires)
  known                  string  a sealed word: shows at start whether the master keys are those of this store
"""

import hashlib

PREFIX = "relay:1:{0}:"

RETAILERS = f"{PREFIX}retailers"
CREDENTIALS = f"{PREFIX}creds"
READY = f"{PREFIX}ready"
ENDED = f"{PREFIX}ended"
LAYOUT = f"{PREFIX}layout"
SUSPENDED = f"{PREFIX}suspended"
SCRATCH = f"{PREFIX}scratch"
KNOWN = f"{PREFIX}known"
HAZARDS = f"{PREFIX}hazards"

CANARY_STATE = f"{PREFIX}canary"

#: The retailer of the canary, and its credential. It stands in no list of retailers.
CANARY = "ret_canary"
#: The credential of retailers that have none of their own: the deployment's, from the settings.
SHARED_CREDENTIAL = "shared"


def retailer(retailer_id: str) -> str:
    return f"{PREFIX}retailer:{retailer_id}"


def retailer_keys(retailer_id: str) -> str:
    return f"{PREFIX}keys:{retailer_id}"


def api_key(digest: str) -> str:
    return f"{PREFIX}key:{digest}"


def audit(owner: str) -> str:
    return f"{PREFIX}audit:{owner}"


def rate(who: str) -> str:
    return f"{PREFIX}rate:{who}"


def idempotency(digest: str) -> str:
    return f"{PREFIX}idem:{digest}"


def orders(retailer_id: str) -> str:
    return f"{PREFIX}orders:{retailer_id}"


def order(retailer_id: str, order_id: str) -> str:
    return f"{PREFIX}order:{retailer_id}:{order_id}"


def due(credential: str, retailer_id: str, klass: int) -> str:
    return f"{PREFIX}due:{credential}/{retailer_id}:{klass}"


def claimed(credential: str, retailer_id: str) -> str:
    return f"{PREFIX}claimed:{credential}/{retailer_id}"


def pools(credential: str) -> str:
    return f"{PREFIX}pools:{credential}"


def decisions(retailer_id: str, order_id: str) -> str:
    return f"{PREFIX}done:{retailer_id}:{order_id}"


def load(credential: str) -> str:
    return f"{PREFIX}load:{credential}"


def stages(credential: str) -> str:
    return f"{PREFIX}stages:{credential}"


def tempo(retailer_id: str) -> str:
    return f"{PREFIX}tempo:{retailer_id}"


def budget(credential: str) -> str:
    return f"{PREFIX}budget:{credential}"


def token(credential: str, user_id: str) -> str:
    return f"{PREFIX}token:{credential}:{hashlib.sha1(user_id.encode(), usedforsecurity=False).hexdigest()}"


def log(retailer_id: str) -> str:
    return f"{PREFIX}log:{retailer_id}"


def event_ids(retailer_id: str) -> str:
    return f"{PREFIX}ids:{retailer_id}"


def trail(retailer_id: str, order_id: str) -> str:
    return f"{PREFIX}trail:{retailer_id}:{order_id}"


def gone(retailer_id: str) -> str:
    return f"{PREFIX}gone:{retailer_id}"


def answers(retailer_id: str, order_id: str) -> str:
    return f"{PREFIX}answers:{retailer_id}:{order_id}"


def subscriptions(retailer_id: str) -> str:
    return f"{PREFIX}subs:{retailer_id}"


def live(retailer_id: str) -> str:
    return f"{PREFIX}live:{retailer_id}"


def subscription(subscription_id: str) -> str:
    return f"{PREFIX}sub:{subscription_id}"


def ahead(subscription_id: str) -> str:
    return f"{PREFIX}ahead:{subscription_id}"


def lanes(subscription_id: str) -> str:
    return f"{PREFIX}lanes:{subscription_id}"


def lane(subscription_id: str, lane_id: str) -> str:
    return f"{PREFIX}lane:{subscription_id}:{lane_id}"


def dead(subscription_id: str) -> str:
    return f"{PREFIX}dead:{subscription_id}"


def fold(subscription_id: str, lane_id: str) -> str:
    return f"{PREFIX}fold:{subscription_id}:{lane_id}"


def attempts(subscription_id: str, position: str) -> str:
    return f"{PREFIX}att:{subscription_id}:{int(position.partition('-')[0]) // 600_000}"


def jobs(subscription_id: str) -> str:
    return f"{PREFIX}jobs:{subscription_id}"


def pause(what: str) -> str:
    return f"{PREFIX}pause:{what}"


def bell(name: str) -> str:
    return f"{PREFIX}bell:{name}"


def slot(kind: str, number: int) -> str:
    return f"{PREFIX}slot:{kind}:{number}"
