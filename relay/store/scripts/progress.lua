-- Write down what a deliver pump achieved for one subscription, and renew its lease. Refused without the lease.
-- KEYS: sub:S, ahead:S, lanes:S, dead:S, ready
-- ARGV: id, fence, serial of the batch, lease (ms), position ('' when it stands), relay-sequence at the position,
--   newly matched, delivered, dead; last error JSON ('' to leave, '-' to clear), gone: 1 when the receiver wants no
--   more (410), number of stream ids settled ahead of the position, then these; number of those the position passed,
--   then these; number of operations, then {kind, lane, a, b} each, in order:
--     park  entry a goes to the lane's end; b: delay (ms) until the lane's next attempt when it is a new lane
--     pop   the lane's head, stream id a, is done with
--     retry the lane's head becomes entry a, tried again after b ms
--     dead  stream id a goes to the dead letters for reason b
-- Returns {'lost'}, or {'ok', now, revision, enabled, lane that is now empty...}.
-- A batch that arrives a second time (the client repeats a command whose answer was lost) changes nothing.
local id, fence, serial = ARGV[1], ARGV[2], ARGV[3]
local held = redis.call('HMGET', KEYS[1], 'fence', 'owner', 'batch', 'rev', 'enabled')
if held[1] ~= fence or (held[2] or '') == '' then
  return {'lost'}
end
local now = now_ms()
local first_time = held[3] ~= fence .. '/' .. serial
-- The first write frees memory rather than needing it: a full Redis lets deliveries drain.
redis.call('HDEL', KEYS[1], 'none')
local at = 12
local function each(command, key)
  local count = tonumber(ARGV[at])
  if first_time then
    for i = at + 1, at + count do
      redis.call(command, key, ARGV[i])
    end
  end
  at = at + count + 1
end
each('SADD', KEYS[2])
each('SREM', KEYS[2])

local function operate(kind, name, a, b)
  local lane = P .. 'lane:' .. id .. ':' .. name
  if kind == 'park' then
    redis.call('RPUSH', lane, a)
    redis.call('ZADD', KEYS[3], 'NX', string.format('%.0f', now + tonumber(b)), name)
  elseif kind == 'pop' then
    local head = redis.call('LINDEX', lane, 0)
    if head and string.sub(head, 1, #a + 1) == a .. '/' then
      redis.call('LPOP', lane)
    end
  elseif kind == 'retry' then
    redis.call('LSET', lane, 0, a)
    redis.call('ZADD', KEYS[3], string.format('%.0f', now + tonumber(b)), name)
  elseif kind == 'dead' then
    redis.call('XADD', KEYS[4], 'MAXLEN', '~', 100000, '*', 'p', a, 'o', name, 'r', b)
  end
end

local touched = {}
for i = at + 1, at + 4 * tonumber(ARGV[at]), 4 do
  if first_time then
    operate(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
  end
  if ARGV[i] == 'pop' then
    touched[ARGV[i + 1]] = true
  end
end
local out = {'ok', now, held[4] or '0', held[5] or '0'}
for name in pairs(touched) do
  if redis.call('EXISTS', P .. 'lane:' .. id .. ':' .. name) == 0 then
    redis.call('ZREM', KEYS[3], name)
    out[#out + 1] = name
  end
end
if first_time then
  redis.call('HSET', KEYS[1], 'batch', fence .. '/' .. serial)
  if ARGV[5] ~= '' then
    redis.call('HSET', KEYS[1], 'pos', ARGV[5], 'pos_seq', ARGV[6])
  end
  redis.call('HINCRBY', KEYS[1], 'matched', ARGV[7])
  redis.call('HINCRBY', KEYS[1], 'delivered', ARGV[8])
  redis.call('HINCRBY', KEYS[1], 'dead', ARGV[9])
  if ARGV[10] == '-' then
    redis.call('HDEL', KEYS[1], 'last_error')
  elseif ARGV[10] ~= '' then
    redis.call('HSET', KEYS[1], 'last_error', ARGV[10])
  end
  if ARGV[11] == '1' then
    redis.call('HSET', KEYS[1], 'enabled', 0, 'disabled_reason', 'gone')
    out[3] = redis.call('HINCRBY', KEYS[1], 'rev', 1)
    out[4] = '0'
    redis.call('SREM', P .. 'live:' .. redis.call('HGET', KEYS[1], 'retailer'), id)
  end
end
redis.call('ZADD', KEYS[5], string.format('%.0f', now + tonumber(ARGV[4])), id)
return out
