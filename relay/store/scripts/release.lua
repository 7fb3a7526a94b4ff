-- Give a subscription back. Between "nothing is left" and this call events may have come: then it stays ready.
-- KEYS: sub:S, lanes:S, ready
-- ARGV: id, fence
-- Returns 1, or 0 when the lease was lost before.
local id, fence = ARGV[1], ARGV[2]
if redis.call('HGET', KEYS[1], 'fence') ~= fence or (redis.call('HGET', KEYS[1], 'owner') or '') == '' then
  return 0
end
redis.call('HDEL', KEYS[1], 'owner')
local known = redis.call('HMGET', KEYS[1], 'retailer', 'pos', 'enabled')
if known[3] ~= '1' then
  redis.call('ZREM', KEYS[3], id)
  return 1
end
local now = now_ms()
if #redis.call('XRANGE', P .. 'log:' .. known[1], '(' .. known[2], '+', 'COUNT', 1) > 0 then
  redis.call('ZADD', KEYS[3], string.format('%.0f', now), id)
  ring('deliver', 16)
  return 1
end
local lane = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
if lane[2] then
  redis.call('ZADD', KEYS[3], lane[2], id)
else
  redis.call('ZREM', KEYS[3], id)
end
return 1
