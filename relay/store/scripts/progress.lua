-- Write down what a deliver pump achieved for one subscription, and renew its lease. Refused without the lease.
-- KEYS: sub:S, ahead:S, lanes:S, dead:S, ready
-- ARGV: id, fence, serial of the batch, a JSON object (below), then five lists, each its number of rows and its rows:
--   stream ids settled ahead of the position · those of them that the position passed · {stream id, attempt} to keep
--   {kind, lane, a, b}, in order:
--     park   entry a goes to the lane's end; b: delay (ms) until the lane's next attempt when it is a new lane
--     pop    the lane's head, stream id a, is done with
--     retry  the lane's head becomes entry a, tried again after b ms
--     dead   stream id a goes to the dead letters for reason b
--     revive stream id a was delivered on request: if it is a dead letter, it is one no longer
--   {id, type, body} of events about this subscription, for the retailer's other ones
-- The object: lease (ms); pos and seq when the position moved; counts matched, delivered, dead, skipped, replayed;
--   error ('-' clears it); disable: why; health, hold (ms), tat (ms), beat (ms): written as they are; url: the endpoint
--   of which health, hold and disable speak: they are passed over once the subscription has another; wake: parked lanes
--   are due now; flying: posts in flight; latest: what waits now is to be folded; keep: how long attempts are kept (ms).
-- Returns {'lost'}, or {'ok', now, revision, enabled, fold_to, lane that is now empty...}.
-- A batch that arrives a second time (the client repeats a command whose answer was lost) changes nothing. One that does
-- not follow the last that is written here is refused: Redis lost what came between, and its position and counts go on
-- from there.
local id, fence, serial = ARGV[1], ARGV[2], ARGV[3]
local head = cjson.decode(ARGV[4])
local held = redis.call('HMGET', KEYS[1], 'fence', 'owner', 'batch', 'retailer', 'url')
if held[1] ~= fence or (held[2] or '') == '' then
  return {'lost'}
end
local retailer = held[4]
local moved = head.url and head.url ~= held[5]
local now = now_ms()
local first_time = held[3] ~= fence .. '/' .. serial
local mine = string.match(held[3] or '', '^' .. fence .. '/(%d+)$')
if first_time and tonumber(mine or '0') + 1 ~= tonumber(serial) then
  return {'lost'}
end
-- The first write frees memory rather than needing it: a full Redis lets deliveries drain.
redis.call('HDEL', KEYS[1], 'none')
local at = 5
local function rows(width, act)
  local last = at + width * tonumber(ARGV[at])
  if first_time then
    for i = at + 1, last, width do
      act(i)
    end
  end
  at = last + 1
end
rows(1, function(i) redis.call('SADD', KEYS[2], ARGV[i]) end)
rows(1, function(i) redis.call('SREM', KEYS[2], ARGV[i]) end)
local buckets = {}
local gone = P .. 'gone:' .. retailer
local purges = redis.call('EXISTS', gone) == 1
rows(2, function(i)
  if purges and purged(gone, ARGV[i]) then
    return -- what a receiver answered may repeat what was purged while the event was on its way
  end
  local bucket = attempts_key(id, ARGV[i])
  local known = redis.call('HGET', bucket, ARGV[i])
  if not known then
    redis.call('HSET', bucket, ARGV[i], ARGV[i + 1])
  elseif #known < 8192 then
    redis.call('HSET', bucket, ARGV[i], known .. ARGV[i + 1])
  end
  buckets[bucket] = true
end)
for bucket in pairs(buckets) do
  redis.call('PEXPIRE', bucket, string.format('%.0f', head.keep))
end

