-- Begin to track an order, unless it is tracked already.
-- KEYS: order:R:O, orders:R
-- ARGV: retailer, order, credential, then field/value pairs of the order's hash
-- Returns 1 when it was created, 0 when it was there.
local retailer, order, credential = ARGV[1], ARGV[2], ARGV[3]
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
local now = now_ms()
redis.call('HSET', KEYS[1], 'r', now, 'c', credential, 'v', 0, 'q', 0, 't', 'active', unpack(ARGV, 4))
redis.call('ZADD', KEYS[2], now, order)
for _, letter in ipairs({'h', 'i', 'm'}) do
  redis.call('ZADD', P .. 'due:' .. credential, now, letter .. '/' .. retailer .. '/' .. order)
end
redis.call('ZADD', P .. 'creds', 'LT', now, credential)
ring('poll', 16)
return 1
