-- Put one snapshot in the place of a lane's first events. Refused when the lane is not what it was, or the lease is lost.
-- Refused as well when the order's state is not the one that the snapshot shows: it moved on, or was purged.
-- KEYS: sub:S, lane:S:L, fold:S:L, order:R:O
-- ARGV: fence, the state's registration and version, how many entries it stands for, the last of them, the entry that takes their place, event id, body,
--   relay-sequences it stands for, its order's sequence
-- Returns 1 when folded, 0 when not.
local held = redis.call('HMGET', KEYS[1], 'fence', 'owner')
if held[1] ~= ARGV[1] or (held[2] or '') == '' then
  return 0
end
local state = redis.call('HMGET', KEYS[4], 'r', 'v')
if state[1] ~= ARGV[2] or state[2] ~= ARGV[3] then
  return 0
end
local count = tonumber(ARGV[4])
if redis.call('LINDEX', KEYS[2], count - 1) ~= ARGV[5] then
  return 0
end
redis.call('HSET', KEYS[3], 'i', ARGV[7], 'b', ARGV[8], 'n', ARGV[9], 'q', ARGV[10])
redis.call('LTRIM', KEYS[2], count, -1)
redis.call('LPUSH', KEYS[2], ARGV[6])
redis.call('HINCRBY', KEYS[1], 'skipped', count - 1)
return 1
