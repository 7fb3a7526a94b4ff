-- Change a subscription's configuration; whoever owns it is told, and reads it again before it goes on.
-- KEYS: sub:S, live:R, log:R, ready, subs:R
-- ARGV: id, retailer, revision as read, new event type patterns JSON ('' to leave), enabled ('1', '0', or '' to leave),
--   what to do with what waits when it is enabled (all, latest, skip), disabled reason, URL, then field/value pairs of
--   the hash ('' deletes)
-- Returns {'ok'}, {'missing'}, {'changed'} when the revision moved on, or {'duplicate', id} when another subscription of
-- the retailer has the URL.
-- New filters hold for events behind the end of the log as it is now: what was matched before stays matched, so that
-- relay-sequences do not depend on when a pump looks.
local id, url = ARGV[1], ARGV[8]
local known = redis.call('HMGET', KEYS[1], 'retailer', 'rev', 'url', 'enabled', 'pos', 'filters', 'skips', 'health')
if known[1] ~= ARGV[2] then
  return {'missing'}
end
if (known[2] or '0') ~= ARGV[3] then
  return {'changed'}
end
local now = now_ms()

-- The record of an endpoint that nothing is known of (`moved` in relay/model/circuit.py): the failures of the URL before
-- count no more, and one try may be made at once. Written by hand: cjson takes an empty list for an object.
local function begin_record(health)
  redis.call('HDEL', KEYS[1], 'hold', 'health')
  if health then
    local before = cjson.decode(health)
    redis.call('HSET', KEYS[1], 'health', string.format(
      '{"circuit":"%s","mourned_ms":%.0f,"reopened_ms":%.0f,"told_before":%s}',
      before.circuit == 'closed' and 'closed' or 'open', before.mourned_ms or 0, before.reopened_ms or 0,
      tostring(before.told or before.told_before or false)))
  end
end

if url ~= known[3] then
  for _, other in ipairs(redis.call('ZRANGE', KEYS[5], 0, -1)) do
    if redis.call('HGET', P .. 'sub:' .. other, 'url') == url then
      return {'duplicate', other}
    end
  end
  redis.call('HSET', KEYS[1], 'url', url)
  begin_record(known[8])
end
redis.call('HINCRBY', KEYS[1], 'rev', 1)
local tail = tail_of(KEYS[3])
if ARGV[4] ~= '' then
  -- Patterns that nothing behind the position refers to are forgotten once there are many.
  local epochs = cjson.decode(known[6])
  while #epochs > 32 and later(known[5], epochs[2][1]) do
    table.remove(epochs, 1)
    redis.call('HSET', KEYS[1], 'pruned', 1)
  end
  epochs[#epochs + 1] = {tail, cjson.decode(ARGV[4])}
  redis.call('HSET', KEYS[1], 'filters', cjson.encode(epochs))
end
for i = 9, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[i])
  else
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
local owner = redis.call('HGET', KEYS[1], 'owner')
if ARGV[5] == '1' then
  if known[4] ~= '1' then
    redis.call('HSET', KEYS[1], 'enabled', 1, 'enabled_at', now)
    redis.call('HDEL', KEYS[1], 'disabled_reason', 'hold')
    redis.call('SADD', KEYS[2], id)
  end
  if ARGV[6] == 'latest' then
    redis.call('HSET', KEYS[1], 'fold_to', tail)
  elseif ARGV[6] == 'skip' then
    local skips = known[7] and cjson.decode(known[7]) or {}
    skips[#skips + 1] = {known[5], tail}
    while #skips > 20 do
      table.remove(skips, 1)
    end
    redis.call('HSET', KEYS[1], 'skips', cjson.encode(skips))
  end
elseif ARGV[5] == '0' and known[4] == '1' then
  redis.call('HSET', KEYS[1], 'enabled', 0, 'disabled_reason', ARGV[7])
  redis.call('SREM', KEYS[2], id)
  if not owner or owner == '' then
    redis.call('ZREM', KEYS[4], id)
  end
end
if redis.call('HGET', KEYS[1], 'enabled') == '1' then
  mark_ready({id}, now)
elseif owner and owner ~= '' then
  tell(owner, id)
end
return {'ok'}
