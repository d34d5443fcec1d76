-- Lowers the rate after a 429: from the rate in force, or, where none was, from what the provider took in the last
-- second. Returns the rate that was too high.
local retry_after, unreported = tonumber(ARGV[2]), tonumber(ARGV[3])
local taken = count(unreported - 1)
if not cut or now - cut >= SETTLE_S then
  peak = math.max(math.min(rate, math.max(taken, START_PER_S)), FLOOR_PER_S / (1 - FALL))
  redis.call('HSET', KEYS[1], 'peak', peak, 'cut', now, 'next', math.max(due, now + math.max(retry_after, PAUSE_S)))
  redis.call('EXPIRE', KEYS[1], FORGET_S + math.ceil(retry_after))
elseif retry_after > 0 then
  redis.call('HSET', KEYS[1], 'next', math.max(due, now + retry_after))
end
return tostring(peak)
