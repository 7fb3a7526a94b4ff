-- Forget an order: its state, its arms, its place in the lists. Its events leave the log with their retention, and the
-- trail that leads to them with the last one.
-- KEYS: order:R:O, orders:R
-- ARGV: retailer, order
local credential, tracking, status = unpack(redis.call('HMGET', KEYS[1], 'c', 't', 'g'))
if not credential then
  return 0
end
drop_arms(credential, ARGV[1], ARGV[2])
census(credential, ARGV[1], counted_stage(tracking, status), false)
redis.call('DEL', KEYS[1], P .. 'done:' .. ARGV[1] .. ':' .. ARGV[2])
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('ZREM', P .. 'ended', ARGV[1] .. '/' .. ARGV[2])
redis.call('SREM', P .. 'suspended', ARGV[1] .. '/' .. ARGV[2])
return 1
