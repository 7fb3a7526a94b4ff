-- Put before every script: the clock, arms, and the two ways to wake somebody.
local P = 'relay:1:{0}:'

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- An arm is "<resource letter>/<retailer>/<order>"; only the order's id may contain a slash.
local function split_arm(arm)
  local letter, retailer, order = string.match(arm, '^(%a)/([^/]*)/(.*)$')
  return letter, retailer, order
end

-- When the next arm of a credential can be claimed: its head's due time, or later when the budget is spent.
local function reindex(credential, tat, rate)
  local head = redis.call('ZRANGE', P .. 'due:' .. credential, 0, 0, 'WITHSCORES')
  if not head[1] then
    redis.call('ZREM', P .. 'creds', credential)
    return nil
  end
  local at = tonumber(head[2])
  if rate and rate > 0 then
    at = math.max(at, tat)
  end
  redis.call('ZADD', P .. 'creds', string.format('%.0f', at), credential)
  return at
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
