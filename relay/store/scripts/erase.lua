-- Forget an order: its state, its arms, its place in the lists. Its events leave the log with their retention, and the
-- trail that leads to them with the last one.
-- KEYS: order:R:O, orders:R
-- ARGV: retailer, order
local credential = redis.call('HGET', KEYS[1], 'c')
if not credential then
  return 0
end
for _, letter in ipairs({'h', 'i', 'm'}) do
  redis.call('ZREM', P .. 'due:' .. credential, letter .. '/' .. ARGV[1] .. '/' .. ARGV[2])
end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('ZREM', P .. 'ended', ARGV[1] .. '/' .. ARGV[2])
return 1
