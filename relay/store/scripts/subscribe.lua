-- Create a subscription at a place in its retailer's log.
-- KEYS: sub:S, subs:R, live:R, log:R, ready
-- ARGV: id, retailer, where to start (stream id, or '$' for the end of the log), event type patterns JSON,
--   URL, enabled, most subscriptions, then field/value pairs of the hash
-- Returns {'ok', start}, {'limit'} or {'duplicate', id}.
local id, retailer, start = ARGV[1], ARGV[2], ARGV[3]
local others = redis.call('ZRANGE', KEYS[2], 0, -1)
if #others >= tonumber(ARGV[7]) then
  return {'limit'}
end
for _, other in ipairs(others) do
  if redis.call('HGET', P .. 'sub:' .. other, 'url') == ARGV[5] then
    return {'duplicate', other}
  end
end
local now = now_ms()
if start == '$' then
  start = tail_of(KEYS[4])
  -- Retention may have emptied the log: the next event lies behind this moment in any case.
  if start == '0-0' and redis.call('EXISTS', KEYS[4]) == 1 then
    start = string.format('%.0f', now - 1) .. '-0'
  end
end
redis.call('HSET', KEYS[1], 'retailer', retailer, 'url', ARGV[5], 'enabled', ARGV[6], 'start', start, 'pos', start,
  'pos_seq', 0, 'rev', 1, 'created', now, 'enabled_at', now, 'filters', '[["' .. start .. '",' .. ARGV[4] .. ']]', unpack(ARGV, 8))
redis.call('ZADD', KEYS[2], now, id)
if ARGV[6] == '1' then
  redis.call('SADD', KEYS[3], id)
  redis.call('ZADD', KEYS[5], now, id)
  ring('deliver', 16)
end
return {'ok', start}
