-- Erase an order: its state, its events, and what subscriptions, answers and caches keep of them. What remains of an
-- event is a line of ids and counts in `gone:R`, so that whoever counts the log counts on without a gap.
-- KEYS: order:R:O, orders:R, trail:R:O, log:R, gone:R, subs:R, answers:R:O
-- ARGV: retailer, order, minted tokens' keys...
-- Returns how many events were erased, or -1 when nothing was known of the order.
local retailer, order = ARGV[1], ARGV[2]
local trail = redis.call('LRANGE', KEYS[3], 0, -1)
local credential, tracking, status = unpack(redis.call('HMGET', KEYS[1], 'c', 't', 'g'))
if not credential and #trail == 0 then
  return -1
end
-- The first write frees memory: a full Redis purges too.
redis.call('DEL', KEYS[1], KEYS[3], P .. 'done:' .. retailer .. ':' .. order, unpack(ARGV, 3))
if credential then
  drop_arms(credential, retailer, order)
  census(credential, retailer, counted_stage(tracking, status), false)
end
redis.call('ZREM', KEYS[2], order)
redis.call('ZREM', P .. 'ended', retailer .. '/' .. order)
redis.call('SREM', P .. 'suspended', retailer .. '/' .. order)
for _, answer in ipairs(redis.call('SMEMBERS', KEYS[7])) do
  redis.call('DEL', answer)
end
redis.call('DEL', KEYS[7])

local erased, names = {}, {order, '\31' .. order}
for index, position in ipairs(trail) do
  local row = redis.call('XRANGE', KEYS[4], position, position)[1]
  if row then
    local field = {}
    for i = 1, #row[2], 2 do
      field[row[2][i]] = row[2][i + 1]
    end
    -- The event that tells of the purge holds nothing of the order, and is still to be delivered.
    local tells = index == #trail and field.t == 'order.tracking_ended' and string.find(field.b, '"reason":"purged"', 1, true)
    if tells then
      redis.call('RPUSH', KEYS[3], position)
    else
      redis.call('ZADD', KEYS[5], 0, tombstone(position, field.i, field.t, field.q, order))
      redis.call('XDEL', KEYS[4], position)
      erased[#erased + 1] = position
      names[#names + 1] = field.i
      names[#names + 1] = '\31' .. field.i
    end
  end
end

local subscriptions = redis.call('ZRANGE', KEYS[6], 0, -1)
local now = now_ms()
local live = {}
for _, id in ipairs(subscriptions) do
  for _, position in ipairs(erased) do
    redis.call('HDEL', attempts_key(id, position), position)
    for _, letter in ipairs(redis.call('ZRANGEBYSCORE', P .. 'dead:' .. id, ms_of(position), ms_of(position))) do
      if string.sub(letter, 1, #position + 1) == position .. '/' then
        redis.call('ZREM', P .. 'dead:' .. id, letter)
      end
    end
  end
  -- Lanes hold places and numbers only. They are due now, so that a pump clears them away.
  for _, name in ipairs(names) do
    redis.call('DEL', P .. 'fold:' .. id .. ':' .. name)
    redis.call('ZADD', P .. 'lanes:' .. id, 'XX', now, name)
  end
  redis.call('HINCRBY', P .. 'sub:' .. id, 'rang', 1)
  if redis.call('HGET', P .. 'sub:' .. id, 'enabled') == '1' then
    live[#live + 1] = id
  end
end
mark_ready(live, now)
return #erased
