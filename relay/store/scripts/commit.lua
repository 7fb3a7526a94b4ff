-- The one way in which an order changes: state, sequence, events and wake-ups, together or not at all.
-- KEYS: order:R:O, log:R, ids:R, trail:R:O, live:R
-- ARGV: retailer, order, expected version, the version after it,
--   number of fields, then field/value pairs ('' deletes the field),
--   number of arms, then {letter, end of lease or '' when it is not the committer's, delay (ms) or '' to stop polling,
--     class} each,
--   number of events, then {id, type, sequence, body} each, the traceparent that they carry on or ''
-- Returns {'gone'}, {'conflict'}, or {'ok', now, stream id...}.
local retailer, order, expected = ARGV[1], ARGV[2], ARGV[3]
local known = redis.call('HMGET', KEYS[1], 'v', 'c', 't', 'g')
if not known[1] then
  return {'gone'}
end
if known[1] ~= expected then
  return {'conflict'}
end
local credential, tracking, status = known[2], known[3], known[4]
local now = now_ms()
-- A reading that began before the last good one of its resource is stale, whoever settled that one.
for i = 6, 5 + 2 * tonumber(ARGV[5]), 2 do
  if string.match(ARGV[i], '^w%a$') and ARGV[i + 1] ~= '' then
    if tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or '0') > tonumber(ARGV[i + 1]) then
      return {'conflict'}
    end
  end
end
-- The first write is one that a full Redis refuses, so that nothing is written by halves.
redis.call('HSET', KEYS[1], 'v', ARGV[4])
local at = 5
local fields = tonumber(ARGV[at])
for i = at + 1, at + 2 * fields, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[i])
  else
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
  if ARGV[i] == 't' then
    tracking = ARGV[i + 1]
    if tracking == 'ended' then
      redis.call('ZADD', P .. 'ended', now, retailer .. '/' .. order)
    end
  elseif ARGV[i] == 'g' then
    status = ARGV[i + 1]
  end
end
if tracking ~= known[3] then
  redis.call(tracking == 'suspended' and 'SADD' or 'SREM', P .. 'suspended', retailer .. '/' .. order)
end
census(credential, retailer, counted_stage(known[3], known[4]), counted_stage(tracking, status))
at = at + 2 * fields + 1
local arms = tonumber(ARGV[at])
local pool = credential .. '/' .. retailer
local claimed, soonest = P .. 'claimed:' .. pool, nil
for i = at + 1, at + 4 * arms, 4 do
  local arm, lease, delay, class = ARGV[i] .. '/' .. order, ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local score = redis.call('ZSCORE', claimed, arm)
  if delay == '' then
    lift_arm(pool, arm)
    redis.call('ZREM', claimed, arm)
  elseif score and lease ~= '' and tonumber(score) == tonumber(lease) then
    redis.call('ZREM', claimed, arm)
    if redis.call('SREM', P .. 'again:' .. pool, arm) == 1 then
      delay, class = '0', '0'
    end
    put_arm(credential, retailer, arm, class, now + tonumber(delay))
    soonest = math.min(soonest or now + delay, now + 0.25 * delay)
  elseif lease == '' then
    if score then
      -- It is being read: what that reading began before is not in it, so it is read again.
      if delay == '0' then
        redis.call('SADD', P .. 'again:' .. pool, arm)
      end
    else
      lift_arm(pool, arm)
      put_arm(credential, retailer, arm, class, now + tonumber(delay))
      soonest = math.min(soonest or now + delay, now + 0.25 * delay)
    end
  end
end
if soonest then
  stand(credential, retailer, soonest)
  ring('poll', 16)
end
at = at + 4 * arms + 1
local events = tonumber(ARGV[at])
local trace = ARGV[at + 4 * events + 1]
local out = {'ok', now}
for i = at + 1, at + 4 * events, 4 do
  local entry = {'i', ARGV[i], 't', ARGV[i + 1], 'o', order, 'q', ARGV[i + 2], 'b', ARGV[i + 3]}
  if trace ~= '' then
    entry[11], entry[12] = 'p', trace
  end
  local id = redis.call('XADD', KEYS[2], '*', unpack(entry))
  redis.call('HSET', KEYS[3], ARGV[i], id)
  redis.call('RPUSH', KEYS[4], id)
  out[#out + 1] = id
end
if events > 0 then
  mark_ready(redis.call('SMEMBERS', KEYS[5]), now)
end
return out
