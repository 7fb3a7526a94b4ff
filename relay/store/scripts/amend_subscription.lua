-- Change a subscription's configuration; whoever owns it is told, and reads it again before it goes on.
-- KEYS: sub:S, live:R, log:R, ready, subs:R
-- ARGV: id, retailer, new event type patterns JSON ('' to leave), enabled ('1', '0', or '' to leave),
--   disabled reason, then field/value pairs of the hash ('' deletes)
-- Returns {'ok'}, {'missing'}, or {'duplicate', id} when another subscription of the retailer has the new URL.
-- New filters hold for events behind the end of the log as it is now: what was matched before stays matched, so that
-- relay-sequences do not depend on when a pump looks.
local id = ARGV[1]
if redis.call('HGET', KEYS[1], 'retailer') ~= ARGV[2] then
  return {'missing'}
end
for i = 6, #ARGV, 2 do
  if ARGV[i] == 'url' and ARGV[i + 1] ~= redis.call('HGET', KEYS[1], 'url') then
    for _, other in ipairs(redis.call('ZRANGE', KEYS[5], 0, -1)) do
      if redis.call('HGET', P .. 'sub:' .. other, 'url') == ARGV[i + 1] then
        return {'duplicate', other}
      end
    end
  end
end
local now = now_ms()
redis.call('HINCRBY', KEYS[1], 'rev', 1)
if ARGV[3] ~= '' then
  local tail = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)
  local from = tail[1] and tail[1][1] or '0-0'
  local epochs = cjson.decode(redis.call('HGET', KEYS[1], 'filters'))
  epochs[#epochs + 1] = {from, cjson.decode(ARGV[3])}
  redis.call('HSET', KEYS[1], 'filters', cjson.encode(epochs))
end
for i = 6, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[i])
  else
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
local owner = redis.call('HGET', KEYS[1], 'owner')
if ARGV[4] == '1' then
  redis.call('HSET', KEYS[1], 'enabled', 1)
  redis.call('HDEL', KEYS[1], 'disabled_reason')
  redis.call('SADD', KEYS[2], id)
elseif ARGV[4] == '0' then
  redis.call('HSET', KEYS[1], 'enabled', 0, 'disabled_reason', ARGV[5])
  redis.call('SREM', KEYS[2], id)
  if not owner or owner == '' then
    redis.call('ZREM', KEYS[4], id)
  end
end
if redis.call('HGET', KEYS[1], 'enabled') == '1' then
  mark_ready({id}, now)
elseif owner and owner ~= '' then
  ring(owner, 1)
end
return {'ok'}
