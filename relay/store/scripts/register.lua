-- Begin to track an order, unless it is tracked already.
-- KEYS: order:R:O, orders:R
-- ARGV: retailer, order, credential, letters of the resources to read first, then field/value pairs of the order's hash
-- Returns 1 when it was created, 0 when it was there.
local retailer, order, credential = ARGV[1], ARGV[2], ARGV[3]
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
local now = now_ms()
redis.call('HSET', KEYS[1], 'r', now, 'c', credential, 'v', 0, 'q', 0, 't', 'active', unpack(ARGV, 5))
redis.call('ZADD', KEYS[2], now, order)
for letter in string.gmatch(ARGV[4], '%a') do
  put_arm(credential, retailer, letter .. '/' .. order, 1, now)
end
census(credential, retailer, false, '')
stand(credential, retailer, now)
ring('poll', 16)
return 1
