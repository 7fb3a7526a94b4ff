-- Move a subscription that nobody owns over events that retention is about to take: those it never read are dead, and
-- counted as such.
-- KEYS: sub:S, ahead:S
-- ARGV: fence as read, position as read, new position, matched among them, skipped among them, then those settled ahead
-- Returns 1, or 0 when the subscription moved on or is owned.
local held = redis.call('HMGET', KEYS[1], 'fence', 'owner', 'pos')
if (held[1] or '') ~= ARGV[1] or (held[2] or '') ~= '' or held[3] ~= ARGV[2] then
  return 0
end
local ahead = #ARGV - 5
for i = 6, #ARGV do
  redis.call('SREM', KEYS[2], ARGV[i])
end
redis.call('HSET', KEYS[1], 'pos', ARGV[3])
redis.call('HINCRBY', KEYS[1], 'pos_seq', ARGV[4])
redis.call('HINCRBY', KEYS[1], 'matched', ARGV[4])
redis.call('HINCRBY', KEYS[1], 'skipped', ARGV[5])
redis.call('HINCRBY', KEYS[1], 'dead', tonumber(ARGV[4]) - tonumber(ARGV[5]) - ahead)
return 1
