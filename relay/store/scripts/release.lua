-- Give a subscription back. Between "nothing is left" and this call events may have come: then it stays ready.
-- KEYS: sub:S, lanes:S, ready
-- ARGV: id, fence, posts that are still in flight
-- Returns 1, or 0 when the lease was lost before.
local id, fence = ARGV[1], ARGV[2]
if redis.call('HGET', KEYS[1], 'fence') ~= fence or (redis.call('HGET', KEYS[1], 'owner') or '') == '' then
  return 0
end
redis.call('HDEL', KEYS[1], 'owner', 'flying')
if ARGV[3] ~= '0' then
  redis.call('HSET', KEYS[1], 'flying', ARGV[3])
end
local known = redis.call('HMGET', KEYS[1], 'retailer', 'pos', 'enabled', 'hold', 'beat_at', 'job')
if known[3] ~= '1' then
  redis.call('ZREM', KEYS[3], id)
  return 1
end
local now = now_ms()
local hold = tonumber(known[4] or '0')
local at
local function wanted(when)
  when = math.max(when, hold)
  if not at or when < at then
    at = when
  end
end
if known[6] or #redis.call('XRANGE', P .. 'log:' .. known[1], '(' .. known[2], '+', 'COUNT', 1) > 0 then
  wanted(now)
end
local lane = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
if lane[2] then
  wanted(tonumber(lane[2]))
end
if known[5] then
  wanted(tonumber(known[5]))
end
if not at then
  redis.call('ZREM', KEYS[3], id)
else
  redis.call('ZADD', KEYS[3], string.format('%.0f', at), id)
  if at <= now then
    ring('deliver', 16)
  end
end
return 1
