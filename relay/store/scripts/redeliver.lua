-- Send one event once more, on request.
-- KEYS: sub:S, lanes:S, lane:S:L
-- ARGV: subscription, retailer, lane, entry, most that may wait to be sent on request
-- Returns {'ok'}, {'missing'}, {'disabled'} or {'busy'}.
local known = redis.call('HMGET', KEYS[1], 'retailer', 'enabled', 'replaying')
if known[1] ~= ARGV[2] then
  return {'missing'}
end
if known[2] ~= '1' then
  return {'disabled'}
end
if tonumber(known[3] or '0') >= tonumber(ARGV[5]) then
  return {'busy'}
end
local now = now_ms()
redis.call('RPUSH', KEYS[3], ARGV[4])
redis.call('ZADD', KEYS[2], 'NX', now, ARGV[3])
redis.call('HINCRBY', KEYS[1], 'replaying', 1)
redis.call('HINCRBY', KEYS[1], 'rang', 1)
mark_ready({ARGV[1]}, now)
return {'ok'}
