-- The one way in which an order changes: state, sequence, events and wake-ups, together or not at all.
-- KEYS: order:R:O, log:R, ids:R, trail:R:O, live:R
-- ARGV: retailer, order, expected version,
--   number of fields, then field/value pairs ('' deletes the field),
--   number of arms, then {letter, end of lease or '' for whoever holds it, delay (ms) or '' to stop polling} each,
--   number of events, then {id, type, sequence, body} each
-- Returns {'gone'}, {'conflict'}, or {'ok', now, stream id...}.
local retailer, order, expected = ARGV[1], ARGV[2], ARGV[3]
local known = redis.call('HMGET', KEYS[1], 'v', 'c', 'q')
if not known[1] then
  return {'gone'}
end
if known[1] ~= expected then
  return {'conflict'}
end
local credential = known[2]
local now = now_ms()
-- A reading that began before the last good one of its resource is stale, whoever settled that one.
for i = 5, 4 + 2 * tonumber(ARGV[4]), 2 do
  if string.match(ARGV[i], '^w%a$') and ARGV[i + 1] ~= '' then
    if tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or '0') > tonumber(ARGV[i + 1]) then
      return {'conflict'}
    end
  end
end
-- The first write is one that a full Redis refuses, so that nothing is written by halves.
redis.call('HSET', KEYS[1], 'v', tonumber(expected) + 1)
local at = 4
local fields = tonumber(ARGV[at])
for i = at + 1, at + 2 * fields, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[i])
  else
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
  if ARGV[i] == 't' and ARGV[i + 1] == 'ended' then
    redis.call('ZADD', P .. 'ended', now, retailer .. '/' .. order)
  end
end
at = at + 2 * fields + 1
local arms = tonumber(ARGV[at])
local due = P .. 'due:' .. credential
for i = at + 1, at + 3 * arms, 3 do
  local arm = ARGV[i] .. '/' .. retailer .. '/' .. order
  local lease, delay = ARGV[i + 1], ARGV[i + 2]
  if delay == '' then
    redis.call('ZREM', due, arm)
  else
    local score = redis.call('ZSCORE', due, arm)
    if lease == '' or (score and tonumber(score) == tonumber(lease)) then
      redis.call('ZADD', due, string.format('%.0f', now + tonumber(delay)), arm)
    end
  end
end
if arms > 0 then
  reindex(credential, 0, 0)
  ring('poll', 16)
end
at = at + 3 * arms + 1
local events = tonumber(ARGV[at])
local out = {'ok', now}
for i = at + 1, at + 4 * events, 4 do
  local id = redis.call('XADD', KEYS[2], '*', 'i', ARGV[i], 't', ARGV[i + 1], 'o', order, 'q', ARGV[i + 2], 'b', ARGV[i + 3])
  redis.call('HSET', KEYS[3], ARGV[i], id)
  redis.call('RPUSH', KEYS[4], id)
  out[#out + 1] = id
end
if events > 0 then
  mark_ready(redis.call('SMEMBERS', KEYS[5]), now)
end
return out
