-- Begins every script: the rate of an account now, and how many calls the provider took in the last second.
-- KEYS: the rate, the counts of the last seconds, the requests in flight. ARGV[1]: the configured rate, 0 for none.
local stamp = redis.call('TIME')
local now = stamp[1] + stamp[2] / 1000000
local ceiling = tonumber(ARGV[1])
local stored = redis.call('HMGET', KEYS[1], 'next', 'peak', 'cut')
local due, peak, cut = tonumber(stored[1]) or 0, tonumber(stored[2]), tonumber(stored[3])
local rate = ceiling > 0 and ceiling or math.huge
if peak then
  rate = math.min(rate, peak * (1 + FALL * ((now - cut) / REGAIN_S - 1) ^ 3))
end

-- Two one-second windows; the older one is weighted by the part of it that lies in the last second.
local function count(calls)
  local seen = redis.call('HMGET', KEYS[2], 'at', 'count', 'before')
  local at, current, before = tonumber(seen[1]) or now, tonumber(seen[2]) or 0, tonumber(seen[3]) or 0
  if now - at >= 2 then
    at, current, before = now, 0, 0
  elseif now - at >= 1 then
    at, current, before = at + 1, 0, current
  end
  current = current + calls
  if calls ~= 0 then
    redis.call('HSET', KEYS[2], 'at', at, 'count', current, 'before', before)
    redis.call('EXPIRE', KEYS[2], 10)
  end
  return current + before * (1 - (now - at))
end
