-- Reads the allowed rate, the calls of the last second and the requests in flight.
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
return {rate < math.huge and tostring(rate) or '', tostring(count(0)), redis.call('ZCARD', KEYS[3])}
