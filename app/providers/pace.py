"""The shared pace of one provider account, kept in Redis: one round trip per question, the server's clock only.

The rate is paced by GCRA (the "leaky bucket as a meter": one time, `next`, at which the next call is due). After a 429
the rate follows CUBIC (RFC 9438): a share of what hurt, back to that within `REGAIN_S`, slowly around it, and then ever
faster, so that a limit that is gone is forgotten. Being a function of time it needs no writes to climb.
"""

from dataclasses import dataclass

from redis import Redis

FALL = 0.15
"""Share of the rate that a 429 takes away: less finds the limit late, more leaves it unused until it is regained."""

REGAIN_S = 20.0
"""Seconds until the rate is what it was at the 429: one or two 429s in 20 s of calls stay below 1 %."""

FORGET_S = 200
"""Seconds after a 429 when nothing is left of it: ten times REGAIN_S, where the curve is at 147 times the old rate."""

START_PER_S = 10.0
"""Requests per second that the first 429 leaves at least: a stray one on a quiet account tells nothing of its limit."""

FLOOR_PER_S = 5.0
"""Requests per second below which no 429 brings the rate: a provider that bears less has trouble, not a limit, and each
step's own back-off is the answer to that."""

SETTLE_S = 1.0
"""Seconds after a 429 in which further ones change nothing: they answer calls that were under way."""

PAUSE_S = 0.5
"""Seconds without a call after a 429 that names no Retry-After."""

BURST_S = 0.5
"""Seconds' worth of calls that may go at once after a lull: one number's handful must not be spread over a second."""

_SHARED = f"""
local stamp = redis.call('TIME')
local now = stamp[1] + stamp[2] / 1000000
local ceiling = tonumber(ARGV[1])
local pace = redis.call('HMGET', KEYS[1], 'next', 'peak', 'cut')
local due, peak, cut = tonumber(pace[1]) or 0, tonumber(pace[2]), tonumber(pace[3])
local rate = ceiling > 0 and ceiling or math.huge
if peak then
  rate = math.min(rate, peak * (1 + {FALL} * ((now - cut) / {REGAIN_S} - 1) ^ 3))
end
local function tally(calls)
  local seen = redis.call('HMGET', KEYS[2], 'at', 'count', 'before')
  local at, count, before = tonumber(seen[1]) or now, tonumber(seen[2]) or 0, tonumber(seen[3]) or 0
  if now - at >= 2 then
    at, count, before = now, 0, 0
  elseif now - at >= 1 then
    at, count, before = at + 1, 0, count
  end
  count = count + calls
  if calls ~= 0 then
    redis.call('HSET', KEYS[2], 'at', at, 'count', count, 'before', before)
    redis.call('EXPIRE', KEYS[2], 10)
  end
  return count + before * (1 - (now - at))
end
"""
"""Requests of the last second are told by two one-second windows, the older one weighted by what of it still counts."""

_TAKE = f"""{_SHARED}
local places, is_bulk, patience = tonumber(ARGV[2]), ARGV[3] == 'bulk', tonumber(ARGV[4])
local token, hold, unsaid = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
if places > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
  local left = places - redis.call('ZCARD', KEYS[3])
  if left <= (is_bulk and math.floor(places / 5) or 0) then
    tally(unsaid)
    return {{'full', '0'}}
  end
end
local wait = 0
if rate < math.huge then
  local slot = math.max(due, now - {BURST_S} + 1 / math.max(rate, 2))
  wait = math.max(0, slot - now)
  if wait > (is_bulk and 0 or patience) then
    tally(unsaid)
    return {{'early', tostring(wait)}}
  end
  redis.call('HSET', KEYS[1], 'next', slot + 1 / rate)
  if not peak then redis.call('EXPIRE', KEYS[1], {FORGET_S}) end
end
if places > 0 then
  redis.call('ZADD', KEYS[3], now + wait + hold, token)
  redis.call('EXPIRE', KEYS[3], math.ceil(wait + hold) + 1)
end
tally(unsaid + 1)
return {{rate < math.huge and 'paced' or places > 0 and 'counted' or 'open', tostring(wait)}}
"""
"""Singles take the next slot ahead of time; bulk takes one only when it is due, and leaves a fifth of the places."""

_CUT = f"""{_SHARED}
local retry_after, unsaid = tonumber(ARGV[2]), tonumber(ARGV[3])
local taken = tally(unsaid - 1)
if not cut or now - cut >= {SETTLE_S} then
  peak = math.max(math.min(rate, math.max(taken, {START_PER_S})), {FLOOR_PER_S} / (1 - {FALL}))
  redis.call('HSET', KEYS[1], 'peak', peak, 'cut', now, 'next', math.max(due, now + math.max(retry_after, {PAUSE_S})))
  redis.call('EXPIRE', KEYS[1], {FORGET_S} + math.ceil(retry_after))
elseif retry_after > 0 then
  redis.call('HSET', KEYS[1], 'next', math.max(due, now + retry_after))
end
return tostring(peak)
"""
"""What hurt is the rate in force, or, where none was, what the provider took in the last second."""

_LOOK = f"""{_SHARED}
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
return {{rate < math.huge and tostring(rate) or '', tostring(tally(0)), redis.call('ZCARD', KEYS[3])}}
"""


@dataclass(frozen=True)
class Place:
    """What a call was told. `paced`, `counted` and `open` let it in after `wait_s`; `early` and `full` do not."""

    told: str
    wait_s: float

    @property
    def is_taken(self) -> bool:
        """Whether the call may go, once `wait_s` has passed."""
        return self.told not in {"early", "full"}


@dataclass(frozen=True)
class Load:
    """What an account bears now."""

    allowed_per_s: float | None
    """Requests per second that it is given at most; None: no limit is in force."""
    sent_per_s: float
    """Requests that it took in the last second."""
    in_flight: int
    """Requests under way; counted only where their number is limited."""


class Pace:
    """The pace of one account. `account` is its key in Redis, without a secret."""

    def __init__(self, client: Redis, account: str, per_s: float | None, in_flight: int | None, hold_s: float) -> None:
        self.in_flight = in_flight
        self._client = client
        self._per_s = per_s or 0
        self._hold_s = hold_s
        # The braces keep the three on one node of a cluster.
        self._keys = [f"trunkline-governor:{{{account}}}:{name}" for name in ("pace", "seen", "in-flight")]
        self._take = client.register_script(_TAKE)
        self._cut = client.register_script(_CUT)
        self._look = client.register_script(_LOOK)

    def take(self, lane: str, token: str, patience_s: float, unsaid: int) -> Place:
        """Ask for a place within `patience_s`; `unsaid` are the calls made since without asking."""
        asked = (self._per_s, self.in_flight or 0, lane, patience_s, token, self._hold_s, unsaid)
        told, wait_s = self._take(self._keys, asked)
        return Place(told.decode(), float(wait_s))

    def leave(self, token: str) -> None:
        """Give the place back; one that nobody gives back is free after `hold_s`."""
        self._client.zrem(self._keys[2], token)

    def cut(self, retry_after_s: float | None, unsaid: int) -> float:
        """Slow everybody down after a 429; return the requests per second that were too many."""
        return float(self._cut(self._keys, (self._per_s, retry_after_s or 0, unsaid)))

    def look(self) -> Load:
        """Return what the account bears, and change nothing."""
        allowed, sent, in_flight = self._look(self._keys, (self._per_s,))
        return Load(float(allowed) if allowed else None, float(sent), int(in_flight))
