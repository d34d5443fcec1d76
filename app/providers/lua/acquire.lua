-- Asks for one call. A single call takes the next slot ahead of time; a bulk call takes one only when it is due, and
-- leaves a fifth of the requests in flight to single calls.
local limit, is_bulk, max_wait = tonumber(ARGV[2]), ARGV[3] == 'bulk', tonumber(ARGV[4])
local token, hold, unreported = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
if limit > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
  local left = limit - redis.call('ZCARD', KEYS[3])
  if left <= (is_bulk and math.floor(limit / 5) or 0) then
    count(unreported)
    return {'full', '0'}
  end
end
local wait = 0
if rate < math.huge then
  local slot = math.max(due, now - BURST_S + 1 / math.max(rate, 2))
  wait = math.max(0, slot - now)
  if wait > (is_bulk and 0 or max_wait) then
    count(unreported)
    return {'too_early', tostring(wait)}
  end
  redis.call('HSET', KEYS[1], 'next', slot + 1 / rate)
  if not peak then redis.call('EXPIRE', KEYS[1], FORGET_S) end
end
if limit > 0 then
  redis.call('ZADD', KEYS[3], now + wait + hold, token)
  redis.call('EXPIRE', KEYS[3], math.ceil(wait + hold) + 1)
end
count(unreported + 1)
return {rate < math.huge and 'scheduled' or limit > 0 and 'counted' or 'unlimited', tostring(wait)}
