-- Delete a subscription with all it holds. An owner finds its lease gone and writes nothing any more.
-- What became of its events (att:S:*) expires by itself.
-- KEYS: sub:S, subs:R, live:R, ahead:S, lanes:S, dead:S, ready, jobs:S
-- ARGV: id, retailer
if redis.call('HGET', KEYS[1], 'retailer') ~= ARGV[2] then
  return 0
end
for _, lane in ipairs(redis.call('ZRANGE', KEYS[5], 0, -1)) do
  redis.call('DEL', P .. 'lane:' .. ARGV[1] .. ':' .. lane, P .. 'fold:' .. ARGV[1] .. ':' .. lane)
end
redis.call('DEL', KEYS[1], KEYS[4], KEYS[5], KEYS[6], KEYS[8])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('SREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[7], ARGV[1])
return 1