local function dead_letter(position)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], ms_of(position), ms_of(position))) do
    if string.sub(member, 1, #position + 1) == position .. '/' then
      return member
    end
  end
end

local function operate(kind, name, a, b)
  local lane = P .. 'lane:' .. id .. ':' .. name
  if kind == 'park' then
    redis.call('RPUSH', lane, a)
    redis.call('ZADD', KEYS[3], 'NX', string.format('%.0f', now + tonumber(b)), name)
  elseif kind == 'pop' then
    local first = redis.call('LINDEX', lane, 0)
    if first and string.sub(first, 1, #a + 1) == a .. '/' then
      redis.call('LPOP', lane)
      if string.sub(first, -2) == '/f' then
        redis.call('DEL', P .. 'fold:' .. id .. ':' .. name)
      end
    end
  elseif kind == 'retry' then
    redis.call('LSET', lane, 0, a)
    redis.call('ZADD', KEYS[3], string.format('%.0f', now + tonumber(b)), name)
  elseif kind == 'dead' then
    redis.call('ZADD', KEYS[4], ms_of(a), a .. '/' .. b)
  elseif kind == 'revive' then
    local letter = dead_letter(a)
    if letter then
      redis.call('ZREM', KEYS[4], letter)
      redis.call('HINCRBY', KEYS[1], 'dead', -1)
      redis.call('HINCRBY', KEYS[1], 'delivered', 1)
    end
  end
end

local touched = {}
for i = at + 1, at + 4 * tonumber(ARGV[at]), 4 do
  if ARGV[i] == 'pop' then
    touched[ARGV[i + 1]] = true
  end
end
rows(4, function(i) operate(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]) end)
local emptied = {}
for name in pairs(touched) do
  if redis.call('EXISTS', P .. 'lane:' .. id .. ':' .. name) == 0 then
    redis.call('ZREM', KEYS[3], name)
    emptied[#emptied + 1] = name
  end
end
rows(3, function(i)
  if moved and ARGV[i + 1] == 'subscription.disabled' then
    return
  end
  local position = redis.call('XADD', P .. 'log:' .. retailer, '*', 'i', ARGV[i], 't', ARGV[i + 1], 'o', '', 'q', 0, 's', id,
    'b', ARGV[i + 2])
  redis.call('HSET', P .. 'ids:' .. retailer, ARGV[i], position)
  mark_ready(redis.call('SMEMBERS', P .. 'live:' .. retailer), now)
end)

local function write()
  redis.call('HSET', KEYS[1], 'batch', fence .. '/' .. serial, 'flying', head.flying)
  if head.pos then
    redis.call('HSET', KEYS[1], 'pos', head.pos, 'pos_seq', string.format('%.0f', head.seq))
  end
  for _, name in ipairs({'matched', 'delivered', 'dead', 'skipped'}) do
    if head[name] then
      redis.call('HINCRBY', KEYS[1], name, string.format('%.0f', head[name]))
    end
  end
  if head.replayed then
    redis.call('HINCRBY', KEYS[1], 'replaying', string.format('%.0f', -head.replayed))
  end
  if head.error == '-' then
    redis.call('HDEL', KEYS[1], 'last_error')
  elseif head.error then
    redis.call('HSET', KEYS[1], 'last_error', head.error)
  end
  if moved then
    head.health, head.hold, head.disable = nil, nil, nil
  end
  if head.health then
    redis.call('HSET', KEYS[1], 'health', head.health)
  end
  for name, field in pairs({hold = 'hold', tat = 'tat', beat = 'beat_at'}) do
    if head[name] then
      redis.call('HSET', KEYS[1], field, string.format('%.0f', head[name]))
    end
  end
  if head.wake then
    for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], string.format('(%.0f', now), '+inf')) do
      redis.call('ZADD', KEYS[3], string.format('%.0f', now), name)
    end
  end
  if head.latest then
    redis.call('HSET', KEYS[1], 'fold_to', tail_of(P .. 'log:' .. retailer))
  end
  if head.disable then
    redis.call('HSET', KEYS[1], 'enabled', 0, 'disabled_reason', head.disable)
    redis.call('HINCRBY', KEYS[1], 'rev', 1)
    redis.call('SREM', P .. 'live:' .. retailer, id)
    redis.call('XADD', P .. 'audit:' .. retailer, 'MAXLEN', '~', 100000, '*', 'a', 'subscription.disabled', 'k', 'relay', 'o', id,
      'r', '', 'u', 'ok', 'd', cjson.encode({reason = head.disable}))
  end
end
if first_time then
  write()
end
redis.call('ZADD', KEYS[5], string.format('%.0f', now + head.lease), id)
local state = redis.call('HMGET', KEYS[1], 'rev', 'enabled', 'fold_to')
return {'ok', now, state[1] or '0', state[2] or '0', state[3] or '', unpack(emptied)}
