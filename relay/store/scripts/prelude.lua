-- Put before every script: the clock, arms, and the two ways to wake somebody.
local P = 'relay:1:{0}:'

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- A command on one key for many arguments, or pairs of them: in parts, since a call in Lua takes a few thousand at most.
local function for_many(command, key, list)
  for first = 1, #list, 400 do
    redis.call(command, key, unpack(list, first, math.min(first + 399, #list)))
  end
end

-- Due arms. A pool is "<credential>/<retailer>", an arm in it "<resource letter>/<order>". Unclaimed arms stand in
-- classes by due time (relay/model/pacing.py says in which), claimed ones apart by the end of their lease.
local CLASSES = 16
local LETTERS = {'h', 'i', 'm', 'd', 'l', 'p'}

local function due_key(pool, class)
  return P .. 'due:' .. pool .. ':' .. class
end

-- Something of this pool can be claimed at `at`, if not before.
local function stand(credential, retailer, at)
  local text = string.format('%.0f', at)
  redis.call('ZADD', P .. 'pools:' .. credential, 'LT', text, retailer)
  redis.call('ZADD', P .. 'creds', 'LT', text, credential)
end

-- Let an arm stand in a class, due at `at`. It must not stand anywhere else.
local function put_arm(credential, retailer, arm, class, at)
  redis.call('ZADD', due_key(credential .. '/' .. retailer, class), string.format('%.0f', at), arm)
end

-- Take an unclaimed arm out of whichever class it stands in; says whether it was in one.
local function lift_arm(pool, arm)
  for class = 0, CLASSES - 1 do
    if redis.call('ZREM', due_key(pool, class), arm) == 1 then
      return true
    end
  end
  return false
end

-- No arm of the order is polled any more.
local function drop_arms(credential, retailer, order)
  local pool = credential .. '/' .. retailer
  for _, letter in ipairs(LETTERS) do
    local arm = letter .. '/' .. order
    if not lift_arm(pool, arm) then
      redis.call('ZREM', P .. 'claimed:' .. pool, arm)
    end
    redis.call('SREM', P .. 'again:' .. pool, arm)
  end
end

-- Make an arm due now. One that is being polled is due again as soon as it is put back.
local function hasten_arm(credential, retailer, arm, now)
  local pool = credential .. '/' .. retailer
  if redis.call('ZSCORE', P .. 'claimed:' .. pool, arm) then
    redis.call('SADD', P .. 'again:' .. pool, arm)
  else
    lift_arm(pool, arm)
    put_arm(credential, retailer, arm, 0, now)
  end
end

-- Count the orders by credential and retailer, and by stage. `from` and `to` are stages, false for none.
local function census(credential, retailer, from, to)
  if from == to then
    return
  end
  local load = P .. 'load:' .. credential
  local stages = P .. 'stages:' .. credential
  if from then
    redis.call('HINCRBY', stages, from, -1)
  end
  if to then
    redis.call('HINCRBY', stages, to, 1)
  end
  local step = (to and 1 or 0) - (from and 1 or 0)
  if step ~= 0 then
    local orders = redis.call('HINCRBY', load, retailer, step)
    redis.call('HINCRBY', load, '*', step)
    if orders == 0 then
      redis.call('HDEL', load, retailer)
    end
  end
end

-- The stage in which an order is counted: its status as committed, '' before the first reading, false once it has ended.
local function counted_stage(tracking, status)
  return tracking ~= 'ended' and (status or '')
end

-- Requests a second that a credential may make now (0: no limit): its budget, cut by what upstream refused and growing
-- back by 2 % in ten seconds. Without a budget, what was spent when upstream refused takes its place for a while.
local function allowed_rate(budget, now)
  local f = redis.call('HMGET', budget, 'rate', 'cut', 'cut_at', 'own')
  local rate, cut = tonumber(f[1] or '0') or 0, tonumber(f[2] or '')
  if not cut then
    return rate
  end
  local part = cut + 0.002 * (now - tonumber(f[3])) / 1000
  if rate > 0 then
    return rate * math.min(1, part)
  end
  local own = tonumber(f[4] or '0')
  return part < 2 and own * part or 0
end

-- Count what a credential spends in a second of the clock.
local function spent(budget, second, count, now, granted)
  local this = string.format('%.0f', math.floor(now / 1000))
  if second == this then
    redis.call('HINCRBY', budget, 'count', granted)
  else
    redis.call('HSET', budget, 'second', this, 'count', granted, 'last', count or '0')
  end
end

-- Count a grant in the second for which it was granted: send times of a credential only grow. `counts` is {second,
-- grants in it}; says whether that second now holds more than the budget (0: no limit).
local function exceeds(counts, at, rate)
  local second = math.floor(at / 1000)
  if second == counts[1] then
    counts[2] = counts[2] + 1
  else
    counts[1], counts[2] = second, 1
  end
  return rate > 0 and counts[2] == math.ceil(rate) + 1
end

-- The milliseconds of a stream id.
local function ms_of(position)
  return string.match(position, '^%d+')
end

-- What became of the events of ten minutes, for one subscription: small hashes that expire as a whole.
local function attempts_key(id, position)
  return P .. 'att:' .. id .. ':' .. string.format('%.0f', math.floor(tonumber(ms_of(position)) / 600000))
end

-- A place in the log as text that sorts as places do.
local function sortable(position)
  local ms, number = string.match(position, '^(%d+)-(%d+)$')
  return string.rep('0', 15 - #ms) .. ms .. '-' .. string.rep('0', 10 - #number) .. number
end

-- What remains of a purged event (relay/store/log.py reads it).
local function tombstone(position, event, kind, sequence, order)
  return sortable(position) .. '/' .. event .. '/' .. kind .. '/' .. sequence .. '/' .. order
end

-- Whether a place is that of a purged event.
local function purged(gone, position)
  local text = sortable(position)
  return #redis.call('ZRANGEBYLEX', gone, '[' .. text .. '/', '(' .. text .. '0', 'LIMIT', 0, 1) > 0
end

-- The last stream id of a log; '0-0' when it is empty.
local function tail_of(log)
  local tail = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)
  return tail[1] and tail[1][1] or '0-0'
end

-- Whether stream id a is at or behind b.
local function later(a, b)
  local ams, an = string.match(a, '^(%d+)-(%d+)$')
  local bms, bn = string.match(b, '^(%d+)-(%d+)$')
  ams, an, bms, bn = tonumber(ams), tonumber(an), tonumber(bms), tonumber(bn)
  return ams > bms or (ams == bms and an >= bn)
end

-- A wake-up is a hint: a full bell is not filled further, and an unheard one expires.
local function ring(name, depth)
  local bell = P .. 'bell:' .. name
  if redis.call('LLEN', bell) < depth then
    redis.call('LPUSH', bell, '1')
    redis.call('PEXPIRE', bell, 60000)
  end
end

-- Tell an owner which of its subscriptions has news. An owner that does not listen is told to look at all of them.
local function tell(owner, id)
  local bell = P .. 'bell:' .. owner
  local waiting = redis.call('LLEN', bell)
  if waiting <= 1000 then
    redis.call('RPUSH', bell, waiting < 1000 and id or '*')
    redis.call('PEXPIRE', bell, 60000)
  end
end

-- Something may be waiting for these subscriptions. An owned one keeps its lease and its owner is told; any other
-- is due at once, also when it was put off until a retry, unless its endpoint is on hold (circuit open, or too fast).
local function mark_ready(subscriptions, now)
  local unowned = 0
  for _, id in ipairs(subscriptions) do
    local held = redis.call('HMGET', P .. 'sub:' .. id, 'owner', 'hold')
    local hold = tonumber(held[2] or '0')
    if held[1] and held[1] ~= '' then
      if redis.call('ZADD', P .. 'ready', 'NX', now, id) == 0 then
        tell(held[1], id)
      end
    elseif hold > now then
      redis.call('ZADD', P .. 'ready', 'LT', string.format('%.0f', hold), id)
    else
      redis.call('ZADD', P .. 'ready', 'LT', now, id)
      unowned = unowned + 1
    end
  end
  if unowned > 0 then
    ring('deliver', 16)
  end
end
